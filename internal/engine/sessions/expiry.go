package sessions

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

// tidyEvery is how often sessions are looked at, and so how late one expires.
const tidyEvery = time.Second

// savedUse is how exact the time of a session's last use is in the store: it is
// written after so long at most, or a tenth of the session's idle time.
const savedUse = time.Minute

// sessionUse is what keeps a session from expiring; under the registry's lock.
type sessionUse struct {
	idleTimeoutMS int64
	busy          int       // how much is being done in the session now
	last          time.Time // when something was last done
	saved         time.Time // the last that the store knows
}

func useOf(s agentsandbox.Session) sessionUse {
	return sessionUse{idleTimeoutMS: s.IdleTimeoutMS, last: s.LastUsedAt, saved: s.LastUsedAt}
}

// view is the session as it is kept; the registry's lock is held.
func (s *session) view() agentsandbox.Session {
	info := s.info
	info.IdleTimeoutMS, info.LastUsedAt, info.Busy = s.use.idleTimeoutMS, s.use.last, s.use.busy > 0
	return info
}

// view is the session as it is shown; the registry's lock is held.
func (r *Registry) view(s *session) agentsandbox.Session {
	info := s.view()
	info.Network = r.supply.Policy(info.Template, info.Network)
	return info
}

// checkLifetimes holds what a request asks for against the most.
func (r *Registry) checkLifetimes(idleMS, lifetimeMS int64) error {
	for _, l := range []struct {
		field string
		asked int64
		most  time.Duration
	}{
		{"idle_timeout_ms", idleMS, r.lifetimes.MaxIdle},
		{"max_lifetime_ms", lifetimeMS, r.lifetimes.MaxAge},
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
func (r *Registry) setLifetimes(info *agentsandbox.Session, req agentsandbox.SessionRequest) {
	info.IdleTimeoutMS = cmp.Or(req.IdleTimeoutMS, r.lifetimes.Idle.Milliseconds())
	info.MaxLifetimeMS = cmp.Or(req.MaxLifetimeMS, r.lifetimes.Age.Milliseconds())
	info.LastUsedAt = info.CreatedAt
}

// KeepSession implements agentsandbox.SessionService.
func (r *Registry) KeepSession(ctx context.Context, id string, idleTimeoutMS int64) (*agentsandbox.Session, error) {
	if err := r.checkLifetimes(idleTimeoutMS, 0); err != nil {
		return nil, err
	}
	err := r.inSession(ctx, id, "keepSession", func(ctx context.Context, s *session) error {
		r.mu.Lock()
		idle := cmp.Or(idleTimeoutMS, s.use.idleTimeoutMS)
		r.mu.Unlock()
		// The answer is a promise that outlives this process.
		now := r.now()
		if err := r.store.KeepSession(ctx, id, now, idle); err != nil {
			return err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		s.use.idleTimeoutMS, s.use.saved = idle, now
		return nil
	})
	if err != nil {
		return nil, err
	}
	return r.Session(ctx, id)
}

// expireSessions ends the sessions whose time has come.
func (r *Registry) expireSessions(ctx context.Context) {
	now := r.now()
	var over []*session
	r.mu.Lock()
	for _, s := range r.sessions {
		if end := s.view().ExpiresAt(); !end.IsZero() && !now.Before(end) {
			r.removeLocked(s)
			over = append(over, s)
		}
	}
	r.mu.Unlock()
	for _, s := range over {
		// A sandbox may be slow to end; that of the next session must not wait.
		r.keeping.Go(func() { r.expire(ctx, s, now) })
	}
}

// expire ends a session that was taken off the live ones.
func (r *Registry) expire(ctx context.Context, s *session, now time.Time) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	// First, so that nobody is told in the meantime that it was deleted.
	if err := r.store.MoveSession(ctx, s.info.ID, agentsandbox.SessionExpired, now); err != nil {
		r.log.Error("the expiry of a session could not be written", "session", s.info.ID, "error", err)
	}
	r.finishSession(s, ErrExpired, agentsandbox.SessionExpired)
	r.log.Info("a session expired", "session", s.info.ID)
	_ = r.audit.Append(ctx, agentsandbox.AuditEntry{Tenant: s.info.Tenant, Action: "expireSession", ObjectID: s.info.ID, Outcome: agentsandbox.AuditOK})
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
func (r *Registry) saveUses(ctx context.Context, all bool) {
	now := r.now()
	used := map[string]time.Time{}
	var touched []*session
	r.mu.Lock()
	for id, s := range r.sessions {
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
	r.mu.Unlock()
	if len(used) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	if err := r.store.TouchSessions(ctx, used); err != nil {
		r.log.Warn("the last use of sessions could not be written", "error", err)
		return
	}
	r.mu.Lock()
	for _, s := range touched {
		s.use.saved = used[s.info.ID]
	}
	r.mu.Unlock()
}
