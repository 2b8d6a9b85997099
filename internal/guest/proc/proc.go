// Package proc starts, measures and ends the processes inside a sandbox.
//
// It owns the processes that the agent starts, each a [Child] with its pipes and its
// mark, and tells of the user's other processes which run they belong to. [Process]
// is the contract between whoever starts the process of a run and whoever supervises
// the run.
//
// It must not know what the processes execute, nor languages, nor how the agent talks
// to the host. It trusts nothing that a process can change about itself, and no wait
// depends on a process of the user.
//
// It fails with the errors of system calls. What cannot be read of a process counts
// as nothing, because then the process has ended.
package proc

import (
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Process is what one run runs as: a process that has waited for the run, one that
// was forked for it, or one that was started.
type Process interface {
	// Output has our ends of the standard output and error. Whoever reads them
	// closes them, too.
	Output() Output
	// Begun tells whether the code of the run has begun. Before that, another process
	// can run it as well. What it tells of a process that has ended is final.
	Begun() bool
	// Preceded tells whether other code of the user may run before that of the run,
	// and exit: a sitecustomize on PYTHONPATH.
	Preceded() bool
	// Done is closed when the main process has ended. Exit says how, from then on.
	Done() <-chan struct{}
	Exit() Exit
	// CPU is how much the run has used so far, with all that it has started.
	CPU() time.Duration
	// Interrupt does what Ctrl-C does on a terminal.
	Interrupt()
	// Continue continues the main process, which another run may have stopped.
	Continue()
	// Kill ends the process and all that it has started. It returns how much CPU the
	// latter had used, which Exit does not have.
	Kill() time.Duration
	// FreeShared frees what the next run may need. It is called when the main process
	// has ended, before the result of the run is told.
	FreeShared()
	// Release frees everything else but the output.
	Release()
}

// Exit is how a process ended.
type Exit struct {
	Status unix.WaitStatus
	// Duration and CPU are counted from the moment at which the process was given its
	// run. CPU has what the children used that the process waited for.
	Duration, CPU time.Duration
}

// User is whose rights code has.
type User struct{ UID, GID int }

// Options say what a table is for.
type Options struct {
	// Init says that this program is process 1 of a sandbox: it reaps orphans, and
	// can reach every process of User at once.
	Init bool
	// User is whose rights processes have; nil: those of this program.
	User *User
	// AsUser calls a function with the rights of User.
	AsUser func(func() error) error
	// Dir is where processes start.
	Dir    string
	Logger *slog.Logger
}

// Table has the processes that were started and have not been reaped. An exited one
// is reaped under the lock, and signals are sent under the lock, so that no signal
// reaches another process that got the same id. Its methods are safe for concurrent
// use.
type Table struct {
	opts Options
	wg   sync.WaitGroup // reapers

	mu    sync.Mutex
	live  map[int]*Child
	marks mark // the last that was given
	// born wakes the reaper of process 1 when there is something to wait for.
	born chan struct{}
	stop chan struct{}
}

// New makes a table without processes.
func New(opts Options) *Table {
	t := &Table{
		opts: opts,
		live: map[int]*Child{},
		born: make(chan struct{}, 1),
		stop: make(chan struct{}),
	}
	if opts.Init {
		t.wg.Go(t.reapAll)
	}
	return t
}

// Close waits for the reapers. Every child must have been killed.
func (t *Table) Close() {
	close(t.stop)
	t.wg.Wait()
}

// Program is what Start starts.
type Program struct {
	Path string
	Args []string // with the name
	Env  []string
	// Files are the descriptors from 3 on.
	Files []uintptr
	// Fork, if set, calls the function that forks, and returns what that returns. It
	// can prepare the thread from which the process is forked.
	Fork func(fork func() (pid int, err error)) (int, error)
}

// Start starts a program with the user's rights, with /dev/null as input and pipes as
// output, in a session of its own.
func (t *Table) Start(p Program) (*Child, Output, error) {
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, Output{}, os.NewSyscallError("open /dev/null", err)
	}
	defer unix.Close(null)
	out, ends, err := NewOutput()
	if err != nil {
		return nil, Output{}, err
	}
	defer unix.Close(ends[0])
	defer unix.Close(ends[1])
	ch, err := t.start(p, append([]uintptr{uintptr(null), uintptr(ends[0]), uintptr(ends[1])}, p.Files...))
	if err != nil {
		out.Close()
		return nil, Output{}, err
	}
	return ch, out, nil
}

func (t *Table) start(p Program, files []uintptr) (*Child, error) {
	sys := &syscall.SysProcAttr{Setsid: true}
	// The lock keeps the reaper of process 1 from taking a child that is not
	// in the table yet for an orphan.
	t.mu.Lock()
	defer t.mu.Unlock()
	var given mark
	if user := t.opts.User; user != nil {
		t.marks++
		given = firstMark + t.marks
		sys.Credential = &syscall.Credential{Uid: uint32(user.UID), Gid: uint32(user.GID), Groups: []uint32{uint32(given)}}
	}
	fork := func() (int, error) {
		return syscall.ForkExec(p.Path, p.Args, &syscall.ProcAttr{Dir: t.opts.Dir, Env: p.Env, Files: files, Sys: sys})
	}
	var pid int
	var err error
	if p.Fork != nil {
		pid, err = p.Fork(fork)
	} else {
		pid, err = fork()
	}
	if err != nil {
		return nil, err
	}
	ch := &Child{table: t, pid: pid, mark: given, done: make(chan struct{})}
	t.live[pid] = ch
	if !t.opts.Init {
		t.wg.Go(func() { t.reapOne(pid) })
		return ch, nil
	}
	select {
	case t.born <- struct{}{}:
	default:
	}
	return ch, nil
}
