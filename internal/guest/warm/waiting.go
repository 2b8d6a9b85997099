package warm

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/guest/proc"
	"github.com/agentsandbox/agentsandbox/internal/guest/script"
)

// waiting is a process that was started for one run, and may still wait for it. Its
// launcher says on the control socket when it waits, and when it has the run: see the
// launchers for what they are told.
type waiting struct {
	*proc.Child
	script  script.Script
	out     proc.Output
	control control
	ready   chan struct{} // closed when it waits, or never will; then waits is set
	waits   bool

	mu    sync.Mutex
	begun bool // the launcher has said that it has the run
}

// control is our end of a launcher's descriptor 3.
type control struct {
	*os.File
	fd int
}

// newControl makes the socket of a launcher. The launcher's end is the caller's to
// close.
func newControl() (ours control, theirs int, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return control{}, -1, err
	}
	_ = unix.SetNonblock(fds[0], true)
	return control{os.NewFile(uintptr(fds[0]), "launcher"), fds[0]}, fds[1], nil
}

// launch starts a program that will wait for its script.
func launch(opts *Options, program func(script.Script) proc.Program) (*waiting, error) {
	s, err := opts.Scripts.New(opts.Extension)
	if err != nil {
		return nil, notStarted("make room for the script", err)
	}
	ours, theirs, err := newControl()
	if err != nil {
		s.Remove()
		return nil, notStarted("make a socket for the interpreter", err)
	}
	defer unix.Close(theirs)
	w := &waiting{script: s, control: ours, ready: make(chan struct{})}
	p := program(s)
	p.Path, p.Files, p.Fork = opts.Program, []uintptr{uintptr(theirs)}, s.Fork
	if w.Child, w.out, err = opts.Processes.Start(p); err != nil {
		ours.Close()
		s.Remove()
		return nil, notStarted("start "+filepath.Base(p.Path), err)
	}
	return w, nil
}

// awaitReady reads what the launcher says first.
func (w *waiting) awaitReady() {
	defer close(w.ready)
	var b [1]byte
	n, _ := w.control.Read(b[:])
	w.waits = n == 1 && b[0] == 'r'
}

func (w *waiting) isReady() bool {
	select {
	case <-w.ready:
		return true
	default:
		return false
	}
}

// end ends a process that no run has been given.
func (w *waiting) end() {
	w.KillTree()
	w.control.Close()
	<-w.Done()
	w.out.Close()
}

// process is what a run runs as, from the moment that the launcher is told.
func (w *waiting) process(removeScript func()) *process {
	return &process{
		Child: w.Child, out: w.out, started: time.Now(), usedBefore: w.OwnCPU(), begun: w.hasBegun,
		release: func() {
			w.control.Close()
			removeScript()
		},
	}
}

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// hasBegun tells whether the launcher has said that it has the run. The launcher
// says so before the first of the code is run, so nothing of the run has happened
// before.
func (w *waiting) hasBegun() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.begun {
		return true
	}
	if w.Exited() {
		_ = w.control.SetReadDeadline(longAgo) // another process may hold its end
		<-w.ready
	}
	if !w.isReady() {
		return false // what comes first has not been read yet
	}
	var b [4]byte
	n, _ := unix.Read(w.control.fd, b[:])
	w.begun = n > 0 && bytes.IndexByte(b[:n], 'g') >= 0
	return w.begun
}
