package gvisor

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/runsc/boot"
	"gvisor.dev/gvisor/runsc/container"

	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
	"github.com/agentsandbox/agentsandbox/internal/runtime/gvisor/birth"
	"github.com/agentsandbox/agentsandbox/internal/runtime/gvisor/cgroup"
	"github.com/agentsandbox/agentsandbox/internal/runtime/gvisor/snapshot"
)

// errSnapshot says that a snapshot could not be restored: it may be damaged, or
// not fit this host any more.
var errSnapshot = errors.New("the snapshot could not be restored")

// Start implements [runtime.Runtime]. To make a snapshot takes seconds;
// Snapshots.Make does so in advance.
func (r *Runtime) Start(ctx context.Context, spec runtime.Spec) (runtime.Sandbox, error) {
	if !validID(spec.ID) {
		return nil, fmt.Errorf("sandbox id: %q must be 1 to %d letters, digits, \"_\" and \"-\"", spec.ID, maxIDLength)
	}
	snap, err := r.snapshots.get(ctx, spec.Snapshot, spec.Limits, func(step string) {
		r.log.Info("making a snapshot: "+step, "snapshot", spec.Snapshot)
	})
	if err != nil {
		return nil, err
	}
	sb, err := r.startFrom(ctx, spec, snap)
	if !errors.Is(err, errSnapshot) || ctx.Err() != nil {
		return sandboxOrNil(sb), err
	}
	r.log.Warn("a snapshot could not be restored; making it again", "snapshot", spec.Snapshot, "error", err)
	if snap, err = r.snapshots.replace(ctx, spec.Snapshot, spec.Limits, snap); err != nil {
		return nil, err
	}
	sb, err = r.startFrom(ctx, spec, snap)
	return sandboxOrNil(sb), err
}

// sandboxOrNil keeps a nil pointer from becoming an interface that is not nil.
func sandboxOrNil(sb *sandbox) runtime.Sandbox {
	if sb == nil {
		return nil
	}
	return sb
}

// startFrom makes a sandbox from a snapshot.
func (r *Runtime) startFrom(ctx context.Context, spec runtime.Spec, snap *snapshot.Snapshot) (*sandbox, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, r.opts.StartTimeout,
		fmt.Errorf("sandbox %s did not start within %v", spec.ID, r.opts.StartTimeout))
	defer cancel()
	m, err := r.launch(ctx, launchSpec{
		id: spec.ID, snapshot: spec.Snapshot, limits: spec.Limits,
		bundle: bundle{dir: snap.Dir}, cores: snap.CPUs, restored: true, network: spec.Network,
	}, func(m *machine) error {
		// Pages that are read in the background would be faster for the first
		// answer, but a failure to read them would kill a sandbox in use.
		return m.withDevice(func(device *boot.CreateLinksAndRoutesArgs) error {
			return m.container.Restore(r.conf, snap.Dir, false, false, device)
		})
	})
	if err != nil {
		return nil, startError(ctx, err)
	}
	undo := cleanups{}
	undo.add(func() { m.abandon(r) })
	defer undo.run()
	client, err := guest.NewClient(ctx, m.conn)
	if err != nil {
		return nil, startError(ctx, m.explain(fmt.Errorf("sandbox %s: %w: no answer from its agent: %w", spec.ID, errSnapshot, err)))
	}
	undo.add(func() { _ = client.Close() })
	id := newIdentity(spec.ID)
	id.MemoryBytes = spec.Limits.MemoryBytes
	id.Resolver = m.resolver()
	id.AloneMS = r.opts.Alone.Milliseconds()
	if err := client.Identify(ctx, id); err != nil {
		return nil, startError(ctx, fmt.Errorf("sandbox %s: its identity could not be set: %w", spec.ID, err))
	}
	undo.release()
	return newSandbox(r, m, client, spec.Limits), nil
}

// startError puts the reason why ctx ended in place of what broke because of it.
func startError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w (%w)", context.Cause(ctx), knownCause{err})
	}
	return err
}

// newIdentity makes what must be each sandbox's own. The host name is the end of
// the id, which in ids of ours is its random part.
func newIdentity(id string) guest.Identity {
	name := strings.ToLower(id)
	if i := strings.LastIndexAny(name, "_-"); i >= 0 && i < len(name)-1 {
		name = name[i+1:]
	}
	const hostNameLength = 12
	if len(name) > hostNameLength {
		name = name[:hostNameLength]
	}
	machine, entropy := make([]byte, 16), make([]byte, 64)
	_, _ = rand.Read(machine) // never fails: crypto/rand ends the program instead
	_, _ = rand.Read(entropy)
	return guest.Identity{Hostname: name, MachineID: hex.EncodeToString(machine), Entropy: entropy}
}

// machine is a sandbox's process and what belongs to it on the host, with the
// socket to its agent, on which nothing was said yet.
type machine struct {
	id        string
	container *container.Container
	process   *process
	group     *cgroup.Group
	conn      net.Conn
	record    record
	link      runtime.Link // nil without a network
}

// launchSpec says what to launch.
type launchSpec struct {
	id       string
	snapshot string
	limits   runtime.Limits
	bundle   bundle
	// cores is how many processors programs see; restored says that they see
	// those of a snapshot.
	cores    int
	restored bool
	// network says that it has a network device.
	network bool
}

// launch makes a sandbox's process: record, control group with its limits,
// process, then whatever begin does (restore a snapshot, or boot). The limits
// hold from the process's first act on and have been read back. On an error
// nothing is left, or its record stays.
func (r *Runtime) launch(ctx context.Context, l launchSpec, begin func(*machine) error) (*machine, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	group, err := r.parent.Group(l.id)
	if err != nil {
		return nil, err
	}
	rec := record{ID: l.id, Snapshot: l.snapshot, CreatedAt: time.Now().UTC(), BootID: r.bootID, Home: r.home.name, Limits: l.limits}
	if err := r.records.create(rec); err != nil {
		return nil, err
	}
	m := &machine{id: l.id, group: group}
	undo := cleanups{}
	undo.add(func() { m.abandon(r) })
	defer undo.run()
	if l.network {
		if err := m.connect(r); err != nil {
			return nil, err
		}
	}
	if err := group.Create(); err != nil {
		return nil, err
	}
	if err := group.SetLimits(walled(l.limits)); err != nil {
		return nil, err
	}
	spec, err := l.bundle.spec()
	if err != nil {
		return nil, err
	}
	if err := m.execute(ctx, r, l, spec); err != nil {
		return nil, fmt.Errorf("sandbox %s: %w", l.id, err)
	}
	if rec.StartTicks, err = startTime(m.process.pid); err != nil {
		return nil, fmt.Errorf("sandbox %s: %w", l.id, err)
	}
	if rec.Link, err = m.linkInode(); err != nil {
		return nil, err
	}
	rec.PID = m.process.pid
	if err := r.records.write(rec); err != nil {
		return nil, err
	}
	m.record = rec
	if err := m.killedWhenDone(ctx, func() error { return begin(m) }); err != nil {
		return nil, m.explain(fmt.Errorf("sandbox %s: %w: %w", l.id, errSnapshot, err))
	}
	undo.release()
	return m, nil
}

// execute makes the process, which joins its control groups as its first act,
// and checks that it did.
func (m *machine) execute(ctx context.Context, r *Runtime, l launchSpec, spec *specs.Spec) error {
	host, inside, err := socketPair()
	if err != nil {
		return err
	}
	m.conn = host
	files, err := birthFiles(m.group, bootArguments(l.limits, l.cores, l.restored))
	if err != nil {
		inside.Close()
		return err
	}
	files[guestConversation] = inside
	stderr := files[birth.StderrFD]
	if m.link != nil {
		if files[birth.LinkFD], err = m.link.Duplicate(); err != nil {
			delete(files, birth.LinkFD)
		}
	}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	if err != nil {
		return err
	}
	if err := m.killedWhenDone(ctx, func() (err error) {
		m.container, err = container.New(r.conf, container.Args{
			ID: l.id, Spec: spec, BundleDir: l.bundle.dir, PassFiles: files,
		})
		return err
	}); err != nil {
		return m.explain(fmt.Errorf("its process did not come up: %w", firstWords(err, stderr)))
	}
	if m.process, err = openProcess(m.container.SandboxPid()); err != nil {
		return err
	}
	switch held, err := m.group.Holds(m.process.pid); {
	case err != nil:
		return err
	case !held:
		return fmt.Errorf("process %d did not join its control groups: does main call gvisor.Main first?", m.process.pid)
	}
	return nil
}

// killedWhenDone calls f, which cannot be interrupted, and kills the sandbox's
// processes when ctx is done, over and over until f has returned: a process may
// be on its way into the group.
func (m *machine) killedWhenDone(ctx context.Context, f func() error) error {
	const again = 10 * time.Millisecond
	returned, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-returned:
			return
		case <-ctx.Done():
		}
		tick := time.NewTicker(again)
		defer tick.Stop()
		for {
			_ = m.group.Signal() // what it cannot kill, abandon will report
			select {
			case <-returned:
				return
			case <-tick.C:
			}
		}
	}()
	err := f()
	close(returned)
	<-stopped
	return errors.Join(oneLine(err), ctx.Err())
}

// oneLine cuts an error of gVisor's off at the end of its first line: the rest
// is stacks of goroutines in another process.
func oneLine(err error) error {
	if err == nil {
		return nil
	}
	first, _, more := strings.Cut(err.Error(), "\n")
	if !more {
		return err
	}
	return errors.New(strings.TrimSuffix(first, ":"))
}

// explain adds the reason that gVisor could not know: a limit that is too low.
func (m *machine) explain(err error) error {
	if u, usageErr := m.group.Usage(); usageErr == nil && u.OOMKills > 0 {
		return fmt.Errorf("its memory limit is too low for it to start, %d bytes at the peak (%w)", u.MemoryPeakBytes, knownCause{err})
	}
	if n, refusedErr := m.group.Refused(); refusedErr == nil && n > 0 {
		return fmt.Errorf("its task limit is too low for it to start (%w)", knownCause{err})
	}
	return err
}

// knownCause hides errSnapshot in an error that something else explains: it has
// the text of the error, and is no other.
type knownCause struct{ error }

// guestConversation is the descriptor on which the agent speaks with us.
const guestConversation = 3

// socketPair makes the conversation's two ends.
func socketPair() (host net.Conn, inside *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket to the agent: %w", err)
	}
	inside = os.NewFile(uintptr(fds[0]), "agent")
	outside := os.NewFile(uintptr(fds[1]), "host")
	defer outside.Close() // FileConn has its own copy
	if host, err = net.FileConn(outside); err != nil {
		inside.Close()
		return nil, nil, fmt.Errorf("socket to the agent: %w", err)
	}
	return host, inside, nil
}

// birthFiles are the descriptors that the new process uses before it becomes a
// sandbox, under the numbers by which it knows them.
func birthFiles(group *cgroup.Group, arguments []string) (map[int]*os.File, error) {
	files := map[int]*os.File{}
	joins, err := group.JoinFiles()
	if err != nil {
		return nil, err
	}
	for i, f := range joins {
		files[birth.GroupFD+i] = f
	}
	undo := cleanups{}
	undo.add(func() {
		for _, f := range files {
			f.Close()
		}
	})
	defer undo.run()
	// This program, even if another has taken its place on the disk.
	if files[birth.ProgramFD], err = os.Open("/proc/self/exe"); err != nil {
		return nil, fmt.Errorf("program of a new sandbox: %w", err)
	}
	if files[birth.StderrFD], err = newStderr(); err != nil {
		delete(files, birth.StderrFD)
		return nil, err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("arguments of a new sandbox: %w", err)
	}
	files[birth.ArgumentsFD] = read
	_, err = write.WriteString(strings.Join(arguments, "\n"))
	if err = errors.Join(err, write.Close()); err != nil {
		return nil, fmt.Errorf("arguments of a new sandbox: %w", err)
	}
	undo.release()
	return files, nil
}
