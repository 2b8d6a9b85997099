package agent

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/guest"
)

// A run of the user can stop these processes, and they never answer: forkTime bounds
// how long a fork may take, which is tens of milliseconds, and loadTime how long a
// server may load its modules, which takes seconds.
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
	in *interpreters
	wg sync.WaitGroup // refills

	mu      sync.Mutex
	server  *forkServer
	waiting *interpreter
	filling chan struct{} // closed when the refill under way is over; nil: none is
	closed  bool
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
	f.mu.Lock()
	f.closed = true
	server, waiting := f.server, f.waiting
	f.server, f.waiting = nil, nil
	f.mu.Unlock()
	if server != nil {
		server.discard()
	}
	if waiting != nil {
		waiting.discard()
	}
	f.wg.Wait()
}

// run runs code in the fork that waits, if there is one and that is as good as an
// interpreter that is started now.
func (f *forks) run(modules []string, code []byte, env []string, req *guest.RunRequest) (process, bool) {
	if slices.ContainsFunc(env, readAtStart) {
		return process{}, false
	}
	it := f.take(modules)
	if it == nil {
		return process{}, false
	}
	p, err := f.in.runWaiting(it, code, env, req)
	if err != nil {
		it.discard()
		return process{}, false
	}
	p.settle = it.giveBack
	return p, true
}

// take returns the fork that waits, or one that is made now if the libraries are
// loaded: that is sooner than an import. nil: there is none.
func (f *forks) take(modules []string) *interpreter {
	f.mu.Lock()
	s := f.server
	f.mu.Unlock()
	if s != nil && s.loaded() {
		// While it forks, it has a child that would be taken for one that a run has left.
		f.awaitFilling()
		f.mu.Lock()
		none := f.waiting == nil
		f.mu.Unlock()
		if none && f.fit(s, modules) {
			f.refill(modules)
			f.awaitFilling()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	it := f.waiting
	f.waiting = nil
	return it
}

// awaitFilling waits for the fork that is being made, if there is one.
func (f *forks) awaitFilling() {
	f.mu.Lock()
	filling := f.filling
	f.mu.Unlock()
	if filling != nil {
		<-filling
	}
}

// refill starts a fork with those modules that waits, if there is none, without
// waiting for it.
func (f *forks) refill(modules []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.waiting != nil || f.filling != nil || f.closed || f.server != nil && f.server.inUse() {
		return
	}
	done := make(chan struct{})
	f.filling = done
	f.wg.Go(func() {
		it, err := f.next(modules)
		f.mu.Lock()
		f.filling = nil
		if err == nil && !f.closed {
			f.waiting, it = it, nil
		}
		f.mu.Unlock()
		close(done)
		switch {
		case err != nil:
			f.in.a.log.Info("no interpreter with modules waits: the next run loads its own", "error", err)
		case it != nil:
			it.discard()
		}
	})
}

// next makes an interpreter with modules, of the server if that will do.
func (f *forks) next(modules []string) (*interpreter, error) {
	f.mu.Lock()
	s := f.server
	f.mu.Unlock()
	if s != nil && !f.fit(s, modules) {
		f.retire(s)
		s = nil
	}
	if s == nil {
		var err error
		if s, err = f.start(modules); err != nil {
			return nil, err
		}
	}
	it, err := s.fork(f.in.a.children)
	if err != nil {
		f.retire(s)
	}
	return it, err
}

// fit tells whether the forks of a server are as good as an interpreter that is
// started now.
func (f *forks) fit(s *forkServer, modules []string) bool {
	if s.exited() || s.sites != f.in.userSites() {
		return false
	}
	for _, m := range modules {
		if !slices.Contains(s.modules, m) {
			return false
		}
	}
	ours := append(f.in.a.children.others(s.child), s.pid)
	return !slices.ContainsFunc(f.in.a.members(), func(m member) bool { return m.mark == s.mark && !slices.Contains(ours, m.pid) })
}

// start starts a server and waits until it has loaded its modules.
func (f *forks) start(modules []string) (*forkServer, error) {
	it, err := f.in.launch(nil, modules)
	if err != nil {
		return nil, err
	}
	s := &forkServer{interpreter: it, forking: make(chan struct{}), users: 1}
	f.mu.Lock()
	closed := f.closed
	f.server = s
	f.mu.Unlock()
	if closed {
		f.retire(s)
		return nil, errors.New("the agent is ending")
	}
	err = s.awaitLoaded()
	if err != nil {
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
				return errors.New("it ended before it was ready")
			}
			return s.send("fork")
		case <-again.C:
			s.goOn()
		case <-late:
			return fmt.Errorf("it was not ready after %s", loadTime)
		}
	}
}

// goOn continues a server that a run of the user has stopped.
func (s *forkServer) goOn() {
	s.withLive(func(pid int) { _ = unix.Kill(-pid, unix.SIGCONT) })
}

// retire ends a server; its forks go on.
func (f *forks) retire(s *forkServer) {
	f.mu.Lock()
	mine := f.server == s
	if mine {
		f.server = nil
	}
	f.mu.Unlock()
	if mine {
		s.discard()
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

// discard ends the server's process.
func (s *forkServer) discard() {
	s.end()
	s.leave()
}

// lend gives the script to one fork, unless another has it.
func (s *forkServer) lend() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lent {
		return false
	}
	s.lent = true
	return true
}

func (s *forkServer) takeBack() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lent = false
}

func (s *forkServer) inUse() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lent
}

func (s *forkServer) join() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users++
}

// leave takes one user of the script away.
func (s *forkServer) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users--; s.users == 0 {
		s.script.remove()
	}
}

// fork makes an interpreter that waits.
func (s *forkServer) fork(children *children) (*interpreter, error) {
	out, ends, err := newOutputs()
	if err != nil {
		return nil, err
	}
	defer unix.Close(ends[0])
	defer unix.Close(ends[1])
	it := &interpreter{script: s.script, out: out, ready: make(chan struct{}), waits: true, modules: s.modules, sites: s.sites, server: s}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		out.close()
		return nil, os.NewSyscallError("socketpair", err)
	}
	_ = unix.SetNonblock(fds[0], true)
	it.controlFD = fds[0]
	it.control = os.NewFile(uintptr(fds[0]), "interpreter")
	// The kernel says who sends the first byte: nobody's word is taken for it.
	err = unix.SetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_PASSCRED, 1)
	if err == nil {
		err = s.request(ends[0], ends[1], fds[1])
	}
	unix.Close(fds[1])
	var pid int
	if err == nil {
		pid, err = it.hear()
	}
	if err == nil {
		it.child, err = children.adopt(pid, s.mark)
	}
	if err != nil {
		it.control.Close()
		out.close()
		return nil, fmt.Errorf("fork an interpreter: %w", err)
	}
	close(it.ready)
	s.join()
	return it, nil
}

// request asks for a fork with those descriptors.
func (s *forkServer) request(descriptors ...int) error {
	s.goOn()
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

// hear waits until a fork says that it waits, and returns its process id.
func (it *interpreter) hear() (pid int, err error) {
	_ = it.control.SetReadDeadline(time.Now().Add(forkTime))
	raw, err := it.control.SyscallConn()
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
		return 0, errors.New("it ended before it was ready")
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		return 0, errors.New("the kernel does not say who it is")
	}
	who, err := unix.ParseUnixCredentials(&messages[0])
	if err != nil {
		return 0, err
	}
	return int(who.Pid), it.control.SetReadDeadline(time.Time{})
}
