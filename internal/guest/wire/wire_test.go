package wire

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// deadline bounds every wait of a test; a test that runs into it has failed.
func deadline(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// socketpair returns two connected stream sockets.
func socketpair(t testing.TB) (net.Conn, net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		if conns[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return conns[0], conns[1]
}

// connect returns both ends of a connection.
func connect(t testing.TB, opts Options) (host, agent *Conn) {
	t.Helper()
	a, b := socketpair(t)
	var wg sync.WaitGroup
	var agentErr error
	wg.Go(func() { agent, agentErr = Accept(deadline(t), b, opts) })
	host, err := Dial(deadline(t), a, opts)
	wg.Wait()
	if err != nil || agentErr != nil {
		t.Fatalf("Dial: %v; Accept: %v", err, agentErr)
	}
	t.Cleanup(func() { host.Close(); agent.Close() })
	return host, agent
}

func open(t testing.TB, host, agent *Conn) (*Stream, *Stream) {
	t.Helper()
	h, err := host.Open(deadline(t), 1, []byte("first"))
	if err != nil {
		t.Fatal(err)
	}
	a, err := agent.Accept(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	m, err := a.Recv(deadline(t))
	if err != nil || m.Kind != 1 || string(m.Payload) != "first" {
		t.Fatalf("first message: %v %q %v", m.Kind, m.Payload, err)
	}
	return h, a
}

func TestMessagesArriveInOrderAndWhole(t *testing.T) {
	host, agent := connect(t, Options{})
	h, a := open(t, host, agent)
	const count = 200
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range count {
			payload := bytes.Repeat([]byte{byte(i)}, i*MaxPayload/(count-1))
			if err := a.Send(deadline(t), uint8(i), payload); err != nil {
				t.Errorf("Send %d: %v", i, err)
				return
			}
		}
		a.End()
	})
	for i := range count {
		m, err := h.Recv(deadline(t))
		if err != nil {
			t.Fatalf("Recv %d: %v", i, err)
		}
		want := bytes.Repeat([]byte{byte(i)}, i*MaxPayload/(count-1))
		if m.Kind != uint8(i) || !bytes.Equal(m.Payload, want) {
			t.Fatalf("message %d: kind %d, %d bytes", i, m.Kind, len(m.Payload))
		}
	}
	if _, err := h.Recv(deadline(t)); err != io.EOF {
		t.Fatalf("after the end: %v, want io.EOF", err)
	}
	wg.Wait()
	h.End()
	waitStreams(t, host, 0)
	waitStreams(t, agent, 0)
}

// waitStreams waits until so many streams are open.
func waitStreams(t testing.TB, c *Conn, want int) {
	t.Helper()
	ctx := deadline(t)
	for {
		c.mu.Lock()
		n := len(c.streams)
		c.mu.Unlock()
		if n == want {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%d streams are open, want %d", n, want)
		case <-time.After(time.Millisecond):
		}
	}
}

func TestSlowReaderStopsOnlyItsOwnStream(t *testing.T) {
	host, agent := connect(t, Options{})
	slow, slowAgent := open(t, host, agent)
	quick, quickAgent := open(t, host, agent)

	sent := 0
	short, cancel := context.WithTimeout(deadline(t), 50*time.Millisecond)
	defer cancel()
	for slowAgent.Send(short, 1, make([]byte, MaxPayload)) == nil {
		sent += MaxPayload
	}
	if sent == 0 || sent > Window {
		t.Fatalf("%d bytes were sent to a reader that takes none, want at most %d", sent, Window)
	}
	for range 50 {
		if err := quickAgent.Send(deadline(t), 2, make([]byte, MaxPayload)); err != nil {
			t.Fatal(err)
		}
		if _, err := quick.Recv(deadline(t)); err != nil {
			t.Fatal(err)
		}
	}
	for got := 0; got < sent; {
		m, err := slow.Recv(deadline(t))
		if err != nil {
			t.Fatal(err)
		}
		got += len(m.Payload)
	}
	if err := slowAgent.Send(deadline(t), 1, make([]byte, MaxPayload)); err != nil {
		t.Fatalf("Send after the reader took all: %v", err)
	}
}

func TestResetTellsWhyAndFreesTheStream(t *testing.T) {
	host, agent := connect(t, Options{})
	h, a := open(t, host, agent)
	a.Reset([]byte("no space"))
	var reset *ResetError
	if _, err := h.Recv(deadline(t)); !errors.As(err, &reset) || string(reset.Text) != "no space" {
		t.Fatalf("Recv: %v", err)
	}
	if err := h.Send(deadline(t), 1, nil); !errors.As(err, &reset) {
		t.Fatalf("Send: %v", err)
	}
	if err := a.Send(deadline(t), 1, nil); !errors.Is(err, ErrStreamDone) {
		t.Fatalf("Send on the side that reset: %v", err)
	}
	waitStreams(t, host, 0)
	waitStreams(t, agent, 0)

	// A reset from both sides at once, and one after an end, free it as well.
	h, a = open(t, host, agent)
	h.Reset(nil)
	a.Reset(nil)
	h2, _ := open(t, host, agent)
	h2.End()
	h2.Reset([]byte(strings.Repeat("x", 2*MaxResetText)))
	waitStreams(t, host, 0)
	waitStreams(t, agent, 0)
	if host.Err() != nil || agent.Err() != nil {
		t.Fatalf("the connection ended: %v, %v", host.Err(), agent.Err())
	}
}

func TestResetWakesABlockedSender(t *testing.T) {
	host, agent := connect(t, Options{})
	h, a := open(t, host, agent)
	result := make(chan error, 1)
	go func() {
		for {
			if err := h.Send(deadline(t), 1, make([]byte, MaxPayload)); err != nil {
				result <- err
				return
			}
		}
	}()
	a.Reset([]byte("enough"))
	var reset *ResetError
	if err := <-result; !errors.As(err, &reset) {
		t.Fatalf("Send: %v", err)
	}
}

func TestTooManyStreams(t *testing.T) {
	host, agent := connect(t, Options{})
	for range MaxStreams {
		if _, err := host.Open(deadline(t), 1, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := host.Open(deadline(t), 1, nil); !errors.Is(err, ErrTooManyStreams) {
		t.Fatalf("Open: %v", err)
	}
	s, err := agent.Accept(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	s.Reset(nil)
	waitStreams(t, host, MaxStreams-1)
	if _, err := host.Open(deadline(t), 1, nil); err != nil {
		t.Fatal(err)
	}
}

func TestGoodbyeLeavesTheByteStreamForTheNext(t *testing.T) {
	a, b := socketpair(t)
	t.Cleanup(func() { a.Close(); b.Close() })
	for round := range 3 {
		var agent *Conn
		var wg sync.WaitGroup
		wg.Go(func() {
			var err error
			if agent, err = Accept(deadline(t), b, Options{}); err != nil {
				t.Error(err)
			}
		})
		host, err := Dial(deadline(t), a, Options{})
		wg.Wait()
		if err != nil || agent == nil {
			t.Fatalf("round %d: %v", round, err)
		}
		h, s := open(t, host, agent)
		if err := host.Goodbye(deadline(t)); err == nil {
			t.Fatal("goodbye with a stream open")
		}
		h.End()
		s.End()
		waitStreams(t, host, 0)
		if err := host.Goodbye(deadline(t)); err != nil {
			t.Fatal(err)
		}
		agent.Wait()
		host.Wait()
		if !errors.Is(agent.Err(), ErrGoodbye) || !errors.Is(host.Err(), ErrGoodbye) {
			t.Fatalf("after goodbye: %v, %v", host.Err(), agent.Err())
		}
	}
}

func TestPeerThatStopsReadingEndsTheConnection(t *testing.T) {
	a, b := socketpair(t)
	t.Cleanup(func() { b.Close() })
	var wg sync.WaitGroup
	wg.Go(func() { // an agent that answers the hello and then reads nothing
		_ = readHello(b)
		_, _ = b.Write(appendHello(nil, Version))
	})
	host, err := Dial(deadline(t), a, Options{WriteTimeout: 100 * time.Millisecond})
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close() })
	for err == nil {
		_, err = host.Open(deadline(t), 1, make([]byte, MaxPayload))
	}
	<-host.Done()
	if !errors.Is(host.Err(), os.ErrDeadlineExceeded) {
		t.Fatalf("%v, want a write deadline", host.Err())
	}
}

func TestCloseWakesEverybody(t *testing.T) {
	host, agent := connect(t, Options{})
	h, _ := open(t, host, agent)
	errs := make(chan error, 3)
	go func() { _, err := h.Recv(deadline(t)); errs <- err }()
	go func() {
		var err error
		for err == nil {
			err = h.Send(deadline(t), 1, make([]byte, MaxPayload))
		}
		errs <- err
	}()
	go func() { _, err := host.Accept(deadline(t)); errs <- err }()
	host.Close()
	for range 3 {
		if err := <-errs; !errors.Is(err, ErrClosed) {
			t.Fatalf("%v, want ErrClosed", err)
		}
	}
	<-agent.Done()
	host.Close()
}

func TestHellosThatDoNotFit(t *testing.T) {
	for name, tc := range map[string]struct {
		hello []byte
		want  string
	}{
		"another version": {appendHello(nil, 7), "version 7"},
		"another program": {[]byte("GET / HTTP/1.1\r\n"), `"GET / HT"`},
		"not zero":        {append(appendHello(nil, Version)[:15], 1), "must be zero"},
		"cut":             {[]byte("asbx"), "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := socketpair(t)
			go func() { _, _ = b.Write(tc.hello); _ = b.(*net.UnixConn).CloseWrite() }()
			t.Cleanup(func() { b.Close() })
			_, err := Dial(deadline(t), a, Options{})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("Dial: %v, want %q", err, tc.want)
			}
		})
	}
	t.Run("silence", func(t *testing.T) {
		a, b := socketpair(t)
		t.Cleanup(func() { b.Close() })
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := Dial(ctx, a, Options{}); !errors.Is(err, context.Canceled) {
			t.Fatalf("Dial: %v", err)
		}
	})
}

func frame(h header, payload ...byte) []byte {
	h.length = uint32(len(payload))
	return append(h.append(nil), payload...)
}

// TestHostileFrames gives the host frames of an agent that breaks the rules.
// The host has opened streams 1 and 2, and both sides have ended 2.
func TestHostileFrames(t *testing.T) {
	big := make([]byte, MaxPayload)
	window := func(kind frameType, stream uint32) (b []byte) {
		for range Window/MaxPayload + 1 {
			b = append(b, frame(header{typ: kind, stream: stream}, big...)...)
		}
		return b
	}
	empty := bytes.Repeat(frame(header{typ: frameMessage, stream: 1}), Window/messageCost+1)
	for name, tc := range map[string]struct {
		frames []byte
		want   string
	}{
		"opens a stream":         {frame(header{typ: frameOpen, stream: 3}), "only the host"},
		"unknown stream":         {frame(header{typ: frameMessage, stream: 9}), "never opened"},
		"ended stream":           {frame(header{typ: frameMessage, stream: 2}), "has ended"},
		"second end":             {append(frame(header{typ: frameEnd, stream: 1}), frame(header{typ: frameEnd, stream: 1})...), "second end"},
		"message after end":      {append(frame(header{typ: frameEnd, stream: 1}), frame(header{typ: frameMessage, stream: 1})...), "after the end"},
		"too long":               {header{typ: frameMessage, stream: 1, length: MaxPayload + 1}.append(nil), "at most 65536"},
		"length of 4 GiB":        {header{typ: frameMessage, stream: 1, length: 1<<32 - 1}.append(nil), "at most 65536"},
		"long reset":             {header{typ: frameReset, stream: 1, length: MaxResetText + 1}.append(nil), "at most 4096"},
		"unknown type":           {frame(header{typ: 99, stream: 1}), "unknown frame type"},
		"kind on an end":         {frame(header{typ: frameEnd, kind: 1, stream: 1}), "only messages"},
		"bytes not zero":         {[]byte{2, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0}, "must be zero"},
		"message on stream 0":    {frame(header{typ: frameMessage}), "stream 0"},
		"goodbye first":          {frame(header{typ: frameGoodbye}), "the host says goodbye first"},
		"goodbye on a stream":    {frame(header{typ: frameGoodbye, stream: 1}), "stream 0"},
		"short credit":           {frame(header{typ: frameCredit, stream: 1}, 1), "4 bytes"},
		"credit of nothing":      {frame(header{typ: frameCredit, stream: 1}, 0, 0, 0, 0), "credit of 0"},
		"credit for nothing":     {frame(header{typ: frameCredit, stream: 1}, 0, 4, 0, 0), "credit of 262144"},
		"over the window":        {window(frameMessage, 1), "larger than the credit"},
		"empty ones over it":     {empty, "larger than the credit"},
		"credits for an old one": {bytes.Repeat(frame(header{typ: frameCredit, stream: 2}, 0, 0, 0, 1), 100), "streams that have ended"},
		"resets for an old one":  {bytes.Repeat(frame(header{typ: frameReset, stream: 2}), 100), "streams that have ended"},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := socketpair(t)
			t.Cleanup(func() { b.Close() })
			go func() {
				_ = readHello(b)
				_, _ = b.Write(appendHello(nil, Version))
			}()
			host, err := Dial(deadline(t), a, Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { host.Close() })
			for range 2 {
				s, err := host.Open(deadline(t), 1, nil)
				if err != nil {
					t.Fatal(err)
				}
				if s.id == 2 {
					s.End()
				}
			}
			go func() {
				_, _ = b.Write(append(frame(header{typ: frameEnd, stream: 2}), tc.frames...))
			}()
			<-host.Done()
			var protocol *ProtocolError
			if err := host.Err(); !errors.As(err, &protocol) || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("%v, want a protocol error with %q", err, tc.want)
			}
		})
	}
}

// TestFloodAfterResetStaysBounded checks that a stream which the host has reset
// keeps nothing of what still comes, and that its window still holds.
func TestFloodAfterResetStaysBounded(t *testing.T) {
	host, agent := connect(t, Options{})
	h, _ := open(t, host, agent)
	h.Reset(nil)
	host.mu.Lock()
	defer host.mu.Unlock()
	for range Window / (MaxPayload + messageCost) {
		kept, err := h.takeMessage(header{typ: frameMessage, stream: h.id}, make([]byte, MaxPayload))
		if kept || err != nil {
			t.Fatalf("kept %v, %v", kept, err)
		}
	}
	for err := error(nil); err == nil; {
		_, err = h.takeMessage(header{typ: frameMessage, stream: h.id}, make([]byte, MaxPayload))
	}
}

func TestBuffersComeBack(t *testing.T) {
	for _, n := range []int{0, 1, 127, 128, 129, 4096, MaxPayload - 1, MaxPayload} {
		b := newBuffer(n)
		if len(b) != n || cap(b) > max(2*n, 128) {
			t.Errorf("newBuffer(%d): length %d, capacity %d", n, len(b), cap(b))
		}
		freeBuffer(b)
	}
}
