package warm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/guest/proc"
)

// A run of the user can stop these processes, and then they never answer: forkTime
// bounds how long a fork may take, which is tens of milliseconds, and loadTime how long
// a server may load its modules, which takes seconds.
const (
	forkTime = 5 * time.Second
	loadTime = 2 * time.Minute
)

// forks keeps an interpreter with modules waiting in a session whose runs import
// them. To load numpy, pandas and matplotlib ahead takes seconds of CPU. So a
// server does it once, and each interpreter that waits is a fork of the server,
// which takes a fiftieth of that. Interpreters without modules are started one by
// one: two forks, as it takes for the agent to be the parent, cost little less
// than a start.
type forks struct {
	python *Python
	slot   slot[*interpreter]

	mu     sync.Mutex
	server *forkServer
}

func newForks(p *Python) *forks {
	f := &forks{python: p}
	f.slot = slot[*interpreter]{
		what: "interpreter with modules", missing: "no interpreter with modules waits: the next run loads its own", log: p.opts.Logger,
	}
	return f
}

// forkServer is an interpreter with modules loaded that never runs code.
//
// All its forks have the one script that it was started with, so one run at a time
// uses one. They also have its mark: when a run has left processes
// behind, the server is given up, so that they are not taken for the next run's.
type forkServer struct {
	*interpreter
	forking chan struct{} // closed when its modules are loaded

	mu    sync.Mutex
	users int  // itself and its forks; the last to go removes the script's directory
	lent  bool // a run has the script
}

func (f *forks) close() {
	f.slot.close() // no server is started from now on
	if s := f.current(); s != nil {
		f.retire(s)
	}
	f.slot.wait()
}

// start gives a run the fork that waits. It returns nil if there is none, or if that is
// not as good as an interpreter that is started now.
func (f *forks) start(run Run) *process {
	it := f.take(run.Modules)
	if it == nil {
		return nil
	}
	made, err := f.python.handOver(it, run)
	if err != nil {
		it.discard()
		return nil
	}
	made.freeShared = it.returnScript
	return made
}

// take returns the fork that waits, or one that is made now if the modules are
// loaded: that is sooner than an import. nil: there is none.
func (f *forks) take(modules []string) *interpreter {
	if s := f.current(); s != nil && s.loaded() {
		// While it forks, it has a child that would be taken for one that a run has left.
		_ = f.slot.awaitFill(context.Background()) // which takes forkTime at most
		if f.slot.isEmpty() && f.fits(s, modules) {
			f.refill(modules)
			_ = f.slot.awaitFill(context.Background())
		}
	}
	return f.slot.take()
}

// refill starts a fork with those modules that waits, if there is none, without
// waiting for it.
func (f *forks) refill(modules []string) {
	if s := f.current(); s != nil && s.isLent() {
		return
	}
	f.slot.fill(func() (*interpreter, error) { return f.next(modules) })
}

// next makes an interpreter with modules, of the server if that will do.
func (f *forks) next(modules []string) (*interpreter, error) {
	s := f.current()
	if s != nil && !f.fits(s, modules) {
		f.retire(s)
		s = nil
	}
	if s == nil {
		var err error
		if s, err = f.startServer(modules); err != nil {
			return nil, err
		}
	}
	it, err := s.fork()
	if err != nil {
		f.retire(s)
	}
	return it, err
}

// fits tells whether the forks of a server are as good as an interpreter that is
// started now.
func (f *forks) fits(s *forkServer, modules []string) bool {
	if s.Exited() || s.sites != f.python.userSites() {
		return false
	}
	for _, m := range modules {
		if !slices.Contains(s.modules, m) {
			return false
		}
	}
	return !s.HasLeft()
}

func (f *forks) current() *forkServer {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.server
}

// startServer starts a server and waits until it has loaded its modules.
func (f *forks) startServer(modules []string) (*forkServer, error) {
	it, err := f.python.launch(nil, modules)
	if err != nil {
		return nil, err
	}
	s := &forkServer{interpreter: it, forking: make(chan struct{}), users: 1}
	f.mu.Lock()
	f.server = s
	f.mu.Unlock()
	if f.slot.isClosed() {
		f.retire(s)
		return nil, errors.New("the agent is ending")
	}
	if err := s.awaitLoaded(); err != nil {
		f.retire(s)
		return nil, fmt.Errorf("interpreter with modules: %w", err)
	}
	close(s.forking)
	return s, nil
}

// awaitLoaded waits until the modules are loaded, and has the server fork from then
// on.
func (s *forkServer) awaitLoaded() error {
	late := time.After(loadTime)
	again := time.NewTicker(time.Second)
	defer again.Stop()
	for {
		select {
		case <-s.ready:
			if !s.waits {
				return errEndedEarly
			}
			return s.send("fork")
		case <-again.C:
			s.ContinueGroup() // a run of the user may have stopped it
		case <-late:
			return fmt.Errorf("it was not ready after %s", loadTime)
		}
	}
}

var errEndedEarly = errors.New("it ended before it was ready")

// retire ends a server; its forks go on.
func (f *forks) retire(s *forkServer) {
	f.mu.Lock()
	mine := f.server == s
	if mine {
		f.server = nil
	}
	f.mu.Unlock()
	if mine {
		s.end()
		s.removeUser()
	}
}

func (s *forkServer) loaded() bool {
	select {
	case <-s.forking:
		return true
	default:
		return false
	}
}

// lendScript gives the script to one fork, unless another has it.
func (s *forkServer) lendScript() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lent {
		return false
	}
	s.lent = true
	return true
}

func (s *forkServer) takeScriptBack() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lent = false
}

func (s *forkServer) isLent() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lent
}

func (s *forkServer) addUser() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users++
}

// removeUser takes one user of the script away.
func (s *forkServer) removeUser() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users--; s.users == 0 {
		s.script.Remove()
	}
}

// fork makes an interpreter that waits.
func (s *forkServer) fork() (*interpreter, error) {
	w, err := s.forkWaiting()
	if err != nil {
		return nil, fmt.Errorf("fork an interpreter: %w", err)
	}
	s.addUser()
	return &interpreter{waiting: w, modules: s.modules, sites: s.sites, server: s}, nil
}

func (s *forkServer) forkWaiting() (w *waiting, err error) {
	out, ends, err := proc.NewOutput()
	if err != nil {
		return nil, err
	}
	defer unix.Close(ends[0])
	defer unix.Close(ends[1])
	ours, theirs, err := newControl()
	if err != nil {
		out.Close()
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	w = &waiting{script: s.script, out: out, control: ours, ready: make(chan struct{}), waits: true}
	defer func() {
		if err != nil {
			ours.Close()
			out.Close()
		}
	}()
	// The kernel says who sends the first byte: nobody's word is taken for it.
	err = unix.SetsockoptInt(ours.fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1)
	if err == nil {
		err = s.requestFork(ends[0], ends[1], theirs)
	}
	unix.Close(theirs)
	if err != nil {
		return nil, err
	}
	pid, err := awaitFork(ours)
	if err != nil {
		return nil, err
	}
	if w.Child, err = s.Adopt(pid); err != nil {
		return nil, err
	}
	close(w.ready)
	return w, nil
}

// requestFork asks for a fork with those descriptors.
func (s *forkServer) requestFork(descriptors ...int) error {
	s.ContinueGroup() // a run of the user may have stopped it
	_ = s.control.SetWriteDeadline(time.Now().Add(forkTime))
	raw, err := s.control.SyscallConn()
	if err != nil {
		return err
	}
	var failure error
	err = raw.Write(func(fd uintptr) bool {
		failure = unix.Sendmsg(int(fd), []byte{'f'}, unix.UnixRights(descriptors...), nil, unix.MSG_NOSIGNAL)
		return !errors.Is(failure, unix.EAGAIN)
	})
	return errors.Join(err, failure)
}

// awaitFork waits until a fork says on its socket that it waits, and returns its
// process id.
func awaitFork(c control) (pid int, err error) {
	_ = c.SetReadDeadline(time.Now().Add(forkTime))
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var b [1]byte
	oob := make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	var n, oobn int
	var failure error
	err = raw.Read(func(fd uintptr) bool {
		n, oobn, _, _, failure = unix.Recvmsg(int(fd), b[:], oob, unix.MSG_CMSG_CLOEXEC)
		return !errors.Is(failure, unix.EAGAIN)
	})
	if err = errors.Join(err, failure); err != nil {
		return 0, err
	}
	if n != 1 || b[0] != 'r' {
		return 0, errEndedEarly
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		return 0, errors.New("the kernel does not say who it is")
	}
	who, err := unix.ParseUnixCredentials(&messages[0])
	if err != nil {
		return 0, err
	}
	return int(who.Pid), c.SetReadDeadline(time.Time{})
}
