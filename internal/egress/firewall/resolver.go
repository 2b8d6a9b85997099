package firewall

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	upstreamTimeout = 2 * time.Second // of one question to one server
	upstreamRounds  = 2               // over all servers
	upstreamAtOnce  = 1024            // questions under way, all sandboxes together
	maxAnswers      = 16              // addresses kept of one answer
	maxChain        = 8               // CNAMEs followed
	maxCached       = 10000           // questions
	minCached       = time.Second
	maxCachedTTL    = time.Hour
	negativeTTL     = 30 * time.Second
	resolvPath      = "/etc/resolv.conf"
)

// lookup is what is known of a name and a type of address.
type lookup struct {
	exists  bool // false: NXDOMAIN
	addrs   []netip.Addr
	expires time.Time
}

type question struct {
	name string
	typ  dnsmessage.Type
}

// resolver asks the upstream servers, and remembers answers for as long as they
// say, within bounds. It judges nothing.
type resolver struct {
	servers []netip.AddrPort // empty: those of resolvPath
	under   chan struct{}

	mu       sync.Mutex
	cache    map[question]lookup
	host     []netip.AddrPort
	hostRead time.Time
}

func newResolver(servers []netip.AddrPort) *resolver {
	return &resolver{servers: servers, under: make(chan struct{}, upstreamAtOnce), cache: map[question]lookup{}}
}

// lookup returns the addresses of a name. It fails when no server gave an answer.
func (r *resolver) lookup(ctx context.Context, q question) (lookup, error) {
	r.mu.Lock()
	found, held := r.cache[q]
	r.mu.Unlock()
	if held && time.Now().Before(found.expires) {
		return found, nil
	}
	select {
	case r.under <- struct{}{}:
		defer func() { <-r.under }()
	case <-ctx.Done():
		return lookup{}, ctx.Err()
	}
	found, err := r.chase(ctx, q)
	if err != nil {
		return lookup{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for old := range r.cache {
		if len(r.cache) < maxCached {
			break
		}
		delete(r.cache, old)
	}
	r.cache[q] = found
	return found, nil
}

// chase follows CNAMEs that a server left for us to follow.
func (r *resolver) chase(ctx context.Context, q question) (lookup, error) {
	ttl := maxCachedTTL
	name := q.name
	for range maxChain {
		m, err := r.ask(ctx, question{name, q.typ})
		if err != nil {
			return lookup{}, err
		}
		got := collect(m, name, q.typ)
		ttl = min(ttl, got.ttl)
		if len(got.addrs) > 0 || got.end == name || m.RCode == dnsmessage.RCodeNameError {
			if len(got.addrs) == 0 {
				ttl = min(ttl, negativeTTL)
			}
			return lookup{
				exists:  m.RCode == dnsmessage.RCodeSuccess,
				addrs:   got.addrs,
				expires: time.Now().Add(max(ttl, minCached)),
			}, nil
		}
		name = got.end
	}
	return lookup{}, fmt.Errorf("%s is an alias more than %d times over", q.name, maxChain)
}

// collected is what one answer says of a name.
type collected struct {
	addrs []netip.Addr
	end   string // the last alias; the name itself when it is none
	ttl   time.Duration
}

// collect takes the addresses of a name out of an answer, through the aliases in
// it, and nothing that the answer says of other names.
func collect(m *dnsmessage.Message, name string, typ dnsmessage.Type) collected {
	c := collected{end: name, ttl: maxCachedTTL}
	for range maxChain {
		next := ""
		for _, a := range m.Answers {
			owner, err := wireName(a.Header.Name)
			if err != nil || owner != c.end || a.Header.Class != dnsmessage.ClassINET {
				continue
			}
			switch body := a.Body.(type) {
			case *dnsmessage.AResource:
				if typ == dnsmessage.TypeA {
					c.add(netip.AddrFrom4(body.A), a.Header.TTL)
				}
			case *dnsmessage.AAAAResource:
				if typ == dnsmessage.TypeAAAA {
					c.add(netip.AddrFrom16(body.AAAA), a.Header.TTL)
				}
			case *dnsmessage.CNAMEResource:
				if target, err := wireName(body.CNAME); err == nil {
					next = target
					c.ttl = min(c.ttl, time.Duration(a.Header.TTL)*time.Second)
				}
			}
		}
		if len(c.addrs) > 0 || next == "" {
			return c
		}
		c.end = next
	}
	return c
}

func (c *collected) add(a netip.Addr, ttl uint32) {
	if len(c.addrs) < maxAnswers {
		c.addrs = append(c.addrs, a)
		c.ttl = min(c.ttl, time.Duration(ttl)*time.Second)
	}
}

// ask puts one question to the servers in turn.
func (r *resolver) ask(ctx context.Context, q question) (*dnsmessage.Message, error) {
	servers, err := r.upstreams()
	if err != nil {
		return nil, err
	}
	var last error
	for range upstreamRounds {
		for _, server := range servers {
			m, err := exchange(ctx, server, q)
			if err == nil {
				return m, nil
			}
			last = err
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
		}
	}
	return nil, last
}

// upstreams returns the servers to ask. Those of the host are read again when
// they may have changed.
func (r *resolver) upstreams() ([]netip.AddrPort, error) {
	if len(r.servers) > 0 {
		return r.servers, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.host != nil && time.Since(r.hostRead) < 5*time.Second {
		return r.host, nil
	}
	text, err := os.ReadFile(resolvPath)
	if err != nil {
		return nil, fmt.Errorf("name servers of the host: %w", err)
	}
	r.host, r.hostRead = parseResolv(string(text)), time.Now()
	if len(r.host) == 0 {
		return nil, fmt.Errorf("%s names no server: name one with --egress-dns", resolvPath)
	}
	return r.host, nil
}

func parseResolv(text string) []netip.AddrPort {
	var servers []netip.AddrPort
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil {
			servers = append(servers, netip.AddrPortFrom(a, 53))
		}
	}
	return servers
}

// exchange asks one server over UDP, from a port that the kernel chooses at
// random, and over TCP when the answer was cut.
func exchange(ctx context.Context, server netip.AddrPort, q question) (*dnsmessage.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, upstreamTimeout)
	defer cancel()
	var seed [2]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return nil, err
	}
	id := binary.BigEndian.Uint16(seed[:])
	query, err := packQuery(id, q)
	if err != nil {
		return nil, err
	}
	m, err := overUDP(ctx, server, query, id, q)
	if err == nil && m.Truncated {
		m, err = overTCP(ctx, server, query, id, q)
	}
	if err != nil {
		return nil, fmt.Errorf("name server %s: %w", server, err)
	}
	if m.RCode != dnsmessage.RCodeSuccess && m.RCode != dnsmessage.RCodeNameError {
		return nil, fmt.Errorf("name server %s answered %s", server, m.RCode)
	}
	return m, nil
}

func packQuery(id uint16, q question) ([]byte, error) {
	name, err := dnsmessage.NewName(q.name + ".")
	if err != nil {
		return nil, err
	}
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: id, RecursionDesired: true})
	b.EnableCompression()
	var opt dnsmessage.ResourceHeader
	err = errors.Join(
		b.StartQuestions(),
		b.Question(dnsmessage.Question{Name: name, Type: q.typ, Class: dnsmessage.ClassINET}),
		b.StartAdditionals(),
		opt.SetEDNS0(maxUDP, dnsmessage.RCodeSuccess, false),
		b.OPTResource(opt, dnsmessage.OPTResource{}),
	)
	if err != nil {
		return nil, err
	}
	return b.Finish()
}

func dialUpstream(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		err = conn.SetDeadline(deadline)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func overUDP(ctx context.Context, server netip.AddrPort, query []byte, id uint16, q question) (*dnsmessage.Message, error) {
	conn, err := dialUpstream(ctx, "udp", server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if _, err := conn.Write(query); err != nil {
		return nil, err
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		// What is not the answer to this question came from somebody who guesses.
		if m, err := unpackAnswer(buf[:n], id, q); err == nil {
			return m, nil
		}
	}
}

func overTCP(ctx context.Context, server netip.AddrPort, query []byte, id uint16, q question) (*dnsmessage.Message, error) {
	conn, err := dialUpstream(ctx, "tcp", server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	framed := append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)
	if _, err := conn.Write(framed); err != nil {
		return nil, err
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, err
	}
	buf := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(conn, buf); err != nil {
		return nil, err
	}
	m, err := unpackAnswer(buf, id, q)
	if err == nil {
		// Over TCP nothing is cut, whatever the server says.
		m.Truncated = false
	}
	return m, err
}

// unpackAnswer takes only the answer to this very question.
func unpackAnswer(b []byte, id uint16, q question) (*dnsmessage.Message, error) {
	var p dnsmessage.Parser
	h, err := p.Start(b)
	if err != nil {
		return nil, err
	}
	if !h.Response || h.ID != id {
		return nil, errors.New("not an answer to our question")
	}
	asked, err := p.AllQuestions()
	if err != nil {
		return nil, err
	}
	if len(asked) != 1 || asked[0].Type != q.typ || asked[0].Class != dnsmessage.ClassINET {
		return nil, errors.New("another question")
	}
	if name, err := wireName(asked[0].Name); err != nil || name != q.name {
		return nil, errors.New("another name")
	}
	m := &dnsmessage.Message{Header: h}
	if h.Truncated {
		return m, nil
	}
	for {
		a, err := p.Answer()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return m, nil
		}
		if err != nil {
			return nil, err
		}
		m.Answers = append(m.Answers, a)
	}
}
