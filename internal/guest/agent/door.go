package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Door is where a sandbox's root hands the agent another conversation, when the
// daemon at the other end of the first one is gone. It is a Unix socket in a
// directory that only root may enter, and whoever knocks must be root besides:
// user code is another user.
type Door struct {
	listener *net.UnixListener
	knocks   chan Conversation
	stopped  chan struct{}
	wrap     func(fd int) Conversation
	refused  func(error)
}

// Conversation is the byte stream of one. Its reads and writes may block.
type Conversation interface {
	// Close ends it, as often as it is called.
	io.ReadWriteCloser
	// Release frees what it holds, when nobody reads or writes any more.
	Release()
}

// doorName is the name of the socket in its directory.
const doorName = "socket"

// OpenDoor listens in a directory, which it makes. wrap makes a conversation of
// a descriptor, which it owns then. refused is told of those who were sent away.
func OpenDoor(dir string, wrap func(fd int) Conversation, refused func(error)) (*Door, error) {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("door: %w", err)
	}
	path := filepath.Join(dir, doorName)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("door: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("door: %w", err)
	}
	d := &Door{listener: l, knocks: make(chan Conversation), stopped: make(chan struct{}), wrap: wrap, refused: refused}
	return d, nil
}

// answer accepts one after the other until ctx ends.
func (d *Door) answer(ctx context.Context) {
	defer close(d.stopped)
	for {
		conn, err := d.listener.AcceptUnix()
		if err != nil {
			return
		}
		fd, err := takeDescriptor(conn)
		conn.Close()
		if err != nil {
			d.refused(err)
			continue
		}
		rw := d.wrap(fd)
		select {
		case d.knocks <- rw:
		case <-ctx.Done():
			rw.Close()
			rw.Release()
			return
		}
	}
}

// takeDescriptor checks who is there and takes the one descriptor that came.
func takeDescriptor(conn *net.UnixConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	var peer *unix.Ucred
	var peerErr error
	if err := raw.Control(func(fd uintptr) {
		peer, peerErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return -1, err
	}
	if peerErr != nil {
		return -1, os.NewSyscallError("getsockopt SO_PEERCRED", peerErr)
	}
	if int(peer.Uid) != os.Geteuid() {
		return -1, fmt.Errorf("user %d knocked at the door of user %d", peer.Uid, os.Geteuid())
	}
	one, control := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(one, control)
	if err != nil {
		return -1, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil {
		return -1, err
	}
	var fds []int
	for i := range messages {
		got, err := unix.ParseUnixRights(&messages[i])
		if err == nil {
			fds = append(fds, got...)
		}
	}
	if len(fds) != 1 {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return -1, fmt.Errorf("%d descriptors came where one was due", len(fds))
	}
	unix.CloseOnExec(fds[0])
	if err := unix.SetNonblock(fds[0], false); err != nil { // the host's socket cannot be polled
		unix.Close(fds[0])
		return -1, os.NewSyscallError("fcntl", err)
	}
	return fds[0], nil
}

// Knock hands a descriptor to the agent that listens in a directory.
func Knock(dir string, fd int) error {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: filepath.Join(dir, doorName), Net: "unix"})
	if err != nil {
		return fmt.Errorf("door: %w", err)
	}
	defer conn.Close()
	if _, _, err := conn.WriteMsgUnix([]byte{0}, unix.UnixRights(fd), nil); err != nil {
		return fmt.Errorf("door: %w", err)
	}
	return nil
}

// Converse serves one conversation after the other until ctx ends: first, again
// after each that the host ended in order, and whatever comes through the door,
// which takes the place of the one before. Runs outlive them all. When there was
// no conversation for as long as the identity says, it returns too: nobody will
// come any more.
func (a *Agent) Converse(ctx context.Context, first Conversation, door *Door) {
	ctx, cancel := context.WithCancel(ctx)
	go door.answer(ctx)
	defer func() {
		cancel()
		door.listener.Close()
		<-door.stopped
	}()
	current := first
	for current != nil {
		current = a.converse(ctx, current, door)
	}
}

// converse serves one conversation to its end and returns the next; nil: ctx has
// ended.
func (a *Agent) converse(ctx context.Context, rw Conversation, door *Door) Conversation {
	serving, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() {
		err := a.Serve(serving, rw)
		for err == nil && serving.Err() == nil {
			err = a.Serve(serving, rw)
		}
		ended <- err
	}()
	defer rw.Release()
	var next Conversation
	select {
	case next = <-door.knocks:
		stop()
		rw.Close()
		<-ended
		a.log.Info("another conversation takes over")
	case err := <-ended:
		rw.Close()
		a.log.Info("no conversation any more; what runs goes on", "error", err)
		select {
		case next = <-door.knocks:
		case <-ctx.Done():
		case <-a.aloneForLong():
			a.log.Warn("nobody came for too long: the sandbox ends")
		}
	case <-ctx.Done():
		rw.Close()
		<-ended
	}
	return next
}

// aloneForLong returns a channel that says when the sandbox was without a
// conversation for as long as it may be. The timer is by the monotonic clock: it
// does not jump when the host's time is set.
func (a *Agent) aloneForLong() <-chan time.Time {
	if ms := a.alone.Load(); ms > 0 {
		return time.After(time.Duration(ms) * time.Millisecond)
	}
	return nil
}

// forgetNamed ends and forgets a run, if it is there.
func (a *Agent) forgetNamed(id string) {
	a.mu.Lock()
	r := a.runs[id]
	a.mu.Unlock()
	if r != nil {
		a.forget(r)
	}
}

// retain ends and forgets every run but those named.
func (a *Agent) retain(ids []string) {
	a.mu.Lock()
	var others []*run
	for id, r := range a.runs {
		if !slices.Contains(ids, id) {
			others = append(others, r)
		}
	}
	a.mu.Unlock()
	for _, r := range others {
		a.forget(r)
	}
}
