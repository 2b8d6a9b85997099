package engine

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/engine/work"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// leaveTimeout bounds how long the end of a session waits for the requests in it.
// Each has been cancelled; one that goes on all the same holds nobody up.
const leaveTimeout = 15 * time.Second

// visit is the use of a live session by one request. The session cannot expire
// meanwhile, and its end waits for the visit, within leaveTimeout.
type visit struct {
	*session
	engine *Engine
	// leave ends the visit; it can be repeated.
	leave func()
}

// inSession does a piece of work in a live session of the caller's tenant. The
// context of the work ends with the request, the session and the server, and its
// error says so if that is why it failed.
func (e *Engine) inSession(ctx context.Context, id, name string, work func(ctx context.Context, s *session) error) error {
	ctx, v, err := e.enter(ctx, id, name)
	if err != nil {
		return err
	}
	defer v.leave()
	return v.explain(work(ctx, v.session))
}

// enter is how every request comes to a session: who asks, is the server open, is
// the session live. The caller leaves. Whoever hands out something that a client
// may hold for long has the visit end with the context: context.AfterFunc(ctx,
// v.leave).
func (e *Engine) enter(ctx context.Context, id, name string) (context.Context, *visit, error) {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, nil, err
	}
	ctx, done, err := e.work.Begin(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	ctx, v, err := e.visit(ctx, p.Tenant, id, name)
	if err != nil {
		done()
		return nil, nil, err
	}
	leave := v.leave
	v.leave = func() {
		leave()
		done()
	}
	return ctx, v, nil
}

// visit enters a session for work that has begun.
func (e *Engine) visit(ctx context.Context, tenant, id, name string) (context.Context, *visit, error) {
	e.mu.Lock()
	s := e.sessions[id]
	if s == nil || s.info.Tenant != tenant {
		e.mu.Unlock()
		return nil, nil, e.whyGone(ctx, tenant, id)
	}
	ctx, v := e.visitLocked(ctx, s, name)
	e.mu.Unlock()
	return ctx, v, nil
}

// visitLocked enters a session that is live; the engine's lock is held.
func (e *Engine) visitLocked(ctx context.Context, s *session, name string) (context.Context, *visit) {
	done := s.users.Add(name)
	s.use.busy++
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.ended, func() { cancel(context.Cause(s.ended)) })
	return ctx, &visit{session: s, engine: e, leave: sync.OnceFunc(func() {
		stop()
		cancel(nil)
		e.mu.Lock()
		s.use.busy--
		s.use.last = e.now()
		e.mu.Unlock()
		done()
	})}
}

// live finds a live session without using it: looking at it keeps it from
// nothing.
func (e *Engine) live(ctx context.Context, tenant, id string) (*session, error) {
	e.mu.Lock()
	s := e.sessions[id]
	e.mu.Unlock()
	if s == nil || s.info.Tenant != tenant {
		return nil, e.whyGone(ctx, tenant, id)
	}
	return s, nil
}

// explain maps an error of work in a session to the reason that the session, or
// the server, ended.
func (v *visit) explain(err error) error { return v.engine.work.Explain(v.session.explain(err)) }

// explain returns what an error of work in the session's sandbox is for the caller,
// who must not be told that the sandbox died when somebody ended the session.
func (s *session) explain(err error) error {
	cause := context.Cause(s.ended)
	if err == nil || cause == nil || !errors.Is(err, runtime.ErrSandboxLost) && !errors.Is(err, context.Canceled) && !errors.Is(err, cause) {
		return err
	}
	switch {
	case errors.Is(cause, errSessionDeleted):
		return agentsandbox.Errorf(agentsandbox.CodeSessionNotFound, "The session %s was deleted meanwhile. Create a new one.", s.info.ID)
	case errors.Is(cause, errSessionExpired):
		return agentsandbox.Errorf(agentsandbox.CodeSessionNotFound, "The session %s expired meanwhile. Create a new one.", s.info.ID)
	case errors.Is(cause, work.ErrShutdown), errors.Is(cause, work.ErrLeaving):
		return work.Closing()
	}
	return err
}
