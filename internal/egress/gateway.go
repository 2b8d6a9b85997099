package egress

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// Limits bound what one link may take of the daemon.
type Limits struct {
	// Connections bounds those that exist at once, in both directions. One more is
	// reset.
	Connections int
	// Pending bounds those that are neither accepted nor refused. One more waits:
	// the sandbox asks for it again after a second.
	Pending int
	// BufferBytes is what the buffers of all connections come to, as long as there
	// are not so many that each has the smallest there is, which is 48 KiB.
	BufferBytes int64
}

// DefaultLimits are those of a Gateway without others.
var DefaultLimits = Limits{Connections: 2048, Pending: 1024, BufferBytes: 48 << 20}

// Options configure a Gateway.
type Options struct {
	// Handler returns what decides about a sandbox's connections. A handler that
	// is an io.Closer is closed with the link.
	Handler func(sandbox string) Handler
	// Limits are each link's; zero: DefaultLimits.
	Limits Limits
	// Logger gets what concerns the operator; nil: nothing is logged.
	Logger *slog.Logger
}

// Gateway makes links, one for a sandbox, and knows those there are. It
// implements [runtime.Network].
type Gateway struct {
	opts Options

	mu     sync.Mutex
	links  map[string]*Link
	closed bool
}

var _ runtime.Network = (*Gateway)(nil)

// errClosed says that the gateway makes no links any more.
var errClosed = errors.New("the network gateway is closed")

// New makes a gateway without links.
func New(opts Options) *Gateway {
	if opts.Limits == (Limits{}) {
		opts.Limits = DefaultLimits
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	return &Gateway{opts: opts, links: map[string]*Link{}}
}

// queueBytes is how much of what was sent a socket holds until it is read. Linux
// counts the memory that packets take, twice their bytes for small ones.
const queueBytes = 2 << 20

// Connect implements [runtime.Network].
func (g *Gateway) Connect(id string) (runtime.Link, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("link of sandbox %s: %w", id, err)
	}
	for _, fd := range fds {
		if err := growQueue(fd); err != nil {
			unix.Close(fds[0])
			unix.Close(fds[1])
			return nil, fmt.Errorf("link of sandbox %s: %w", id, err)
		}
	}
	sandbox := os.NewFile(uintptr(fds[0]), "device")
	l, err := g.link(id, fds[1])
	if err != nil {
		sandbox.Close()
		return nil, err
	}
	l.sandbox = sandbox
	return l, nil
}

// growQueue asks for queueBytes, or for what the host gives to one that is not
// its administrator.
func growQueue(fd int) error {
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, queueBytes)
	if errors.Is(err, unix.EPERM) {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, queueBytes)
	}
	return err
}

// Adopt implements [runtime.Network].
func (g *Gateway) Adopt(id string, host *os.File) (runtime.Link, error) {
	defer host.Close()
	if err := checkSocket(host); err != nil {
		return nil, fmt.Errorf("link of sandbox %s: %w", id, err)
	}
	fd, err := unix.FcntlInt(host.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("link of sandbox %s: %w", id, err)
	}
	l, err := g.link(id, fd)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// checkSocket makes sure that a file is what Connect makes.
func checkSocket(f *os.File) error {
	domain, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return err
	}
	kind, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return err
	}
	if domain != unix.AF_UNIX || kind != unix.SOCK_DGRAM {
		return errors.New("the file is not the end of a link")
	}
	return nil
}

// link makes a link of a socket, which it takes over, and remembers it.
func (g *Gateway) link(id string, fd int) (*Link, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		unix.Close(fd)
		return nil, errClosed
	}
	if g.links[id] != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("sandbox %s has a link already", id)
	}
	l, err := newLink(id, fd, g.opts.Handler(id), g.opts.Limits, g.opts.Logger)
	if err != nil {
		return nil, err
	}
	l.forget = func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.links, id)
	}
	g.links[id] = l
	return l, nil
}

// Link returns the link of a sandbox; nil if it has none.
func (g *Gateway) Link(id string) *Link {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.links[id]
}

// Close closes every link. No link can be made afterwards.
func (g *Gateway) Close() error {
	g.mu.Lock()
	g.closed = true
	var left []*Link
	for _, l := range g.links {
		left = append(left, l)
	}
	g.mu.Unlock()
	var closing sync.WaitGroup
	errs := make([]error, len(left))
	for i, l := range left {
		closing.Go(func() { errs[i] = l.Close() })
	}
	closing.Wait()
	return errors.Join(errs...)
}
