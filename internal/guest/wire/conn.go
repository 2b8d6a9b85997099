package wire

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Options adjust a connection.
type Options struct {
	// WriteTimeout ends the connection when the peer takes nothing for so long;
	// 0: one write may last for ever. It has an effect only where the byte
	// stream supports write deadlines.
	WriteTimeout time.Duration
}

// Conn is one end of a connection. It is safe for concurrent use.
//
// Two goroutines serve it: the reader never writes and never waits for whoever
// takes the messages; the writer writes what was queued, many frames at once.
type Conn struct {
	rw   io.ReadWriteCloser
	host bool
	opts Options
	br   *bufio.Reader
	// accepted are the streams that the peer opened. Its capacity bounds them,
	// so that the reader never waits here.
	accepted chan *Stream
	work     chan struct{} // capacity 1: there is something to write
	done     chan struct{} // closed when err is set
	wg       sync.WaitGroup

	mu      sync.Mutex
	err     error
	streams map[uint32]*Stream
	lastID  uint32 // the latest stream that was opened
	ignored uint64 // frames for streams that had ended
	out     []byte // frames to write
	spare   []byte // the buffer that out is swapped with
	space   chan struct{}
	leaving bool // goodbye was queued
	// ending says that the connection is over once out has been written.
	ending bool
}

// Dial begins a connection as the host: it sends the hello and waits for the
// agent's. It owns rw from now on, and closes it on an error or when ctx is
// done before the hello has come.
func Dial(ctx context.Context, rw io.ReadWriteCloser, opts Options) (*Conn, error) {
	c := newConn(rw, true, opts)
	if err := c.shakeHands(ctx); err != nil {
		return nil, err
	}
	c.start()
	return c, nil
}

// Accept begins a connection as the agent: it waits for the host's hello and
// answers. It owns rw as Dial does.
func Accept(ctx context.Context, rw io.ReadWriteCloser, opts Options) (*Conn, error) {
	c := newConn(rw, false, opts)
	if err := c.shakeHands(ctx); err != nil {
		return nil, err
	}
	c.start()
	return c, nil
}

func newConn(rw io.ReadWriteCloser, host bool, opts Options) *Conn {
	return &Conn{
		rw:       rw,
		host:     host,
		opts:     opts,
		br:       bufio.NewReaderSize(rw, MaxPayload+headerSize),
		accepted: make(chan *Stream, MaxStreams),
		work:     make(chan struct{}, 1),
		done:     make(chan struct{}),
		streams:  make(map[uint32]*Stream),
		space:    make(chan struct{}),
	}
}

func (c *Conn) shakeHands(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { c.rw.Close() })
	err := c.exchangeHellos()
	if !stop() {
		// rw is closed or is about to be: whatever came, it cannot be used.
		return fmt.Errorf("begin a conversation: %w", context.Cause(ctx))
	}
	if err != nil {
		c.rw.Close()
		return fmt.Errorf("begin a conversation: %w", err)
	}
	return nil
}

// exchangeHellos lets the host speak first. The agent answers a hello of
// another version with its own, so that both sides can say what is wrong.
func (c *Conn) exchangeHellos() error {
	hello := appendHello(nil, Version)
	if c.host {
		c.armWrite()
		if _, err := c.rw.Write(hello); err != nil {
			return fmt.Errorf("send the hello: %w", err)
		}
		return readHello(c.br)
	}
	err := readHello(c.br)
	var other *VersionError
	if err != nil && !errors.As(err, &other) {
		return err
	}
	c.armWrite()
	if _, werr := c.rw.Write(hello); werr != nil && err == nil {
		return fmt.Errorf("answer the hello: %w", werr)
	}
	return err
}

func (c *Conn) start() {
	c.wg.Go(c.read)
	c.wg.Go(c.write)
}

// Done is closed when the connection is over; Err then says why.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err returns nil while the connection is up, and then why it ended: ErrGoodbye,
// ErrClosed, a *ProtocolError, or what reading or writing returned.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the connection at once and waits for its goroutines. It can be
// repeated.
func (c *Conn) Close() error {
	c.fail(ErrClosed)
	err := c.rw.Close()
	c.wg.Wait()
	return err
}

// Abort ends the connection for a reason and does not wait: for a user of the
// connection who sees that the peer breaks rules of its own.
func (c *Conn) Abort(reason error) { c.fail(reason) }

// Wait waits until the connection is over and its goroutines have ended.
func (c *Conn) Wait() { c.wg.Wait() }

// fail ends the connection for a reason; the first one stays. It closes the
// byte stream, except after a goodbye: then the next conversation may use it.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	c.streams = nil // what a stream has received can still be taken from it
	close(c.done)
	c.mu.Unlock()
	if !errors.Is(err, ErrGoodbye) {
		c.rw.Close()
	}
}

// Goodbye ends the connection in order: every stream must have ended. It
// returns when the agent has answered; nothing is on the byte stream then, and
// it stays open until Close.
func (c *Conn) Goodbye(ctx context.Context) error {
	c.mu.Lock()
	switch {
	case c.err != nil:
		c.mu.Unlock()
		return c.err
	case len(c.streams) > 0:
		c.mu.Unlock()
		return fmt.Errorf("end the conversation: %d streams are still open", len(c.streams))
	}
	c.sayGoodbye()
	c.mu.Unlock()
	select {
	case <-c.done:
		if err := c.Err(); !errors.Is(err, ErrGoodbye) {
			return err
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// sayGoodbye queues a goodbye. The caller holds mu.
func (c *Conn) sayGoodbye() {
	if !c.leaving {
		c.leaving = true
		c.queue(header{typ: frameGoodbye}, nil)
	}
}

// queue appends a frame to what is to be written. The caller holds mu.
func (c *Conn) queue(h header, payload []byte) {
	h.length = uint32(len(payload))
	c.out = append(h.append(c.out), payload...)
	select {
	case c.work <- struct{}{}:
	default:
	}
}

// write writes what was queued until the connection is over.
func (c *Conn) write() {
	for {
		select {
		case <-c.work:
		case <-c.done:
			return
		}
		c.mu.Lock()
		batch, last := c.out, c.ending
		c.out, c.spare = c.spare[:0], nil
		close(c.space)
		c.space = make(chan struct{})
		c.mu.Unlock()

		if len(batch) > 0 {
			c.armWrite()
			if _, err := c.rw.Write(batch); err != nil {
				c.fail(fmt.Errorf("write to the peer: %w", err))
				return
			}
		}
		if last {
			c.fail(ErrGoodbye)
			return
		}
		c.mu.Lock()
		if cap(batch) <= 2*maxOut {
			c.spare = batch
		}
		c.mu.Unlock()
	}
}

func (c *Conn) armWrite() {
	if c.opts.WriteTimeout == 0 {
		return
	}
	if d, ok := c.rw.(interface{ SetWriteDeadline(time.Time) error }); ok {
		// A byte stream without deadlines says so here; then there is none.
		_ = d.SetWriteDeadline(time.Now().Add(c.opts.WriteTimeout))
	}
}

// read takes frames until the connection is over.
func (c *Conn) read() {
	for {
		goodbye, err := c.readFrame()
		if err != nil {
			c.fail(err)
			return
		}
		if goodbye {
			return
		}
	}
}

// readFrame takes one frame; goodbye says that it was the last.
func (c *Conn) readFrame() (goodbye bool, err error) {
	var b [headerSize]byte
	if _, err := io.ReadFull(c.br, b[:]); err != nil {
		return false, fmt.Errorf("read from the peer: %w", err)
	}
	h := parseHeader(&b)
	if err := h.check(); err != nil {
		return false, err
	}
	payload := newBuffer(int(h.length))
	if _, err := io.ReadFull(c.br, payload); err != nil {
		freeBuffer(payload)
		return false, fmt.Errorf("read from the peer: %w", err)
	}
	if h.typ == frameGoodbye {
		return true, c.takeGoodbye(h)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		freeBuffer(payload)
		return false, c.err
	}
	kept, err := c.take(h, payload)
	if !kept {
		freeBuffer(payload)
	}
	return false, err
}

func (c *Conn) takeGoodbye(h header) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.br.Buffered() > 0:
		return h.fault("bytes follow the last frame")
	case c.host && !c.leaving:
		return h.fault("the host says goodbye first")
	case c.host:
		// Only this frame was missing; there is nothing left to write.
		c.mu.Unlock()
		c.fail(ErrGoodbye)
		c.mu.Lock()
		return nil
	case len(c.streams) > 0:
		return h.fault("goodbye while streams are open")
	}
	c.ending = true
	c.sayGoodbye()
	return nil
}

// take acts on a frame. kept says that the payload is in use. The caller holds
// mu.
func (c *Conn) take(h header, payload []byte) (kept bool, err error) {
	if h.typ == frameOpen {
		return c.takeOpen(h, payload)
	}
	s := c.streams[h.stream]
	if s == nil {
		return false, c.takeStray(h)
	}
	switch h.typ {
	case frameMessage:
		return s.takeMessage(h, payload)
	case frameEnd:
		if s.recvDone {
			return false, h.fault("a second end")
		}
		s.recvDone = true
		s.ended = true
		signal(s.readable)
		s.retire()
	case frameReset:
		if s.reason == nil {
			s.reason = &ResetError{Text: append([]byte(nil), payload...)}
		}
		s.dropQueue()
		s.recvDone = true
		if !s.sendDone {
			s.sendDone = true
			c.queue(header{typ: frameReset, stream: s.id}, nil)
		}
		signal(s.readable)
		signal(s.writable)
		s.retire()
	case frameCredit:
		n := int64(binary.BigEndian.Uint32(payload))
		if n == 0 || s.sendWindow+n > Window {
			return false, h.fault(fmt.Sprintf("credit of %d for a window that has %d of %d", n, s.sendWindow, Window))
		}
		s.sendWindow += n
		signal(s.writable)
	}
	return false, nil
}

func (c *Conn) takeOpen(h header, payload []byte) (kept bool, err error) {
	switch {
	case c.host:
		return false, h.fault("only the host opens streams")
	case c.ending:
		return false, h.fault("a frame after goodbye")
	case h.stream != c.lastID+1:
		return false, h.fault(fmt.Sprintf("the next stream is %d", c.lastID+1))
	case len(c.streams) >= MaxStreams || len(c.accepted) == cap(c.accepted):
		return false, h.fault("too many streams are open")
	}
	s := c.newStream(h.stream)
	if kept, err = s.takeMessage(h, payload); err == nil {
		c.accepted <- s
	}
	return kept, err
}

// takeStray judges a frame for a stream that is not there: credit and reset may
// have crossed its end, a few for each stream.
func (c *Conn) takeStray(h header) error {
	if h.stream > c.lastID {
		return h.fault("the stream was never opened")
	}
	if h.typ != frameCredit && h.typ != frameReset {
		return h.fault("the stream has ended")
	}
	const each = Window/creditStep + 2
	c.ignored++
	if c.ignored > uint64(c.lastID)*each {
		return h.fault("too many frames for streams that have ended")
	}
	return nil
}

// newStream adds a stream. The caller holds mu.
func (c *Conn) newStream(id uint32) *Stream {
	s := &Stream{
		c:          c,
		id:         id,
		readable:   make(chan struct{}, 1),
		writable:   make(chan struct{}, 1),
		sendWindow: Window,
		recvWindow: Window,
	}
	c.lastID = id
	c.streams[id] = s
	return s
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
