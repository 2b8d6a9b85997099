package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/eventlog"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// errNoVerdict says that the agent did not report a result in time.
var errNoVerdict = errors.New("no result in time")

// follow starts the code and takes its output until the result. Exactly one of the
// result and the error is nil.
func (r *Run) follow(ctx context.Context) (*runtime.Result, error) {
	started := time.Now()
	if r.resumed {
		started = r.record.CreatedAt
	}
	result, err := r.followFrom(ctx, started)
	r.record.DurationMS = max(1, int64((time.Since(started)+time.Millisecond/2)/time.Millisecond))
	if r.resumed && result != nil {
		// It may have ended long before this server looked.
		r.record.DurationMS = min(r.record.DurationMS, max(1, result.Duration.Milliseconds()))
	}
	return result, err
}

func (r *Run) followFrom(ctx context.Context, started time.Time) (*runtime.Result, error) {
	handle, err := r.start(ctx)
	if err != nil {
		return nil, err
	}
	r.handle = handle
	wait, cancel := context.WithTimeoutCause(ctx, max(r.bounds.Timeout-time.Since(started), 0)+r.s.verdictGrace, errNoVerdict)
	defer cancel()
	result, err := r.takeOutput(wait)
	switch {
	case err == nil:
		return result, nil
	case r.survivesShutdown(ctx):
		return nil, ctx.Err()
	case ctx.Err() != nil:
		// The caller went away, or the session was deleted: end the code, and
		// keep the output that was on its way.
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), killGrace)
		defer cancel()
		if handle.Kill(last) == nil {
			_, _ = r.takeOutput(last)
		}
		return nil, ctx.Err()
	case wait.Err() != nil:
		r.s.supply.Destroy(r.sandbox) // a session sees it die
		return nil, errNoVerdict
	}
	return nil, err
}

// takeOutput appends what the sandbox says to the log, until the result. Each of its
// messages is one event, so that a run that is resumed has the same numbers again.
func (r *Run) takeOutput(ctx context.Context) (*runtime.Result, error) {
	for {
		ev, err := r.handle.Next(ctx)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = fmt.Errorf("%w: the run ended without a result", runtime.ErrSandboxLost)
			}
			return nil, err
		}
		if ev.Result != nil {
			return ev.Result, nil
		}
		kind := eventlog.Stderr
		if ev.Stream == runtime.Stdout {
			kind = eventlog.Stdout
		}
		if err := r.log.Append(kind, ev.Data); err != nil {
			return nil, err
		}
	}
}

// errLeftRunning says that the run of a request is left to the next server.
var errLeftRunning = errors.New("the run goes on")

func leftRunning(id string) error {
	return &agentsandbox.Error{
		Code:              agentsandbox.CodeUnavailable,
		Err:               errLeftRunning,
		Message:           "The server is restarting. The run goes on in its session, and is not to be repeated: its record " + id + " gets the outcome.",
		RetryAfterSeconds: 5,
	}
}
