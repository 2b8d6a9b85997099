// Package work keeps count of what the server is doing, so that its end can wait for
// that, within a bound, and can say what it waits for. It knows nothing of what the
// work is.
package work

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

// cancelledTimeout bounds how long Close waits for work that it has cancelled.
const cancelledTimeout = 60 * time.Second

// The causes for which a Group ends its work.
var (
	// ErrShutdown says that the server ends.
	ErrShutdown = errors.New("the server is shutting down")
	// ErrLeaving says that it ends and leaves its sessions, and the runs in them, to the
	// next server.
	ErrLeaving = errors.New("the server ends, and leaves its sessions to the next one")
)

// Group is the work of a server: its requests, and the clean-up that outlives them.
type Group struct {
	log     *slog.Logger
	tracker Tracker
	ctx     context.Context
	cancel  context.CancelCauseFunc

	mu      sync.Mutex
	closing bool
}

// NewGroup returns a group without work.
func NewGroup(log *slog.Logger) *Group {
	ctx, cancel := context.WithCancelCause(context.Background())
	return &Group{log: log, ctx: ctx, cancel: cancel}
}

// Context ends, with its cause, when all work must end.
func (g *Group) Context() context.Context { return g.ctx }

// Begin registers a piece of work, which calls done at its end. The context ends with
// the caller's or with the group's. Once the group is closing, it is refused with an
// error for the caller, of code unavailable.
func (g *Group) Begin(ctx context.Context, name string) (inside context.Context, done func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closing {
		return nil, nil, Closing()
	}
	ended := g.tracker.Add(name)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(g.ctx, func() { cancel(context.Cause(g.ctx)) })
	return ctx, func() {
		stop()
		cancel(nil)
		ended()
	}, nil
}

// Go runs work that outlives its request. The caller is itself registered work, so that
// Close cannot have finished waiting.
func (g *Group) Go(name string, f func()) {
	ended := g.tracker.Add(name)
	go func() {
		defer ended()
		f()
	}()
}

// Refuse has Begin refuse new work.
func (g *Group) Refuse() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closing = true
}

// Close refuses new work and waits for what is under way. When ctx is done, that is
// cancelled with the cause that is then told, and waited for a bounded time more.
func (g *Group) Close(ctx context.Context, cause func() error) {
	g.Refuse()
	if g.tracker.Wait(ctx) != "" {
		g.cancel(cause())
		last, stop := context.WithTimeout(context.WithoutCancel(ctx), cancelledTimeout)
		defer stop()
		if overdue := g.tracker.Wait(last); overdue != "" {
			g.log.Error("work goes on that was cancelled, and is not waited for any more",
				"work", overdue, "waited_ms", cancelledTimeout.Milliseconds())
		}
	}
	g.cancel(cause())
}

// Explain maps an error of work that the end of the group cut short to the refusal of a
// server that ends. Other errors, and those that are for the caller, stay.
func (g *Group) Explain(err error) error {
	var known *agentsandbox.Error
	cause := context.Cause(g.ctx)
	if err == nil || cause == nil || errors.As(err, &known) || !errors.Is(err, context.Canceled) && !errors.Is(err, cause) {
		return err
	}
	return Closing()
}

// Closing is the refusal of a server that ends.
func Closing() error {
	return &agentsandbox.Error{
		Code:              agentsandbox.CodeUnavailable,
		Message:           "The server is shutting down. Try again in a moment.",
		RetryAfterSeconds: 5,
	}
}
