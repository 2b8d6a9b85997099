package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// errNoVerdict says that the agent did not report a result in time.
var errNoVerdict = errors.New("no result in time")

// follow starts the code and takes its output until the result. Exactly one of the
// result and the error is nil.
func (r *Run) follow(ctx context.Context) (*runtime.Result, error) {
	started := time.Now()
	if r.resume != nil {
		started = r.record.CreatedAt
	}
	result, err := r.followFrom(ctx, started)
	r.record.DurationMS = max(1, int64((time.Since(started)+time.Millisecond/2)/time.Millisecond))
	if r.resume != nil && result != nil {
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
	result, err := r.readOutput(wait)
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
			_, _ = r.readOutput(last)
		}
		return nil, ctx.Err()
	case wait.Err() != nil:
		r.s.supply.Destroy(r.sandbox) // a session sees it die
		return nil, errNoVerdict
	}
	return nil, err
}

// readOutput keeps the output in the record and the spool, within the limit whatever
// the agent sends, until the result.
func (r *Run) readOutput(ctx context.Context) (*runtime.Result, error) {
	rec, s := &r.record, &r.spooled
	for {
		ev, err := r.handle.Next(ctx)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = fmt.Errorf("%w: the run ended without a result", runtime.ErrSandboxLost)
			}
			return nil, err
		}
		switch {
		case ev.Result != nil:
			rec.StdoutBytes, rec.StderrBytes = ev.Result.StdoutBytes, ev.Result.StderrBytes
			rec.Truncated = rec.StdoutBytes > int64(s.stdout+len(rec.Stdout)) || rec.StderrBytes > int64(s.stderr+len(rec.Stderr))
			return ev.Result, nil
		case ev.Stream == runtime.Stdout:
			keep(&rec.Stdout, &rec.StdoutBytes, &rec.Truncated, ev.Data, r.room(len(ev.Data), s.stdout, len(rec.Stdout)))
		default:
			keep(&rec.Stderr, &rec.StderrBytes, &rec.Truncated, ev.Data, r.room(len(ev.Data), s.stderr, len(rec.Stderr)))
		}
	}
}

func keep(to *[]byte, seen *int64, truncated *bool, data []byte, room int) {
	*seen += int64(len(data))
	if len(data) > room {
		data = data[:room]
		*truncated = true
	}
	*to = append(*to, data...)
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
