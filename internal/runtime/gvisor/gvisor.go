// Package gvisor makes sandboxes with gVisor, which is linked in: one process of
// the host per sandbox, as the user nobody, in namespaces of its own with an
// empty root, restored from a snapshot.
//
// The package owns what a sandbox is on the host: its process, its control
// groups, gVisor's files for it, the record that lets a later daemon find all of
// these, and how snapshots are made, which package snapshot keeps. It knows
// nothing of templates and how images are built, of sessions, or of HTTP; what
// happens inside a sandbox is the guest agent's, behind the guest package.
//
// A program that uses it must call [Main] before anything else, because a
// sandbox is the same program executed again, after the small one of package
// birth. Linked with -ldflags=-E=agentsandbox_entry it starts a sandbox some
// milliseconds sooner, see entry_amd64.s. Some of gVisor is global to a
// process: its log, the path of the program, and the standard streams that it
// hands on, for which see inertStdio.
//
// It fails closed. A sandbox whose limits cannot be installed and read back, or
// whose process is not in its control groups, is not handed out; whatever fails
// on the way is undone, and what cannot be undone keeps its record for the next
// Recover.
package gvisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	goruntime "runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/runsc/config"
	"gvisor.dev/gvisor/runsc/container"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
	"github.com/agentsandbox/agentsandbox/internal/runtime/gvisor/cgroup"
)

// Options configure a Runtime.
type Options struct {
	// StateDir holds what must outlive the daemon: records of live sandboxes. One
	// Runtime at a time uses it.
	StateDir string
	// CacheDir holds snapshots, shared by all servers of a machine. Everything
	// in it can be deleted at any time.
	CacheDir string
	// Recipes says how the snapshot of a name is made. Its image is an EROFS image
	// that must not use inline data. An error of it is returned as is.
	Recipes func(ctx context.Context, snapshot string) (runtime.Recipe, error)
	// Network makes the network devices of those sandboxes that have one; nil:
	// none can have one.
	Network runtime.Network
	// DiskBytes bounds what a sandbox can write; 0: DefaultDiskBytes.
	DiskBytes int64
	// MemoryWallBytes limits what all sandboxes use together; 0: no limit. New
	// fails if it cannot be installed.
	MemoryWallBytes int64
	// Platform is how gVisor intercepts system calls; "": PlatformSystrap.
	Platform string
	// StartTimeout bounds one Start, the making of a snapshot excluded; 0:
	// DefaultStartTimeout.
	StartTimeout time.Duration
	// Alone is how long a sandbox goes on that no server talks to; then it ends
	// itself. 0: for ever.
	Alone time.Duration
	// DebugDir, if set, gets gVisor's own log of every sandbox, which is slow
	// and large.
	DebugDir string
	// Logger gets what concerns the operator; nil: nothing is logged.
	Logger *slog.Logger
}

// Defaults of Options.
const (
	DefaultDiskBytes    = 1 << 30
	DefaultStartTimeout = 60 * time.Second
)

// Bounds on what happens when nobody may interrupt it any more.
const (
	// destroyTimeout bounds one attempt to remove a sandbox from the host.
	destroyTimeout = 30 * time.Second
	// snapshotTimeout bounds the making of a snapshot, imports included.
	snapshotTimeout = 5 * time.Minute
)

// Runtime implements [runtime.Runtime] with gVisor.
type Runtime struct {
	opts      Options
	log       *slog.Logger
	conf      *config.Config
	bootID    string
	records   records
	parent    *cgroup.Parent
	snapshots *snapshots
	lock      *os.File
	home      *home
	restore   func() // puts the standard streams back
	owned     sync.WaitGroup
	released  atomic.Int64 // sandboxes that were let go of alive
}

var _ runtime.Runtime = (*Runtime)(nil)

// Names in StateDir.
const (
	recordsDir = "records"
	stateLock  = "lock"
)

// runDir is where gVisor's own files of live sandboxes are, in a directory for
// each state directory: its control sockets need short paths, and nothing of
// them outlives the machine's next start.
const runDir = "/run"

// New takes hold of a state directory, which it makes if it is missing. Until
// Close, os.Stdin, os.Stdout and os.Stderr lead nowhere: a program that wants to
// print meanwhile keeps the files that it had before.
func New(opts Options) (*Runtime, error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	if err := firstProgram(); err != nil {
		return nil, err
	}
	r := &Runtime{opts: opts, log: opts.Logger}
	undo := cleanups{}
	defer undo.run()
	if err := os.MkdirAll(filepath.Join(opts.StateDir, recordsDir), 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	r.records = records{dir: filepath.Join(opts.StateDir, recordsDir)}
	var err error
	if r.lock, err = lockStateDir(filepath.Join(opts.StateDir, stateLock)); err != nil {
		return nil, err
	}
	undo.add(func() { r.lock.Close() })
	if r.home, err = openHome(opts.StateDir); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	undo.add(func() { _ = r.home.close() })
	if r.bootID, err = bootID(); err != nil {
		return nil, err
	}
	if r.conf, err = newConfig(r.home.runDir(), opts.Platform, opts.DebugDir); err != nil {
		return nil, err
	}
	if r.parent, err = cgroup.Open(r.home.name); err != nil {
		return nil, err
	}
	if err = r.parent.SetWall(opts.MemoryWallBytes); err != nil {
		return nil, err
	}
	if r.snapshots, err = newSnapshots(r); err != nil {
		return nil, err
	}
	forwardLog(r.log)
	if r.restore, err = inertStdio(); err != nil {
		return nil, err
	}
	undo.release()
	return r, nil
}

func (o *Options) check() error {
	if config.CgoEnabled {
		// A sandbox executes this program again where no shared library is.
		return errors.New("gvisor: this program was built with cgo: build it with CGO_ENABLED=0")
	}
	if o.Recipes == nil {
		return errors.New("gvisor: Options.Recipes is not set")
	}
	for _, dir := range []struct {
		name string
		path *string
	}{{"state directory", &o.StateDir}, {"cache directory", &o.CacheDir}} {
		if *dir.path == "" {
			return fmt.Errorf("%s: is not set", dir.name)
		}
		abs, err := filepath.Abs(*dir.path)
		if err != nil {
			return fmt.Errorf("%s: %w", dir.name, err)
		}
		*dir.path = abs
	}
	if o.DiskBytes == 0 {
		o.DiskBytes = DefaultDiskBytes
	}
	if o.Platform == "" {
		o.Platform = PlatformSystrap
	}
	if o.StartTimeout == 0 {
		o.StartTimeout = DefaultStartTimeout
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// MemoryUse reads how much memory all sandboxes use together that the kernel
// cannot take back, in bytes. Below enough, it may be more than that.
func (r *Runtime) MemoryUse(enough int64) (int64, error) { return r.parent.MemoryUse(enough) }

// Close waits for background work and lets go of the state directory. Every
// sandbox must be destroyed or released before.
func (r *Runtime) Close() error {
	r.owned.Wait()
	r.restore()
	// With sandboxes left, theirs are the groups below and the files; the next
	// Recover sees to them.
	err := r.parent.Remove()
	if errors.Is(err, syscall.EBUSY) {
		err = nil
		if r.released.Load() == 0 {
			err = errors.New("closed while sandboxes are alive: they end when the server starts again")
		}
	} else if gone := r.home.remove(); err == nil {
		err = gone
	}
	return errors.Join(err, r.home.close(), r.lock.Close())
}

// lockStateDir keeps a second daemon out, for as long as the file is open.
func lockStateDir(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("state directory: %s is in use by another server: stop it, or choose another data directory", filepath.Dir(path))
		}
		return nil, fmt.Errorf("state directory: %s: %w", path, err)
	}
	return f, nil
}

// gvisorVersion is the version of gVisor that is linked in. The build of a
// program records it; that of a test does not, but there too the paths of
// gVisor's sources, as the linker keeps them, have it.
func gvisorVersion() string {
	const module = "gvisor.dev/gvisor"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			if dep.Path != module {
				continue
			}
			if dep.Replace != nil {
				return dep.Replace.Path + "@" + dep.Replace.Version
			}
			return dep.Version
		}
	}
	file, _ := goruntime.FuncForPC(reflect.ValueOf(container.New).Pointer()).FileLine(0)
	if _, after, ok := strings.Cut(file, module+"@"); ok {
		version, _, _ := strings.Cut(after, "/")
		return version
	}
	return "unknown"
}

// cleanups is a stack of what undoes the steps so far.
type cleanups []func()

func (c *cleanups) add(f func()) { *c = append(*c, f) }

// run undoes everything, last step first, unless it was released.
func (c *cleanups) run() {
	for i := len(*c) - 1; i >= 0; i-- {
		(*c)[i]()
	}
	*c = nil
}

// release keeps what was done.
func (c *cleanups) release() { *c = nil }
