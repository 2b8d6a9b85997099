package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/guest/wire"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// writeTimeout is how long an agent may take nothing before the sandbox counts
// as lost: a healthy agent always reads, even if every processor of its sandbox
// is busy.
const writeTimeout = 30 * time.Second

// Client is the host's side of a conversation with a guest agent. It is safe
// for concurrent use.
type Client struct {
	conn *wire.Conn
}

var _ runtime.Guest = (*Client)(nil)

// NewClient begins a conversation on conn, which it owns from now on: it is
// closed on an error, by Close, and when the conversation breaks. An agent of
// another version is a *wire.VersionError.
func NewClient(ctx context.Context, conn io.ReadWriteCloser) (*Client, error) {
	c, err := wire.Dial(ctx, conn, wire.Options{WriteTimeout: writeTimeout})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", runtime.ErrSandboxLost, err)
	}
	return &Client{conn: c}, nil
}

// Done is closed when the conversation is over.
func (c *Client) Done() <-chan struct{} { return c.conn.Done() }

// Err returns nil while the conversation goes on, and afterwards why it ended.
func (c *Client) Err() error { return c.conn.Err() }

// Close ends the conversation at once; runs go on without it. It can be
// repeated.
func (c *Client) Close() error {
	if err := c.conn.Close(); err != nil && c.conn.Err() == nil {
		return fmt.Errorf("close the conversation with the agent: %w", err)
	}
	return nil
}

var (
	hostnamePattern  = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$`)
	machineIDPattern = regexp.MustCompile(`^[0-9a-f]{32}$`)
	runIDPattern     = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
)

// Validate checks an identity.
func (id Identity) Validate() error {
	switch {
	case !hostnamePattern.MatchString(id.Hostname):
		return fmt.Errorf("%w: the host name %q must be 1 to %d letters, digits and inner hyphens", runtime.ErrInvalid, id.Hostname, MaxHostname)
	case !machineIDPattern.MatchString(id.MachineID):
		return fmt.Errorf("%w: the machine id %q must be 32 lower-case hexadecimal digits", runtime.ErrInvalid, id.MachineID)
	case id.MemoryBytes < 0:
		return fmt.Errorf("%w: memory_bytes must not be negative", runtime.ErrInvalid)
	case id.Resolver != "" && !isAddress(id.Resolver):
		return fmt.Errorf("%w: the resolver %q must be an IP address", runtime.ErrInvalid, id.Resolver)
	case len(id.Entropy) > 4096:
		return fmt.Errorf("%w: entropy must be at most 4096 bytes", runtime.ErrInvalid)
	}
	return nil
}

func isAddress(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Zone() == "" // a zone may hold anything
}

// Identify gives the sandbox its own identity. It comes before anything else in
// a sandbox that was restored from a snapshot.
func (c *Client) Identify(ctx context.Context, id Identity) error {
	if err := id.Validate(); err != nil {
		return err
	}
	var reply struct{}
	if err := c.call(ctx, &Request{Method: MethodIdentify, Identity: &id}, &reply); err != nil {
		return fmt.Errorf("identify the sandbox: %w", err)
	}
	return nil
}

// PrepareSnapshot makes the sandbox ready to be saved: a Python interpreter
// waits for its script, with those modules loaded ahead as far as they are
// installed; this conversation is over, and the agent waits for the
// hello of the next one. The byte stream stays open until Close: close it only
// when the snapshot has been made. It is an error while something runs.
func (c *Client) PrepareSnapshot(ctx context.Context, modules []string) error {
	var reply struct{}
	if err := c.call(ctx, &Request{Method: MethodPrepare, Modules: modules}, &reply); err != nil {
		return fmt.Errorf("prepare the snapshot: %w", err)
	}
	if err := c.conn.Goodbye(ctx); err != nil {
		return fmt.Errorf("prepare the snapshot: %w", c.explain(err))
	}
	c.conn.Wait()
	return nil
}

// Stat says what is at a path.
func (c *Client) Stat(ctx context.Context, p string) (agentsandbox.PathInfo, error) {
	p, err := cleanPath(p)
	if err != nil {
		return agentsandbox.PathInfo{}, err
	}
	var e Entry
	if err := c.call(ctx, &Request{Method: MethodStat, Path: []byte(p)}, &e); err != nil {
		return agentsandbox.PathInfo{}, fmt.Errorf("stat %q: %w", p, err)
	}
	info, err := e.pathInfo(p)
	return info, c.explain(err)
}

// List returns up to limit entries of a directory, from 1 to MaxListLimit,
// sorted by name, after the name given.
func (c *Client) List(ctx context.Context, p, after string, limit int) (agentsandbox.PathPage, error) {
	p, err := cleanPath(p)
	if err != nil {
		return agentsandbox.PathPage{}, err
	}
	if limit < 1 || limit > MaxListLimit {
		return agentsandbox.PathPage{}, fmt.Errorf("%w: limit must be from 1 to %d, not %d", runtime.ErrInvalid, MaxListLimit, limit)
	}
	if len(after) > agentsandbox.MaxPathBytes {
		return agentsandbox.PathPage{}, fmt.Errorf("%w: after must be a file name, not %d bytes", runtime.ErrInvalid, len(after))
	}
	var page Page
	req := &Request{Method: MethodList, Path: []byte(p), After: []byte(after), Limit: limit}
	if err := c.call(ctx, req, &page); err != nil {
		return agentsandbox.PathPage{}, fmt.Errorf("list %q: %w", p, err)
	}
	result, err := checkPage(page, p, after, limit)
	return result, c.explain(err)
}

// checkPage turns what the agent listed into a page, if it can be one.
func checkPage(page Page, dir, after string, limit int) (agentsandbox.PathPage, error) {
	if len(page.Entries) > limit || page.More && len(page.Entries) == 0 {
		return agentsandbox.PathPage{}, breach("a page of %d entries, of at most %d", len(page.Entries), limit)
	}
	prefix := dir
	if prefix != "/" {
		prefix += "/"
	}
	result := agentsandbox.PathPage{Entries: make([]agentsandbox.PathInfo, 0, len(page.Entries))}
	for _, e := range page.Entries {
		if err := checkName(e.Name); err != nil {
			return agentsandbox.PathPage{}, err
		}
		if name := string(e.Name); name <= after {
			return agentsandbox.PathPage{}, breach("the entry %q is not after %q", name, after)
		}
		after = string(e.Name)
		info, err := e.pathInfo(prefix + after)
		if err != nil {
			return agentsandbox.PathPage{}, err
		}
		result.Entries = append(result.Entries, info)
	}
	if page.More {
		result.Next = after
	}
	return result, nil
}

// Remove removes what is at a path, a directory with all below it.
func (c *Client) Remove(ctx context.Context, p string) error {
	p, err := cleanPath(p)
	if err != nil {
		return err
	}
	var reply struct{}
	if err := c.call(ctx, &Request{Method: MethodRemove, Path: []byte(p)}, &reply); err != nil {
		return fmt.Errorf("remove %q: %w", p, err)
	}
	return nil
}

// open begins a stream with a request.
func (c *Client) open(ctx context.Context, req *Request) (*wire.Stream, error) {
	opener := &opener{conn: c.conn}
	if err := SendDocument(ctx, opener, KindRequest, req); err != nil {
		if opener.stream != nil {
			opener.stream.Reset(nil)
		}
		return nil, c.explain(err)
	}
	return opener.stream, nil
}

// opener is a Sender whose first message opens the stream.
type opener struct {
	conn   *wire.Conn
	stream *wire.Stream
}

func (o *opener) Send(ctx context.Context, kind uint8, payload []byte) (err error) {
	if o.stream != nil {
		return o.stream.Send(ctx, kind, payload)
	}
	o.stream, err = o.conn.Open(ctx, kind, payload)
	return err
}

// call makes a request that has one document as its reply.
func (c *Client) call(ctx context.Context, req *Request, reply any) error {
	s, err := c.open(ctx, req)
	if err != nil {
		return err
	}
	s.End()
	if err := RecvDocument(ctx, s, KindReply, MaxReply, reply); err != nil {
		s.Reset(nil)
		return c.explain(err)
	}
	if err := recvEnd(ctx, s); err != nil {
		s.Reset(nil)
		return c.explain(err)
	}
	return nil
}

// explain turns an error of the conversation into one of the contract. An agent
// that broke a rule loses the conversation here.
func (c *Client) explain(err error) error {
	var reset *wire.ResetError
	if errors.As(err, &reset) {
		err = decodeFailure(reset)
	}
	var broken *BreachError
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, wire.ErrTooManyStreams), errors.Is(err, wire.ErrStreamDone):
		return err
	case errors.As(err, &broken):
		c.conn.Abort(err)
		return fmt.Errorf("%w: %w", runtime.ErrSandboxLost, err)
	case reset != nil:
		return err
	}
	return fmt.Errorf("%w: %w", runtime.ErrSandboxLost, err)
}

// cleanPath checks an absolute path before it goes to the agent.
func cleanPath(p string) (string, error) {
	clean, err := agentsandbox.CleanPath(p)
	if err != nil {
		return "", fmt.Errorf("%w: %w", runtime.ErrInvalid, err)
	}
	return clean, nil
}
