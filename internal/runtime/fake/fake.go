// Package fake is a runtime without isolation, for unit tests: a sandbox is a
// temporary directory, served by the real guest agent in this process, which
// runs the machine's own python3 and bash with the rights of the test.
//
// Code under test sees the whole contract: it passes the suite of package
// runtimetest, and sandboxes can be made to fail. Never give it code that is
// not the test's own.
package fake

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/guest/agent"
	"github.com/agentsandbox/agentsandbox/internal/guest/assets"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// Options adjust a fake runtime. The zero value is fine.
type Options struct {
	// Dir is where sandboxes are made; empty: the system's temporary directory.
	Dir string
	// Snapshots are the names that are known; empty: every name is.
	Snapshots []string
	// OnStart is called before a sandbox is made; its error fails Start.
	OnStart func(ctx context.Context, spec runtime.Spec) error
	// OnSetLimits is called before limits are set; its error fails SetLimits.
	OnSetLimits func(id string, limits runtime.Limits) error
	// Logger gets what the agents log; nil: nobody does.
	Logger *slog.Logger
}

// Runtime makes fake sandboxes. It is safe for concurrent use.
type Runtime struct {
	opts Options

	mu   sync.Mutex
	live map[string]*Sandbox // the latest handle of each
	made int

	snapshots snapshots
}

var _ runtime.Runtime = (*Runtime)(nil)

// New makes a runtime.
func New(opts Options) *Runtime {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	return &Runtime{opts: opts, live: map[string]*Sandbox{}, snapshots: snapshots{known: opts.Snapshots, made: map[string]runtime.Manifest{}}}
}

// Close fails if a sandbox is left.
func (r *Runtime) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.live); n > 0 {
		return fmt.Errorf("fake runtime: %d sandboxes were not destroyed", n)
	}
	return nil
}

// Sandbox returns a live sandbox, or nil.
func (r *Runtime) Sandbox(id string) *Sandbox {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.live[id]
}

// Live counts the sandboxes that were not destroyed.
func (r *Runtime) Live() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.live)
}

// Made counts the sandboxes that were ever made.
func (r *Runtime) Made() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.made
}

// Start makes a sandbox.
func (r *Runtime) Start(ctx context.Context, spec runtime.Spec) (runtime.Sandbox, error) {
	if r.opts.OnStart != nil {
		if err := r.opts.OnStart(ctx, spec); err != nil {
			return nil, err
		}
	}
	if _, err := r.snapshots.Make(ctx, spec.Snapshot, spec.Limits, nil); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	sb := newSandbox(r, &machine{spec: spec, limits: spec.Limits})
	r.mu.Lock()
	if _, taken := r.live[spec.ID]; taken || spec.ID == "" {
		r.mu.Unlock()
		return nil, fmt.Errorf("fake runtime: the id %q is empty or in use", spec.ID)
	}
	r.live[spec.ID] = sb
	r.made++
	r.mu.Unlock()
	if err := sb.boot(ctx); err != nil {
		return nil, errors.Join(err, sb.Destroy(context.WithoutCancel(ctx)))
	}
	return sb, nil
}

// Sandbox is one process's hold of a temporary directory with an agent.
type Sandbox struct {
	runtime.Guest // the client; nil until booted
	*machine

	runtime *Runtime
	client  *guest.Client
	done    chan struct{}
	removed atomic.Bool // destroyed
	dead    sync.Once
	destroy sync.Once

	relMu    sync.Mutex
	released bool
}

// machine is what there is of a sandbox, whoever holds it.
type machine struct {
	spec    runtime.Spec
	dir     string
	agent   *agent.Agent
	serving sync.WaitGroup

	mu     sync.Mutex
	limits runtime.Limits
	usage  runtime.Usage
}

func newSandbox(r *Runtime, m *machine) *Sandbox {
	return &Sandbox{runtime: r, machine: m, done: make(chan struct{})}
}

var _ runtime.Sandbox = (*Sandbox)(nil)

// boot makes the directory, the agent and the conversation.
func (s *Sandbox) boot(ctx context.Context) (err error) {
	if s.dir, err = os.MkdirTemp(s.runtime.opts.Dir, "fake-sandbox-"); err != nil {
		return err
	}
	launcherDir := filepath.Join(s.dir, guest.LauncherDir)
	for _, dir := range []string{agentsandbox.Workspace, agentsandbox.OutputDir, "/etc", "/tmp", guest.Home, guest.LauncherDir} {
		if err := os.MkdirAll(filepath.Join(s.dir, dir), 0o755); err != nil {
			return err
		}
	}
	for _, f := range assets.Launchers() {
		if err := os.WriteFile(filepath.Join(s.dir, f.Path), f.Data, f.Mode); err != nil {
			return err
		}
	}
	python, err := lookFirst("/usr/bin/python3", "python3")
	if err != nil {
		return err
	}
	bash, err := lookFirst("/bin/bash", "bash")
	if err != nil {
		return err
	}
	workspace := filepath.Join(s.dir, agentsandbox.Workspace)
	s.agent, err = agent.New(agent.Options{
		Root:        s.dir,
		Python:      python,
		Bash:        bash,
		LauncherDir: launcherDir,
		Env: []string{
			"PATH=" + os.Getenv("PATH"),
			"HOME=" + filepath.Join(s.dir, guest.Home),
			"LANG=C.UTF-8",
			"PWD=" + workspace,
		},
		Logger: s.runtime.opts.Logger,
	})
	if err != nil {
		return err
	}
	if err := s.converse(ctx); err != nil {
		return err
	}
	return s.client.Identify(ctx, guest.Identity{Hostname: "fake", MachineID: "0123456789abcdef0123456789abcdef"})
}

// converse connects the agent and its client.
func (s *Sandbox) converse(ctx context.Context) error {
	host, inside, err := socketpair()
	if err != nil {
		return err
	}
	s.serving.Go(func() {
		err := s.agent.Serve(context.WithoutCancel(ctx), inside)
		s.runtime.opts.Logger.Debug("the conversation ended", "sandbox", s.spec.ID, "error", err)
		inside.Close()
	})
	if s.client, err = guest.NewClient(ctx, host); err != nil {
		return err
	}
	s.Guest = s.client
	s.serving.Go(func() {
		<-s.client.Done()
		s.dead.Do(func() { close(s.done) })
	})
	return nil
}

func lookFirst(names ...string) (string, error) {
	var errs error
	for _, name := range names {
		path, err := exec.LookPath(name)
		if err == nil {
			return path, nil
		}
		errs = errors.Join(errs, err)
	}
	return "", fmt.Errorf("fake runtime: this machine lacks an interpreter: %w", errs)
}

// socketpair returns two ends that are connected.
func socketpair() (net.Conn, net.Conn, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	var conns [2]net.Conn
	var errs error
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "conversation")
		var err error
		conns[i], err = net.FileConn(f)
		errs = errors.Join(errs, err, f.Close())
	}
	return conns[0], conns[1], errs
}

// ID returns the id of the spec.
func (s *Sandbox) ID() string { return s.spec.ID }

// Dir returns the directory that stands for "/" in the sandbox.
func (s *Sandbox) Dir() string { return s.dir }

// Spec returns what the sandbox was started with.
func (s *Sandbox) Spec() runtime.Spec { return s.spec }

// Limits returns the limits set last. They are not enforced.
func (s *Sandbox) Limits() runtime.Limits {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.limits
}

// SetLimits records limits.
func (s *Sandbox) SetLimits(_ context.Context, limits runtime.Limits) error {
	if s.gone() {
		return fmt.Errorf("set the limits of %s: %w", s.spec.ID, runtime.ErrSandboxLost)
	}
	if hook := s.runtime.opts.OnSetLimits; hook != nil {
		if err := hook(s.spec.ID, limits); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limits = limits
	return nil
}

// SetUsage says what Usage returns.
func (s *Sandbox) SetUsage(u runtime.Usage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.usage = u
}

// Usage returns what SetUsage was given, until the sandbox is destroyed.
func (s *Sandbox) Usage() (runtime.Usage, error) {
	if s.removed.Load() {
		return runtime.Usage{}, fmt.Errorf("read the usage of %s: %w", s.spec.ID, runtime.ErrSandboxLost)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.usage, nil
}

// WorkingSet is the memory of Usage.
func (s *Sandbox) WorkingSet() (int64, error) {
	u, err := s.Usage()
	return u.MemoryBytes, err
}

// Done is closed when the sandbox has died or was destroyed.
func (s *Sandbox) Done() <-chan struct{} { return s.done }

func (s *Sandbox) gone() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// Die makes the sandbox die, as one does that is killed by the kernel.
func (s *Sandbox) Die() { s.client.Close() }

// Destroy ends everything and removes the directory.
func (s *Sandbox) Destroy(context.Context) error {
	s.relMu.Lock()
	defer s.relMu.Unlock()
	if s.released {
		return nil
	}
	s.destroy.Do(func() {
		s.removed.Store(true)
		if s.client != nil {
			s.client.Close()
		}
		s.serving.Wait()
		if s.agent != nil {
			s.agent.Close()
		}
		s.dead.Do(func() { close(s.done) })
		if s.dir != "" {
			if err := removeAll(s.dir); err != nil {
				s.runtime.opts.Logger.Error("a fake sandbox was not removed", "dir", s.dir, "error", err)
			}
		}
		s.runtime.mu.Lock()
		delete(s.runtime.live, s.spec.ID)
		s.runtime.mu.Unlock()
	})
	return nil
}

// removeAll removes a directory, whatever permissions the code in it has set.
func removeAll(dir string) error {
	if os.RemoveAll(dir) == nil {
		return nil
	}
	_ = filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if entry != nil && entry.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}
