package sessions

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/engine/work"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// leaveTimeout bounds how long the end of a session waits for the requests in it.
// Each has been cancelled; one that goes on all the same holds nobody up.
const leaveTimeout = 15 * time.Second

// Visit is the use of a live session by one request. The session cannot expire
// meanwhile, and its end waits for the visit, within leaveTimeout.
type Visit struct {
	*session
	registry *Registry
	// Leave ends the visit; it can be repeated.
	Leave func()
}

// inSession does a piece of work in a live session of the caller's tenant. The
// context of the work ends with the request, the session and the server, and its
// error says so if that is why it failed.
func (r *Registry) inSession(ctx context.Context, id, name string, work func(ctx context.Context, s *session) error) error {
	ctx, v, err := r.enter(ctx, id, name)
	if err != nil {
		return err
	}
	defer v.Leave()
	return v.Explain(work(ctx, v.session))
}

// enter is how every request comes to a session: who asks, is the server open, is
// the session live. The caller leaves. Whoever hands out something that a client
// may hold for long has the visit end with the context: context.AfterFunc(ctx,
// v.Leave).
func (r *Registry) enter(ctx context.Context, id, name string) (context.Context, *Visit, error) {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, nil, err
	}
	ctx, done, err := r.work.Begin(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	ctx, v, err := r.Visit(ctx, p.Tenant, id, name)
	if err != nil {
		done()
		return nil, nil, err
	}
	leave := v.Leave
	v.Leave = func() {
		leave()
		done()
	}
	return ctx, v, nil
}

// Visit enters a session of a tenant for work that has begun, and that goes by a name in
// the log. The context ends with the work or the session. A session that is not live is
// an error that says why.
func (r *Registry) Visit(ctx context.Context, tenant, id, name string) (context.Context, *Visit, error) {
	inside, v := r.tryVisit(ctx, id, name, func(s *session) bool { return s.info.Tenant == tenant })
	if v == nil {
		return nil, nil, r.whyGone(ctx, tenant, id)
	}
	return inside, v, nil
}

// Revisit enters a session for a run that an earlier server began in it, whoever's it
// is; nil if it is not live.
func (r *Registry) Revisit(ctx context.Context, id, name string) (context.Context, *Visit) {
	return r.tryVisit(ctx, id, name, func(*session) bool { return true })
}

func (r *Registry) tryVisit(ctx context.Context, id, name string, may func(*session) bool) (context.Context, *Visit) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sessions[id]
	if s == nil || !may(s) {
		return nil, nil
	}
	done := s.users.Add(name)
	s.use.busy++
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.ended, func() { cancel(context.Cause(s.ended)) })
	return ctx, &Visit{session: s, registry: r, Leave: sync.OnceFunc(func() {
		stop()
		cancel(nil)
		r.mu.Lock()
		s.use.busy--
		s.use.last = r.now()
		r.mu.Unlock()
		done()
	})}
}

// Info is the session as it is now.
func (v *Visit) Info() agentsandbox.Session {
	v.registry.mu.Lock()
	defer v.registry.mu.Unlock()
	return v.info
}

// Sandbox is where the session lives.
func (v *Visit) Sandbox() runtime.Sandbox { return v.sandbox }

// Env are the variables of the session's runs: its own, and the placeholders by which
// code finds its secrets.
func (v *Visit) Env() map[string]string {
	env := maps.Clone(v.info.Env)
	if env == nil {
		env = map[string]string{}
	}
	maps.Copy(env, placeholders(v.secrets))
	return env
}

// EndCause is why the session must end; nil while it need not. The context of a visit
// hears of that a moment later than those who destroy the sandbox.
func (v *Visit) EndCause() error { return context.Cause(v.ended) }

// Status is what became of the session.
func (v *Visit) Status() agentsandbox.SessionStatus {
	// Whoever ends a session says why before the sandbox goes.
	switch cause := v.EndCause(); {
	case errors.Is(cause, ErrDeleted):
		return agentsandbox.SessionDeleted
	case errors.Is(cause, ErrExpired):
		return agentsandbox.SessionExpired
	case cause != nil:
		return agentsandbox.SessionLost
	}
	select {
	case <-v.sandbox.Done():
		return agentsandbox.SessionLost
	default:
		return agentsandbox.SessionLive
	}
}

// Use does a piece of work with the sandbox of a live session of the caller's tenant,
// as a visit of it.
func (r *Registry) Use(ctx context.Context, id, name string, work func(ctx context.Context, sb runtime.Sandbox) error) error {
	return r.inSession(ctx, id, name, func(ctx context.Context, s *session) error { return work(ctx, s.sandbox) })
}

// live finds a live session without using it: looking at it keeps it from
// nothing.
func (r *Registry) live(ctx context.Context, tenant, id string) (*session, error) {
	r.mu.Lock()
	s := r.sessions[id]
	r.mu.Unlock()
	if s == nil || s.info.Tenant != tenant {
		return nil, r.whyGone(ctx, tenant, id)
	}
	return s, nil
}

// Explain maps an error of work in a session to the reason that the session, or the
// server, ended. Other errors stay.
func (v *Visit) Explain(err error) error { return v.registry.work.Explain(v.explain(err)) }

// ExplainEnd is Explain without the end of the server.
func (v *Visit) ExplainEnd(err error) error { return v.explain(err) }

// Live tells whether a session is live, whoever's it is.
func (r *Registry) Live(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sessions[id] != nil
}

// explain returns what an error of work in the session's sandbox is for the caller,
// who must not be told that the sandbox died when somebody ended the session.
func (s *session) explain(err error) error {
	cause := context.Cause(s.ended)
	if err == nil || cause == nil || !errors.Is(err, runtime.ErrSandboxLost) && !errors.Is(err, context.Canceled) && !errors.Is(err, cause) {
		return err
	}
	switch {
	case errors.Is(cause, ErrDeleted):
		return agentsandbox.Errorf(agentsandbox.CodeSessionNotFound, "The session %s was deleted meanwhile. Create a new one.", s.info.ID)
	case errors.Is(cause, ErrExpired):
		return agentsandbox.Errorf(agentsandbox.CodeSessionNotFound, "The session %s expired meanwhile. Create a new one.", s.info.ID)
	case errors.Is(cause, work.ErrShutdown), errors.Is(cause, work.ErrLeaving):
		return work.Closing()
	}
	return err
}
