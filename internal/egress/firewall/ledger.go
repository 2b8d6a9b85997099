package firewall

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Entry is one line of a sandbox's network log.
type Entry struct {
	// At is when it happened first, and Count how often in a row.
	At    time.Time
	Count int
	// Kind is dns, tcp, tls or http: what it was recognised as.
	Kind    string
	Name    string // that was asked for, or that the connection bears; may be empty
	Address netip.Addr
	Port    uint16
	// Verdict is allowed, refused (before a byte passed), cut (afterwards) or
	// failed (the other side).
	Verdict string
	Reason  Reason
	Rule    string
	// Class is what sort of address a refusal by range was for.
	Class string
}

// The verdicts of an Entry.
const (
	VerdictAllowed = "allowed"
	VerdictRefused = "refused"
	VerdictCut     = "cut"
	VerdictFailed  = "failed"
)

func entryFor(kind, name string, dst netip.AddrPort, v Verdict) Entry {
	e := Entry{Kind: kind, Name: name, Address: dst.Addr(), Port: dst.Port(), Verdict: VerdictRefused, Reason: v.Reason, Rule: v.Rule, Class: v.class}
	switch {
	case v.Allowed:
		e.Verdict = VerdictAllowed
	case v.Reason == ReasonUpstream:
		e.Verdict = VerdictFailed
	}
	return e
}

func (e Entry) cut() Entry { e.Verdict = VerdictCut; return e }

// Stats are a sandbox's totals.
type Stats struct {
	Connections int64 // accepted since the start
	Open        int64 // now
	BytesIn     int64 // to the sandbox
	BytesOut    int64 // from it
	Queries     int64
	// Refusals counts what was refused, cut or failed, by reason.
	Refusals map[Reason]int64
	// Names counts how often each name was asked for, allowed or not. NamesLeftOut
	// is how many queries went uncounted once the map was full.
	Names        map[string]int64
	NamesLeftOut int64
}

// Observer counts for metrics. It must not block. Reasons are a closed set.
type Observer interface {
	// Egress is called for each decision.
	Egress(kind, verdict string, reason Reason)
	// EgressBytes is called once per connection, when it ends.
	EgressBytes(in, out int64)
}

const (
	logEntries = 512  // kept of each sandbox
	logNames   = 2048 // counted of each sandbox
	ruleBytes  = 256
)

// ledger keeps what one sandbox did with the network, in bounded space.
type ledger struct {
	in, out, connections, queries atomic.Int64

	mu           sync.Mutex
	ring         []Entry
	next         int
	left         int64 // entries that fell out
	refusals     map[Reason]int64
	names        map[string]int64
	namesLeftOut int64
}

// write adds an entry; one like the last only counts.
func (l *ledger) write(e Entry) {
	e.Rule = cut(e.Rule, ruleBytes)
	e.At, e.Count = time.Now().UTC(), 1
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.Verdict != VerdictAllowed {
		if l.refusals == nil {
			l.refusals = map[Reason]int64{}
		}
		l.refusals[e.Reason]++
	}
	if e.Kind == "dns" {
		l.queries.Add(1)
		l.name(e.Name)
	}
	if len(l.ring) > 0 {
		last := &l.ring[(l.next+len(l.ring)-1)%len(l.ring)]
		same := *last
		same.At, same.Count = e.At, 1
		if same == e {
			last.Count++
			return
		}
	}
	if len(l.ring) < logEntries {
		l.ring = append(l.ring, e)
		l.next = 0
		return
	}
	l.ring[l.next] = e
	l.next = (l.next + 1) % len(l.ring)
	l.left++
}

func (l *ledger) name(name string) {
	if name == "" {
		return
	}
	if _, known := l.names[name]; !known && len(l.names) >= logNames {
		l.namesLeftOut++
		return
	}
	if l.names == nil {
		l.names = map[string]int64{}
	}
	l.names[name]++
}

// entries returns the log, oldest first, and how many entries fell out of it.
func (l *ledger) entries() ([]Entry, int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]Entry, 0, len(l.ring))
	out = append(out, l.ring[l.next:]...)
	return append(out, l.ring[:l.next]...), l.left
}

func (l *ledger) stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Stats{
		Connections: l.connections.Load(), BytesIn: l.in.Load(), BytesOut: l.out.Load(), Queries: l.queries.Load(),
		Refusals: map[Reason]int64{}, Names: map[string]int64{}, NamesLeftOut: l.namesLeftOut,
	}
	for r, n := range l.refusals {
		s.Refusals[r] = n
	}
	for name, n := range l.names {
		s.Names[name] = n
	}
	return s
}
