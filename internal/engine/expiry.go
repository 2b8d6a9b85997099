package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

// Lifetimes say how long things are kept.
type Lifetimes struct {
	// IdleTimeout ends a session that nothing uses, and SessionLifetime one of
	// that age, unless it asks for something else, up to the most of each; 0:
	// never, and no most.
	IdleTimeout, MaxIdleTimeout         time.Duration
	SessionLifetime, MaxSessionLifetime time.Duration
	// Files and Records (of executions, and of sessions that have ended) are
	// removed at that age; 0: never.
	Files, Records time.Duration
}

// savedUse is how exact the time of a session's last use is in the store: it is
// written after so long at most, or a tenth of the session's idle time.
const savedUse = time.Minute

var errSessionExpired = errors.New("the session expired")

// sessionUse is what keeps a session from expiring; under the engine's lock.
type sessionUse struct {
	idleTimeoutMS int64
	busy          int       // how much is being done in the session now
	last          time.Time // when something was last done
	saved         time.Time // the last that the store knows
}

func useOf(s agentsandbox.Session) sessionUse {
	return sessionUse{idleTimeoutMS: s.IdleTimeoutMS, last: s.LastUsedAt, saved: s.LastUsedAt}
}

// view is the session as it is kept; the engine's lock is held.
func (s *session) view() agentsandbox.Session {
	info := s.info
	info.IdleTimeoutMS, info.LastUsedAt, info.Busy = s.use.idleTimeoutMS, s.use.last, s.use.busy > 0
	return info
}

// view is the session as it is shown; the engine's lock is held.
func (e *Engine) view(s *session) agentsandbox.Session {
	info := s.view()
	info.Network = e.supply.Policy(info.Template, info.Network)
	return info
}

// checkLifetimes holds what a request asks for against the most.
func (e *Engine) checkLifetimes(idleMS, lifetimeMS int64) error {
	for _, l := range []struct {
		field string
		asked int64
		most  time.Duration
	}{
		{"idle_timeout_ms", idleMS, e.lifetimes.MaxIdleTimeout},
		{"max_lifetime_ms", lifetimeMS, e.lifetimes.MaxSessionLifetime},
	} {
		if l.asked < 0 {
			return agentsandbox.Invalid(l.field, "must not be negative.")
		}
		if l.most > 0 && l.asked > l.most.Milliseconds() {
			return agentsandbox.Invalid(l.field, "must be at most %d on this server, not %d.", l.most.Milliseconds(), l.asked)
		}
	}
	return nil
}

// setLifetimes gives a new session the lifetimes that were asked for, or the
// defaults.
func (e *Engine) setLifetimes(info *agentsandbox.Session, req agentsandbox.SessionRequest) {
	info.IdleTimeoutMS = cmp.Or(req.IdleTimeoutMS, e.lifetimes.IdleTimeout.Milliseconds())
	info.MaxLifetimeMS = cmp.Or(req.MaxLifetimeMS, e.lifetimes.SessionLifetime.Milliseconds())
	info.LastUsedAt = info.CreatedAt
}

// KeepSession implements agentsandbox.Service.
func (e *Engine) KeepSession(ctx context.Context, id string, idleTimeoutMS int64) (*agentsandbox.Session, error) {
	if err := e.checkLifetimes(idleTimeoutMS, 0); err != nil {
		return nil, err
	}
	err := e.inSession(ctx, id, "keepSession", func(ctx context.Context, s *session) error {
		e.mu.Lock()
		idle := cmp.Or(idleTimeoutMS, s.use.idleTimeoutMS)
		e.mu.Unlock()
		// The answer is a promise that outlives this process.
		now := e.now()
		if err := e.store.KeepSession(ctx, id, now, idle); err != nil {
			return err
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		s.use.idleTimeoutMS, s.use.saved = idle, now
		return nil
	})
	if err != nil {
		return nil, err
	}
	return e.Session(ctx, id)
}

// expireSessions ends the sessions whose time has come.
func (e *Engine) expireSessions(ctx context.Context) {
	now := e.now()
	var over []*session
	e.mu.Lock()
	for _, s := range e.sessions {
		if end := s.view().ExpiresAt(); !end.IsZero() && !now.Before(end) {
			e.forgetSession(s)
			over = append(over, s)
		}
	}
	e.mu.Unlock()
	for _, s := range over {
		// A sandbox may be slow to end; that of the next session must not wait.
		e.keeping.Go(func() { e.expire(ctx, s, now) })
	}
}

// expire ends a session that was taken off the live ones.
func (e *Engine) expire(ctx context.Context, s *session, now time.Time) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	// First, so that nobody is told in the meantime that it was deleted.
	if err := e.store.MoveSession(ctx, s.info.ID, agentsandbox.SessionExpired, now); err != nil {
		e.log.Error("the expiry of a session could not be written", "session", s.info.ID, "error", err)
	}
	e.finishSession(s, errSessionExpired, agentsandbox.SessionExpired)
	e.log.Info("a session expired", "session", s.info.ID)
	_ = e.audit.Append(ctx, agentsandbox.AuditEntry{Tenant: s.info.Tenant, Action: "expireSession", ObjectID: s.info.ID, Outcome: agentsandbox.AuditOK})
}

// whyExpired is the error for a session that has expired.
func whyExpired(row agentsandbox.Session) error {
	reason := fmt.Sprintf("its longest life was %s", time.Duration(row.MaxLifetimeMS)*time.Millisecond)
	if row.MaxLifetimeMS == 0 || row.EndedAt.Before(row.CreatedAt.Add(time.Duration(row.MaxLifetimeMS)*time.Millisecond)) {
		reason = fmt.Sprintf("nothing had used it for %s", time.Duration(row.IdleTimeoutMS)*time.Millisecond)
	}
	return agentsandbox.Errorf(agentsandbox.CodeSessionNotFound, "The session %s expired at %s: %s. Create a new one.",
		row.ID, row.EndedAt.UTC().Format(time.RFC3339), reason)
}

// saveUses writes when sessions were last used: those of which the store is too
// far behind, or all.
func (e *Engine) saveUses(ctx context.Context, all bool) {
	now := e.now()
	used := map[string]time.Time{}
	var touched []*session
	e.mu.Lock()
	for id, s := range e.sessions {
		if s.use.busy > 0 {
			s.use.last = now
		}
		late := savedUse
		if tenth := time.Duration(s.use.idleTimeoutMS) * time.Millisecond / 10; tenth > 0 && tenth < late {
			late = tenth
		}
		if s.use.last.After(s.use.saved) && (all || now.Sub(s.use.saved) >= late) {
			used[id] = s.use.last
			touched = append(touched, s)
		}
	}
	e.mu.Unlock()
	if len(used) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	if err := e.store.TouchSessions(ctx, used); err != nil {
		e.log.Warn("the last use of sessions could not be written", "error", err)
		return
	}
	e.mu.Lock()
	for _, s := range touched {
		s.use.saved = used[s.info.ID]
	}
	e.mu.Unlock()
}
