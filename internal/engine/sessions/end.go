package sessions

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/engine/supply"
	"github.com/agentsandbox/agentsandbox/internal/engine/work"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// recordTimeout bounds the writing of a state whose caller is gone.
const recordTimeout = 30 * time.Second

// The causes for which sessions end, beside the end of the server and the death of the
// sandbox.
var (
	ErrDeleted = errors.New("the session was deleted")
	ErrExpired = errors.New("the session expired")
)

// DeleteSession implements agentsandbox.SessionService. It returns when the sandbox is
// gone.
func (r *Registry) DeleteSession(ctx context.Context, id string) error {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return err
	}
	ctx, done, err := r.work.Begin(ctx, "deleteSession")
	if err != nil {
		return err
	}
	defer done()
	s, err := r.live(ctx, p.Tenant, id)
	if err != nil {
		return err
	}
	if !r.remove(s) {
		return sessionNotFound(id)
	}
	if err := r.store.MoveSession(context.WithoutCancel(ctx), id, agentsandbox.SessionDeleting, r.now()); err != nil {
		// Go on: the session is off the live ones, and its sandbox must end.
		r.log.Error("the deletion of a session could not be written", "session", id, "error", err)
	}
	r.finishSession(s, ErrDeleted, agentsandbox.SessionDeleted)
	return nil
}

// watch marks a session lost when its sandbox dies by itself.
func (r *Registry) watch(s *session) {
	select {
	case <-s.sandbox.Done():
	case <-s.ended.Done():
	}
	if !r.remove(s) {
		return // deleted, not lost
	}
	r.log.Warn("the sandbox of a session died", "session", s.info.ID, "sandbox", s.sandbox.ID())
	r.noteEviction(s)
	r.finishSession(s, runtime.ErrSandboxLost, agentsandbox.SessionLost)
}

// endUse ends all use of a session that was taken off the live ones. What clients
// hold of it is free at once; awaitVisits waits for the rest.
func (r *Registry) endUse(s *session, cause error) {
	s.end(cause)
	r.endConns(cause, func(c *portConn) bool { return c.visit.session == s })
}

// finishSession ends what runs in a session, destroys its sandbox and writes its
// last state. The caller has removed it.
func (r *Registry) finishSession(s *session, cause error, last agentsandbox.SessionStatus) {
	r.endUse(s, cause)
	if !errors.Is(cause, runtime.ErrSandboxLost) {
		r.supply.Destroy(s.sandbox) // ends the runs too; logged there
	}
	r.awaitVisits(s)
	r.supply.Destroy(s.sandbox)
	ctx, cancel := context.WithTimeout(context.Background(), recordTimeout)
	defer cancel()
	if err := r.store.MoveSession(ctx, s.info.ID, last, r.now()); err != nil && !alreadyThere(err) {
		r.log.Error("the end of a session could not be written", "session", s.info.ID, "error", err)
	}
}

// alreadyThere tells whether a move was refused because it had been made: an expiry
// is written before the sandbox is ended.
func alreadyThere(err error) bool {
	var refused *agentsandbox.SessionMoveError
	return errors.As(err, &refused) && refused.From == refused.To
}

// awaitVisits waits for the requests in a session that has ended, which were
// cancelled with it. One that is overdue is left behind.
func (r *Registry) awaitVisits(s *session) {
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	if overdue := s.users.Wait(ctx); overdue != "" {
		r.log.Error("requests go on in a session that has ended, and are not waited for any more", "session", s.info.ID,
			"requests", overdue, "waited_ms", leaveTimeout.Milliseconds())
	}
}

// noteEviction keeps why a session is lost, if its sandbox was ended.
func (r *Registry) noteEviction(s *session) {
	why := supply.Evicted(s.sandbox)
	if why == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), recordTimeout)
	defer cancel()
	if err := r.store.NoteSessionEnd(ctx, s.info.ID, why); err != nil {
		r.log.Error("why a session was lost could not be written", "session", s.info.ID, "error", err)
	}
}

// whyLost is the error for a session whose sandbox died.
func (r *Registry) whyLost(ctx context.Context, id string) error {
	why, err := r.store.SessionEnd(ctx, id)
	if err != nil {
		return err
	}
	if why == "" {
		why = "its sandbox died."
	}
	return agentsandbox.Errorf(agentsandbox.CodeSessionNotFound, "The session %s was lost: %s Create a new one.", id, why)
}

// whyGone is the error for a session that is not live: the caller's own that has
// ended says so.
func (r *Registry) whyGone(ctx context.Context, tenant, id string) error {
	row, err := r.store.Session(ctx, tenant, id)
	switch {
	case agentsandbox.CodeOf(err) == agentsandbox.CodeSessionNotFound:
		return r.whyNoSession(ctx, tenant, id)
	case err != nil:
		return err
	case row.Status == agentsandbox.SessionExpired:
		return whyExpired(row)
	case row.Status == agentsandbox.SessionLost:
		return r.whyLost(ctx, id)
	case row.Status == agentsandbox.SessionCreating:
		return agentsandbox.Errorf(agentsandbox.CodeConflict, "The session %s is still being created. Try again in a moment.", id)
	}
	return agentsandbox.Errorf(agentsandbox.CodeSessionNotFound, "The session %s was deleted. Create a new one.", id)
}

// whyNoSession is the error for an id of which the store knows no session: it may
// be that of a run that had a sandbox of its own.
func (r *Registry) whyNoSession(ctx context.Context, tenant, id string) error {
	runs, err := r.store.Executions(ctx, tenant, agentsandbox.ExecutionFilter{SessionID: id, Page: agentsandbox.Page{Limit: 1}})
	switch {
	case err != nil:
		return err
	case len(runs.Executions) == 0 || !runs.Executions[0].Ephemeral:
		return sessionNotFound(id)
	case runs.Executions[0].Status == agentsandbox.StatusRunning:
		return agentsandbox.Errorf(agentsandbox.CodeSessionNotFound,
			"The session %s is of a run without one: it ends with that run, and nothing else runs in it. Create a session.", id)
	}
	return agentsandbox.Errorf(agentsandbox.CodeSessionNotFound,
		"The session %s was made for one run, and ended with it. Create a session to run more than once in the same sandbox.", id)
}

func sessionNotFound(id string) error {
	return agentsandbox.Errorf(agentsandbox.CodeSessionNotFound, "No session %s exists.", agentsandbox.QuoteID(id))
}

// Close ends every live session at the end of the server, or, with keep, lets go of it:
// its sandbox stays as it is for the next server. Work has ended and none begins any
// more.
func (r *Registry) Close(keep bool) {
	r.saveUses(context.Background(), true)
	all := slices.DeleteFunc(r.all(), func(s *session) bool { return !r.remove(s) })
	var ending sync.WaitGroup
	for _, s := range all {
		ending.Go(func() {
			if keep {
				r.endUse(s, work.ErrLeaving)
				r.awaitVisits(s)
				r.supply.Release(s.sandbox)
				return
			}
			r.finishSession(s, work.ErrShutdown, agentsandbox.SessionLost)
		})
	}
	ending.Wait()
	r.watchers.Wait()
	if keep && len(all) > 0 {
		r.log.Info("sessions stay alive for the next start of the server", "sessions", len(all))
	}
}
