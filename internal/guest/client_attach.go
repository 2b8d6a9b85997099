package guest

import (
	"context"
	"fmt"
	"slices"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// Attach follows a run that an earlier conversation started. What the agent says
// is held against the limits of the command as if this conversation had started
// the run: what was taken before counts.
func (c *Client) Attach(ctx context.Context, cmd runtime.Command, from runtime.Progress) (runtime.Run, error) {
	req, err := runRequest(cmd)
	if err != nil {
		return nil, err
	}
	if from.Stdout < 0 || from.Stderr < 0 {
		return nil, fmt.Errorf("%w: %d and %d bytes of output cannot have been taken", runtime.ErrInvalid, from.Stdout, from.Stderr)
	}
	s, err := c.open(ctx, &Request{Method: MethodAttach, Run: &RunRequest{ID: cmd.ID, After: from.Sequence}})
	if err != nil {
		return nil, fmt.Errorf("attach to run %s: %w", cmd.ID, err)
	}
	r := newRun(c, s, cmd, req)
	r.seq, r.stdout, r.stderr = from.Sequence, from.Stdout, from.Stderr
	for _, f := range from.Changed {
		r.changed = append(r.changed, f)
		r.bytes += f.SizeBytes
	}
	return r, nil
}

// Forget ends a run and forgets it.
func (c *Client) Forget(ctx context.Context, id string) error {
	if !runIDPattern.MatchString(id) || len(id) > MaxRunID {
		return fmt.Errorf("%w: %q is not the id of a run", runtime.ErrInvalid, id)
	}
	var reply struct{}
	if err := c.call(ctx, &Request{Method: MethodForget, Run: &RunRequest{ID: id}}, &reply); err != nil {
		return fmt.Errorf("forget run %s: %w", id, err)
	}
	return nil
}

// Retain ends and forgets every run of the sandbox but those named.
func (c *Client) Retain(ctx context.Context, ids []string) error {
	if i := slices.IndexFunc(ids, func(id string) bool { return !runIDPattern.MatchString(id) || len(id) > MaxRunID }); i >= 0 {
		return fmt.Errorf("%w: %q is not the id of a run", runtime.ErrInvalid, ids[i])
	}
	var reply struct{}
	if err := c.call(ctx, &Request{Method: MethodRetain, Retain: ids}, &reply); err != nil {
		return fmt.Errorf("forget runs: %w", err)
	}
	return nil
}

// progress is how far the caller of Next has taken the run.
func (r *run) progress() runtime.Progress {
	return runtime.Progress{Sequence: r.seq, Stdout: r.stdout, Stderr: r.stderr, Changed: slices.Clone(r.changed)}
}

// keepError marks an error of the caller's own, which is not the agent's fault.
type keepError struct{ err error }

func (e *keepError) Error() string { return e.err.Error() }
