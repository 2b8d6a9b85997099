package firewall

import (
	"net/netip"
	"sort"
	"sync"
	"time"
)

const (
	// Programs keep addresses longer than their TTL says.
	minPin = 30 * time.Minute
	maxPin = 2 * time.Hour
	// maxPins bounds the pairs of name and address that one sandbox holds.
	maxPins = 8192
)

// pins remembers which names our resolver gave which addresses to one sandbox.
// A name counts for an address only while it is pinned to it.
type pins struct {
	mu     sync.Mutex
	byAddr map[netip.Addr]map[string]time.Time // until when
	count  int
}

func (p *pins) add(name string, addrs []netip.Addr, ttl time.Duration, now time.Time) {
	until := now.Add(min(max(ttl, minPin), maxPin))
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range addrs {
		if _, held := p.byAddr[a][name]; !held {
			if p.count >= maxPins {
				p.evict(now)
			}
			p.count++
		}
		if p.byAddr == nil {
			p.byAddr = map[netip.Addr]map[string]time.Time{}
		}
		if p.byAddr[a] == nil {
			p.byAddr[a] = map[string]time.Time{}
		}
		p.byAddr[a][name] = until
	}
}

// evict drops what has expired, or else a sixteenth of the rest, whichever it
// meets: a sandbox that holds so many lookups cannot choose what others lose.
func (p *pins) evict(now time.Time) {
	p.drop(func(until time.Time) bool { return now.After(until) })
	if p.count < maxPins {
		return
	}
	left := maxPins / 16
	p.drop(func(time.Time) bool { left--; return left >= 0 })
}

func (p *pins) drop(which func(until time.Time) bool) {
	for a, names := range p.byAddr {
		for name, until := range names {
			if which(until) {
				delete(names, name)
				p.count--
			}
		}
		if len(names) == 0 {
			delete(p.byAddr, a)
		}
	}
}

// names returns the names pinned to an address, in order.
func (p *pins) names(a netip.Addr, now time.Time) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var names []string
	for name, until := range p.byAddr[a] {
		if now.Before(until) {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return names
}

// holds reports whether a name is pinned to an address.
func (p *pins) holds(name string, a netip.Addr, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	until, held := p.byAddr[a][name]
	return held && now.Before(until)
}
