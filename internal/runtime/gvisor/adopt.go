package gvisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"gvisor.dev/gvisor/pkg/sentry/control"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/runsc/container"

	"github.com/agentsandbox/agentsandbox/internal/guest"
)

// adoptTimeout bounds how long a sandbox may take to answer a new process. It
// needs some tens of milliseconds of CPU for that; on a host with none to spare,
// patience costs less than the session.
const adoptTimeout = 60 * time.Second

const (
	// attachPatience is how long a sandbox that lives may refuse a new conversation:
	// longer than its agent takes to end the user's processes.
	attachPatience = 5 * time.Second
	attachPause    = 20 * time.Millisecond
)

// errNotOurs says that a record does not lead to a living process of ours.
var errNotOurs = errors.New("its process has ended")

// adopt takes over a sandbox of an earlier process: it proves that the process of
// the record is the sandbox's, installs its limits once more and reads them back,
// and begins a conversation with its agent. After an error the sandbox is as it
// was.
func (r *Runtime) adopt(ctx context.Context, rec record) (*sandbox, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, adoptTimeout, fmt.Errorf("it did not answer within %v", adoptTimeout))
	defer cancel()
	group, err := r.parent.Group(rec.ID)
	if err != nil {
		return nil, err
	}
	m := &machine{id: rec.ID, group: group, record: rec}
	if m.process, err = r.provenProcess(rec); err != nil {
		return nil, err
	}
	undo := cleanups{}
	undo.add(m.process.close)
	defer undo.run()
	switch held, err := group.Holds(rec.PID); {
	case err != nil:
		return nil, err
	case !held:
		return nil, fmt.Errorf("process %d is not in its control groups", rec.PID)
	}
	if err := group.SetLimits(walled(rec.Limits)); err != nil {
		return nil, fmt.Errorf("its limits are not in force: %w", err)
	}
	if m.link, err = r.adoptLink(rec, m.process); err != nil {
		return nil, err
	}
	undo.add(func() { m.closeLink(r) })
	var client *guest.Client
	if err := patiently(ctx, m.process.ended, func() (err error) {
		client, err = r.attach(ctx, m)
		return err
	}); err != nil {
		return nil, startError(ctx, err)
	}
	undo.release()
	return newSandbox(r, m, client, rec.Limits), nil
}

// patiently calls attach again while it fails and the process lives. The program
// that attach has run in the sandbox is root's, and so is the real user of the
// agent's threads: when the agent ends every process of the user, at the end of a
// run or for want of memory, that program dies with them.
func patiently(ctx context.Context, ended <-chan struct{}, attach func() error) error {
	patience := time.After(attachPatience)
	for {
		err := attach()
		if err == nil || ctx.Err() != nil {
			return err
		}
		select {
		case <-ended:
			return err
		case <-patience:
			return err
		case <-ctx.Done():
			return err
		case <-time.After(attachPause):
		}
	}
}

// provenProcess opens the process of a record, if that is what its number stands
// for now: number, start time and the host's run are the same.
func (r *Runtime) provenProcess(rec record) (*process, error) {
	if rec.PID == 0 || rec.BootID != r.bootID {
		return nil, errNotOurs
	}
	p, err := openProcess(rec.PID)
	if errors.Is(err, os.ErrProcessDone) {
		return nil, errNotOurs
	}
	if err != nil {
		return nil, err
	}
	ticks, err := startTime(rec.PID) // after opening: it is this process's
	if err == nil && ticks == rec.StartTicks {
		return p, nil
	}
	p.close()
	if err == nil || errors.Is(err, os.ErrNotExist) {
		return nil, errNotOurs
	}
	return nil, err
}

// attach begins a conversation with the agent of a sandbox that lost its last
// one: a program of the agent's, run as root inside, hands the agent a new socket.
func (r *Runtime) attach(ctx context.Context, m *machine) (*guest.Client, error) {
	id := container.FullID{SandboxID: m.id, ContainerID: m.id}
	c, err := container.Load(r.conf.RootDir, id, container.LoadOpts{Exact: true, SkipCheck: true})
	if err != nil {
		return nil, fmt.Errorf("gVisor's files: %w", oneLine(err))
	}
	host, inside, err := socketPair()
	if err != nil {
		return nil, err
	}
	executed := make(chan error, 1)
	r.owned.Go(func() {
		defer inside.Close() // the sandbox has its own copy
		_, err := c.Execute(r.conf, &control.ExecArgs{
			Argv:             []string{guest.AgentPath, guest.AttachCommand},
			WorkingDirectory: "/",
			NoNewPrivileges:  true,
			Capabilities:     &auth.TaskCapabilities{},
			FilePayload:      control.NewFilePayload(map[int]*os.File{guestConversation: inside}, nil),
		})
		executed <- oneLine(err)
	})
	select {
	case err := <-executed:
		if err != nil {
			host.Close()
			return nil, fmt.Errorf("the sandbox does not obey: %w", err)
		}
	case <-ctx.Done():
		host.Close()
		return nil, context.Cause(ctx)
	}
	client, err := guest.NewClient(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("no answer from its agent: %w", err)
	}
	m.conn = host
	return client, nil
}

// isReleased tells whether Release was called.
func (s *sandbox) isReleased() bool {
	select {
	case <-s.released:
		return true
	default:
		return false
	}
}

// Release implements [runtime.Sandbox].
func (s *sandbox) Release() {
	s.mu.Lock()
	if s.isReleased() || s.teardown != nil {
		s.mu.Unlock()
		return
	}
	close(s.released)
	s.mu.Unlock()
	s.r.released.Add(1)
	_ = s.client.Close() // the agent sees an end either way
	<-s.done
	s.m.closeLink(s.r)
	s.m.process.close()
}
