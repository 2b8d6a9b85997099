package agent

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/guest/wire"
)

// socket is a conversation that counts how often it was released.
type socket struct {
	net.Conn
	released *sync.WaitGroup
}

func (s socket) Release() { s.released.Done() }

// sockets returns two ends: that of the host, and the descriptor of the other.
func sockets(t *testing.T) (net.Conn, int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return connOf(t, fds[0]), fds[1]
}

func connOf(t *testing.T, fd int) net.Conn {
	t.Helper()
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		t.Error(err)
	}
	return conn
}

// house is an agent that converses, with a door.
type house struct {
	dir      string
	refused  chan error
	released sync.WaitGroup
}

func (h *house) wrap(t *testing.T) func(int) Conversation {
	return func(fd int) Conversation {
		h.released.Add(1)
		return socket{connOf(t, fd), &h.released}
	}
}

func open(t *testing.T, a *Agent, dir string) (*house, net.Conn) {
	t.Helper()
	h := &house{dir: dir, refused: make(chan error, 10)}
	door, err := OpenDoor(dir, h.wrap(t), func(err error) { h.refused <- err })
	if err != nil {
		t.Fatal(err)
	}
	host, fd := sockets(t)
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() {
		defer close(over)
		a.Converse(ctx, h.wrap(t)(fd), door)
	}()
	t.Cleanup(func() {
		cancel()
		<-over
		h.released.Wait()
	})
	return h, host
}

func (h *house) knock(t *testing.T) net.Conn {
	t.Helper()
	host, fd := sockets(t)
	defer unix.Close(fd)
	if err := Knock(h.dir, fd); err != nil {
		t.Fatal(err)
	}
	return host
}

func converse(t *testing.T, rw io.ReadWriteCloser) *guest.Client {
	t.Helper()
	c, err := guest.NewClient(deadline(t), rw)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTheDoorLetsTheNextConversationIn(t *testing.T) {
	a := newAgent(t, nil)
	h, host := open(t, a, filepath.Join(t.TempDir(), "door"))
	if info, err := os.Stat(h.dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory is %v, %v", info.Mode(), err)
	}
	first := converse(t, host)
	if err := first.Close(); err != nil { // as a host that died
		t.Fatal(err)
	}
	second := converse(t, h.knock(t))
	if _, err := second.Stat(deadline(t), "/workspace"); err != nil {
		t.Fatal(err)
	}
	// Without an end of the one before: the new one takes its place.
	third := converse(t, h.knock(t))
	<-second.Done()
	if _, err := third.Stat(deadline(t), "/workspace"); err != nil {
		t.Fatal(err)
	}
	if err := third.Close(); err != nil {
		t.Fatal(err)
	}
}

// After an end in order, as before a snapshot, the same stream serves again.
func TestTheDoorAfterAGoodbye(t *testing.T) {
	h, host := open(t, newAgent(t, nil), filepath.Join(t.TempDir(), "door"))
	conn, err := wire.Dial(deadline(t), keepOpen{host}, wire.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Goodbye(deadline(t)); err != nil {
		t.Fatal(err)
	}
	conn.Wait()
	again := converse(t, host)
	if _, err := again.Stat(deadline(t), "/workspace"); err != nil {
		t.Fatal(err)
	}
	last := converse(t, h.knock(t))
	<-again.Done()
	if _, err := last.Stat(deadline(t), "/workspace"); err != nil {
		t.Fatal(err)
	}
	last.Close()
}

// keepOpen is not closed by the conversation on it.
type keepOpen struct{ net.Conn }

func (keepOpen) Close() error { return nil }

func TestTheDoorSendsAway(t *testing.T) {
	h, host := open(t, newAgent(t, nil), filepath.Join(t.TempDir(), "door"))
	path := filepath.Join(h.dir, doorName)
	for name, knock := range map[string]func(*net.UnixConn) error{
		"who brings nothing":   func(c *net.UnixConn) error { _, err := c.Write([]byte{0}); return err },
		"who says nothing":     func(c *net.UnixConn) error { return c.Close() },
		"who brings two":       func(c *net.UnixConn) error { return bring(c, 0, 1) },
		"who brings a crowd":   func(c *net.UnixConn) error { return bring(c, 0, 1, 2, 0, 1, 2, 0, 1) },
		"who brings a message": func(c *net.UnixConn) error { _, err := c.Write([]byte(strings.Repeat("x", 1000))); return err },
	} {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		if err := knock(conn); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := <-h.refused; err == nil {
			t.Errorf("%s: no reason", name)
		}
		conn.Close()
	}
	client := converse(t, host) // which nobody has disturbed
	if _, err := client.Stat(deadline(t), "/workspace"); err != nil {
		t.Error(err)
	}
	client.Close()
}

func bring(c *net.UnixConn, fds ...int) error {
	_, _, err := c.WriteMsgUnix([]byte{0}, unix.UnixRights(fds...), nil)
	return err
}

func TestADoorThatStoodThereBefore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "door")
	for range 2 {
		door, err := OpenDoor(dir, func(int) Conversation { return nil }, func(error) {})
		if err != nil {
			t.Fatal(err)
		}
		door.listener.SetUnlinkOnClose(false)
		door.listener.Close()
	}
	if err := Knock(dir, 0); err == nil {
		t.Error("nobody is there, and the knock succeeded")
	}
}
