package httpserver

import (
	"container/list"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox"
)

// Listener bounds the connections of clients, so that they cannot take the
// descriptors that runs, the store and the watch over memory need. A connection
// is idle while no request of it is being served. When there are too many, an
// idle one is closed: the longest idle of those that never had a request with a
// key, and only then one of a client that is known. A new one is refused only when
// every other is being served. Of idle connections without a key an address may
// have a share. Loopback has no such bound: a proxy in front of the server has all
// of its connections from there.
type Listener struct {
	*net.TCPListener
	most, perAddress int
	plain            bool // refusals can be written as HTTP
	full             func() bool
	log              *slog.Logger
	refusing         chan struct{} // a place for each refusal that is being read
	closed           *prometheus.CounterVec

	mu      sync.Mutex
	open    map[*connection]bool
	keyless *list.List         // those that wait and never had a key, the longest waiting first
	known   *list.List         // the others that wait
	waiting map[netip.Addr]int // how many there are in keyless
	warned  time.Time
}

// connection is one of them.
type connection struct {
	*net.TCPConn
	all  *Listener
	addr netip.Addr
	// queue is where it waits, and place where in it; both nil while a request is
	// served.
	queue *list.List
	place *list.Element
	known bool // it had a request with a key
}

// refusalsAtOnce is how many refusals wait for their clients to read them.
const refusalsAtOnce = 16

// NewListener bounds the connections of a listener to most, 0 for a quarter of
// the descriptors that the process may have; overTLS says that what is accepted
// speaks TLS.
func NewListener(l *net.TCPListener, most int, overTLS bool, log *slog.Logger) *Listener {
	descriptors := maxDescriptors()
	if most == 0 {
		most = max(descriptors/4, 16)
	}
	return &Listener{
		TCPListener: l, most: most, perAddress: max(most/4, 4), plain: !overTLS,
		full: fewDescriptors(descriptors), log: log, refusing: make(chan struct{}, refusalsAtOnce),
		open: map[*connection]bool{}, keyless: list.New(), known: list.New(), waiting: map[netip.Addr]int{},
		closed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "agentsandbox_http_connections_closed_total",
			Help: "Connections closed to keep within max_connections: idle, address (of one that had too many), or refused.",
		}, []string{"reason"}),
	}
}

// Most is how many connections there may be.
func (l *Listener) Most() int { return l.most }

// Collectors are the metrics.
func (l *Listener) Collectors() []prometheus.Collector {
	return []prometheus.Collector{l.closed, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "agentsandbox_http_connections", Help: "Connections of clients that are open.",
	}, func() float64 {
		l.mu.Lock()
		defer l.mu.Unlock()
		return float64(len(l.open))
	})}
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		tcp, err := l.AcceptTCP()
		if err != nil {
			return nil, err
		}
		remote, _ := tcp.RemoteAddr().(*net.TCPAddr)
		c := &connection{TCPConn: tcp, all: l, addr: remote.AddrPort().Addr().Unmap()}
		if l.admit(c) {
			return c, nil
		}
		l.refuse(tcp)
	}
}

// admit makes room for a connection, and tells whether there is any.
func (l *Listener) admit(c *connection) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !c.addr.IsLoopback() && l.waiting[c.addr] >= l.perAddress {
		l.closeLongest(c.addr, "address")
	}
	if len(l.open) >= l.most || l.full() {
		if !l.closeLongest(netip.Addr{}, "idle") {
			if now := time.Now(); now.Sub(l.warned) > time.Minute {
				l.warned = now
				l.log.Warn("connections are refused: all that there may be are being served", "connections", len(l.open), "max_connections", l.most)
			}
			return false
		}
	}
	l.open[c] = true
	l.enqueue(c)
	return true
}

// closeLongest closes the connection that waits longest, of one address without a
// key or of all; false when none waits.
func (l *Listener) closeLongest(of netip.Addr, why string) bool {
	for _, queue := range []*list.List{l.keyless, l.known} {
		for e := queue.Front(); e != nil; e = e.Next() {
			if c, _ := e.Value.(*connection); !of.IsValid() || c.addr == of {
				l.forget(c)
				l.closed.WithLabelValues(why).Inc()
				_ = c.TCPConn.Close() // its server notices
				return true
			}
		}
	}
	return false
}

func (l *Listener) enqueue(c *connection) {
	c.queue = l.known
	if !c.known {
		c.queue = l.keyless
		l.waiting[c.addr]++
	}
	c.place = c.queue.PushBack(c)
}

func (l *Listener) dequeue(c *connection) {
	if c.place == nil {
		return
	}
	c.queue.Remove(c.place)
	if c.queue == l.keyless {
		if l.waiting[c.addr]--; l.waiting[c.addr] == 0 {
			delete(l.waiting, c.addr)
		}
	}
	c.queue, c.place = nil, nil
}

func (l *Listener) forget(c *connection) {
	delete(l.open, c)
	l.dequeue(c)
}

// serving notes that a request of the connection is served, or that it waits.
func (c *connection) serving(served bool) {
	l := c.all
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case !l.open[c]:
	case served:
		l.dequeue(c)
	case c.place == nil:
		l.enqueue(c)
	}
}

// MarkKnown notes that the request of a context came with a valid key: its
// connection is closed later than those of strangers.
func MarkKnown(ctx context.Context) {
	if c, ok := ctx.Value(connectionKey{}).(*connection); ok {
		c.all.mu.Lock()
		defer c.all.mu.Unlock()
		c.known = true // it is being served, and so in no queue
	}
}

// Close implements net.Conn.
func (c *connection) Close() error {
	c.all.mu.Lock()
	c.all.forget(c)
	c.all.mu.Unlock()
	return c.TCPConn.Close()
}

// refuse tells a client to come again, if few others are being told.
func (l *Listener) refuse(c *net.TCPConn) {
	l.closed.WithLabelValues("refused").Inc()
	select {
	case l.refusing <- struct{}{}:
	default:
		_ = c.Close()
		return
	}
	go func() {
		defer func() { <-l.refusing }()
		defer func() { _ = c.Close() }()
		if !l.plain {
			return
		}
		// No request is read, so the surface that it is for is not known: the body is
		// the one that clients of our own API read.
		body := fmt.Sprintf(`{"error":{"code":%q,"message":"The server serves as many connections as it may; try again shortly.","details":[],"request_id":%q}}`+"\n",
			agentsandbox.CodeUnavailable, agentsandbox.NewID("req_"))
		_ = c.SetDeadline(time.Now().Add(time.Second))
		_, _ = fmt.Fprintf(c, "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		// What the client sends meanwhile is read, or the answer would be lost with it.
		if c.CloseWrite() == nil {
			_, _ = c.Read(make([]byte, 4<<10))
		}
	}()
}

type connectionKey struct{}

// connContext keeps a connection in the context of its requests.
func connContext(ctx context.Context, c net.Conn) context.Context {
	if tls, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = tls.NetConn()
	}
	if ours, ok := c.(*connection); ok {
		return context.WithValue(ctx, connectionKey{}, ours)
	}
	return ctx
}

// whileServed keeps connections from being closed while requests of theirs are
// served.
func whileServed(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(connectionKey{}).(*connection); ok {
			c.serving(true)
			defer c.serving(false)
		}
		handler.ServeHTTP(w, r)
	})
}

// maxDescriptors is how many descriptors the process may have: the hard limit, to
// which package os raises the soft one.
func maxDescriptors() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 1024
	}
	return int(min(limit.Cur, 1<<20))
}

// countEvery is how often descriptors are counted at most.
const countEvery = 100 * time.Millisecond

// fewDescriptors returns a function that tells whether only the reserve is left:
// an eighth, for what is under way already. Its caller calls it one at a time.
func fewDescriptors(most int) func() bool {
	var counted time.Time
	var used int
	return func() bool {
		if now := time.Now(); now.Sub(counted) >= countEvery {
			counted = now
			entries, err := os.ReadDir("/proc/self/fd")
			if used = len(entries); err != nil {
				used = most // there was none left to look with
			}
		} else {
			used++ // one more connection since
		}
		return used+max(most/8, 32) > most
	}
}
