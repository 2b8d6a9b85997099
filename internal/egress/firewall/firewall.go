// Package firewall decides what sandboxes may reach, resolves their names, dials
// for them, and counts what they do.
//
// It owns the policy of each sandbox (a Gate, which is an egress.Handler), the
// resolver, the pins between names and addresses, the relaying of bytes, and the
// putting of secrets into requests on their way out. It must not know gVisor,
// packets, sessions or stores: what it is given are connections and queries.
//
// Whatever cannot be judged is refused: a name that was not resolved here, an
// address that is not public, bytes that make no sense where names must match. A
// failure of its own (no interface list, no upstream) refuses, too.
package firewall

import (
	"crypto/x509"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
)

// Limits bound one sandbox. A field that is 0 takes the value of DefaultLimits.
type Limits struct {
	Connections       int   // open at once
	ConnectsPerSecond int   // new ones; twice Connections may come in one burst
	Bytes             int64 // both directions together, over its life; negative: no limit
	BytesPerSecond    int64 // each direction; negative: no limit
	Queries           int64 // of DNS, over its life
	QueriesPerSecond  int   // of DNS; five seconds' worth may come in one burst
	// Names, and for each registered domain NamesPerDomain and
	// NameBytesPerDomain, bound the distinct names asked for in an hour.
	Names, NamesPerDomain, NameBytesPerDomain int
	Dial                                      time.Duration // until the other side accepts
	Hello                                     time.Duration // until the first bytes can be judged
	Idle                                      time.Duration // without a byte in either direction
}

// DefaultLimits leave room for package managers and test suites, and none for
// tunnels worth having.
func DefaultLimits() Limits {
	return Limits{
		Connections:       1024,
		ConnectsPerSecond: 100,
		Bytes:             -1,
		BytesPerSecond:    -1,
		Queries:           100_000,
		QueriesPerSecond:  100,
		Names:             5000,
		NamesPerDomain:    300, NameBytesPerDomain: 8 << 10,
		Dial:  10 * time.Second,
		Hello: 10 * time.Second,
		Idle:  10 * time.Minute,
	}
}

func (l Limits) withDefaults() Limits {
	d := DefaultLimits()
	setInt := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	set64 := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	setTime := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	setInt(&l.Connections, d.Connections)
	setInt(&l.ConnectsPerSecond, d.ConnectsPerSecond)
	set64(&l.Bytes, d.Bytes)
	set64(&l.BytesPerSecond, d.BytesPerSecond)
	set64(&l.Queries, d.Queries)
	setInt(&l.QueriesPerSecond, d.QueriesPerSecond)
	setInt(&l.Names, d.Names)
	setInt(&l.NamesPerDomain, d.NamesPerDomain)
	setInt(&l.NameBytesPerDomain, d.NameBytesPerDomain)
	setTime(&l.Dial, d.Dial)
	setTime(&l.Hello, d.Hello)
	setTime(&l.Idle, d.Idle)
	return l
}

// Config is what all gates share. Only Log is required.
type Config struct {
	Limits Limits
	// Connections bounds those of all sandboxes together; 0: half as many as the
	// process may have descriptors, so that a flood leaves the API its own.
	Connections int
	// Upstreams are asked for names; empty: those of the host's /etc/resolv.conf.
	Upstreams []netip.AddrPort
	// CA, when given, lets secrets be put into TLS, too.
	CA *CA
	// Roots judge the servers behind an intercepted connection; nil: the host's.
	Roots    *x509.CertPool
	Observer Observer
	Log      *slog.Logger
}

// Firewall is what the gates of all sandboxes share: the resolver with its
// cache, the host's addresses, the configuration.
type Firewall struct {
	config   Config
	limits   Limits
	log      *slog.Logger
	resolver *resolver
	own      *ownAddresses
	open     atomic.Int64 // connections of all gates
}

// New makes a Firewall. It holds nothing that needs closing.
func New(c Config) *Firewall {
	if c.Connections == 0 {
		c.Connections = defaultConnections()
	}
	return &Firewall{
		config: c, limits: c.Limits.withDefaults(), log: c.Log,
		resolver: newResolver(c.Upstreams), own: newOwnAddresses(),
	}
}

func defaultConnections() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 512
	}
	return int(min(limit.Cur/2, 1<<20))
}

// kindOf says what an address is on this host.
func (fw *Firewall) kindOf(a netip.Addr) kind {
	k := kindOf(a)
	if k.class >= classHard {
		return k
	}
	own, err := fw.own.has(a)
	if in, ok := inner(a); ok && err == nil && !own {
		own, err = fw.own.has(in)
	}
	if err != nil {
		fw.log.Error("reading the host's addresses: refusing", "error", err)
		return kind{classMetadata, "unknown"}
	}
	if own {
		return kind{classOwn, "this host's own"}
	}
	return k
}

// Gate is the firewall of one sandbox. It implements egress.Handler.
type Gate struct {
	fw      *Firewall
	id      string
	limits  *Limits
	secrets atomic.Pointer[[]Secret]
	pins    pins
	budget  budget
	ledger  ledger
	notes   notebook
	tallies tallies

	lookups           chan struct{} // under way
	connects, queries *rate.Limiter
	inRate, outRate   *rate.Limiter // nil: no limit

	mu       sync.Mutex
	policy   *Policy
	flows    map[*flow]struct{}
	admitted int // connections, those that are still being dialled included
	closed   bool
}

// Gate makes the firewall of a sandbox, which is named by id in logs.
func (fw *Firewall) Gate(id string, p *Policy, secrets []Secret) *Gate {
	l := &fw.limits
	g := &Gate{
		fw: fw, id: id, limits: l, policy: p,
		budget:   budget{limits: l},
		connects: rate.NewLimiter(rate.Limit(l.ConnectsPerSecond), 2*l.Connections),
		queries:  rate.NewLimiter(rate.Limit(l.QueriesPerSecond), 5*l.QueriesPerSecond),
		lookups:  make(chan struct{}, lookupsAtOnce),
		flows:    map[*flow]struct{}{},
	}
	g.secrets.Store(&secrets)
	if l.BytesPerSecond > 0 {
		// A burst is at least one buffer, or a read of one could never be paid for.
		burst := int(max(l.BytesPerSecond/4, bigBuffer))
		g.inRate = rate.NewLimiter(rate.Limit(l.BytesPerSecond), burst)
		g.outRate = rate.NewLimiter(rate.Limit(l.BytesPerSecond), burst)
	}
	return g
}

// Policy returns the policy in force.
func (g *Gate) Policy() *Policy {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.policy
}

// SetPolicy replaces the policy. Open connections that it does not allow are cut
// before it returns.
func (g *Gate) SetPolicy(p *Policy) {
	g.mu.Lock()
	g.policy = p
	flows := make([]*flow, 0, len(g.flows))
	for f := range g.flows {
		flows = append(flows, f)
	}
	g.mu.Unlock()
	for _, f := range flows {
		if v := f.rejudge(p); !v.Allowed {
			v.Rule = "policy replaced: " + v.Rule
			f.cut(v)
		}
	}
}

// SetSecrets replaces the secrets, for requests that come from now on.
func (g *Gate) SetSecrets(secrets []Secret) { g.secrets.Store(&secrets) }

// Close cuts all connections and refuses what comes after; it does not fail. The calls of TCP that
// are under way return soon afterwards; who made them waits for them.
func (g *Gate) Close() error {
	g.mu.Lock()
	g.closed = true
	flows := make([]*flow, 0, len(g.flows))
	for f := range g.flows {
		flows = append(flows, f)
	}
	g.mu.Unlock()
	for _, f := range flows {
		f.close()
	}
	return nil
}

// Stats returns the sandbox's totals.
func (g *Gate) Stats() Stats {
	s := g.ledger.stats()
	g.mu.Lock()
	s.Open = int64(len(g.flows))
	g.mu.Unlock()
	return s
}

// Log returns the sandbox's network log, oldest first, and how many older
// entries are gone.
func (g *Gate) Log() (entries []Entry, gone int64) { return g.ledger.entries() }

// count writes an entry wherever it belongs.
func (g *Gate) count(e Entry) {
	g.ledger.write(e)
	g.notes.refusal(e)
	g.tallies.add(e)
	if o := g.fw.config.Observer; o != nil {
		o.Egress(e.Kind, e.Verdict, e.Reason)
	}
}

// admit counts a connection against the caps; release undoes it.
func (g *Gate) admit() Verdict {
	if !g.connects.Allow() {
		return refused(ReasonLimit, "more than %d new connections a second", g.limits.ConnectsPerSecond)
	}
	if g.spent() {
		return refused(ReasonLimit, "more than %d bytes", g.limits.Bytes)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return refused(ReasonOff, "the sandbox is ending")
	}
	if g.admitted >= g.limits.Connections {
		return refused(ReasonLimit, "more than %d connections at once", g.limits.Connections)
	}
	if g.fw.open.Add(1) > int64(g.fw.config.Connections) {
		g.fw.open.Add(-1)
		return refused(ReasonLimit, "more than %d connections of all sandboxes", g.fw.config.Connections)
	}
	g.admitted++
	return allowed("within the caps")
}

func (g *Gate) release() {
	g.mu.Lock()
	g.admitted--
	g.mu.Unlock()
	g.fw.open.Add(-1)
}

func (g *Gate) spent() bool {
	return g.limits.Bytes > 0 && g.ledger.in.Load()+g.ledger.out.Load() >= g.limits.Bytes
}

func (g *Gate) admitQuery() Verdict {
	if g.ledger.queries.Load() >= g.limits.Queries {
		return refused(ReasonLimit, "more than %d queries", g.limits.Queries)
	}
	if !g.queries.Allow() {
		return refused(ReasonLimit, "more than %d queries a second", g.limits.QueriesPerSecond)
	}
	return allowed("within the caps")
}
