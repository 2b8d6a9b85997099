package engine

import (
	"cmp"
	"context"
	"errors"
	"sync"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/cursor"
	"github.com/agentsandbox/agentsandbox/internal/engine/supply"
	"github.com/agentsandbox/agentsandbox/internal/engine/work"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

var errSessionDeleted = errors.New("the session was deleted")

// session is a live session: what the store knows of it, and its sandbox.
type session struct {
	info    agentsandbox.Session
	sandbox runtime.Sandbox
	// ended is done, with the reason as its cause, when the session must end.
	ended context.Context
	end   context.CancelCauseFunc
	use   sessionUse
	users work.Tracker // requests under way in it
	// secrets are the session's, with their values and placeholders.
	secrets []agentsandbox.BoundSecret
	// networking is held while policy or ports are being replaced.
	networking sync.Mutex
}

// CreateSession implements agentsandbox.Service.
func (e *Engine) CreateSession(ctx context.Context, req agentsandbox.SessionRequest) (*agentsandbox.Session, error) {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, err
	}
	if err := req.Validate(); err != nil {
		return nil, err
	}
	if err := e.checkLimits(asked{req.TimeoutMS, req.MemoryMB, req.CPUs, req.RunLimits, req.DiskLimits}); err != nil {
		return nil, err
	}
	if err := e.checkLifetimes(req.IdleTimeoutMS, req.MaxLifetimeMS); err != nil {
		return nil, err
	}
	if err := e.network.Check(cmp.Or(req.Template, e.template), req.Network); err != nil {
		return nil, err
	}
	ctx, done, err := e.work.Begin(ctx, "createSession")
	if err != nil {
		return nil, err
	}
	defer done()
	defer e.Library.Pin(req.FileIDs)()
	files, err := e.Library.Find(ctx, p.Tenant, req.FileIDs)
	if err != nil {
		return nil, err
	}
	info := agentsandbox.Session{
		ID: agentsandbox.NewID(agentsandbox.SessionPrefix), Tenant: p.Tenant, Status: agentsandbox.SessionCreating,
		Template: cmp.Or(req.Template, e.template), Env: req.Env, Metadata: req.Metadata,
		TimeoutMS: cmp.Or(req.TimeoutMS, e.limits.DefaultTimeout.Milliseconds()),
		MemoryMB:  cmp.Or(req.MemoryMB, e.limits.DefaultMemoryMB),
		CPUs:      cmp.Or(req.CPUs, e.limits.DefaultCPUs),
		CreatedAt: e.now(), Network: req.Network,
		CollectIgnored: *cmp.Or(req.CollectIgnored, &e.limits.Collect.Ignored),
	}
	var secrets []agentsandbox.BoundSecret
	if secrets, info.SealedSecrets, err = e.bindSecrets(info.ID, req.Secrets); err != nil {
		return nil, err
	}
	info.Secrets = withoutValues(secrets)
	info.RunLimits, info.DiskLimits = e.sessionLimits(req.RunLimits, req.DiskLimits)
	e.setLifetimes(&info, req)
	insert := func(ctx context.Context) error { return e.store.InsertSession(ctx, info) }
	if err := e.quotas.AddSession(ctx, p.Tenant, insert); err != nil {
		return nil, err
	}
	if err := e.bringUp(ctx, supply.OwnerOf(p), &info, secrets, files); err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
		defer cancel()
		if merr := e.store.MoveSession(undo, info.ID, agentsandbox.SessionDeleted, e.now()); merr != nil {
			e.log.Error("a session that failed to start could not be marked deleted", "session", info.ID, "error", merr)
		}
		return nil, err
	}
	info.Network = e.supply.Policy(info.Template, info.Network)
	return &info, nil
}

// bringUp gives a session its sandbox and makes it live. After an error nothing
// of it is left but its row.
func (e *Engine) bringUp(ctx context.Context, owner supply.Owner, info *agentsandbox.Session, secrets []agentsandbox.BoundSecret, files []agentsandbox.File) error {
	template, err := e.templates.Template(info.Template)
	if err != nil {
		return err
	}
	sb, err := e.supply.Claim(ctx, supply.Request{
		Owner: owner, Template: info.Template, Snapshot: template.Snapshot, Limits: e.sandboxLimits(info.MemoryMB, info.CPUs, info.DiskMB),
		Policy: info.Network, Secrets: secrets,
	})
	if err != nil {
		return err
	}
	live := false
	defer func() {
		if !live {
			e.supply.DestroyLater(sb)
		}
	}()
	if err := e.Library.Inject(ctx, sb, files); err != nil {
		return err
	}
	if err := e.store.BindSession(ctx, info.ID, sb.ID()); err != nil {
		return err
	}
	err = e.store.MoveSession(ctx, info.ID, agentsandbox.SessionLive, e.now())
	if refused := (*agentsandbox.SessionMoveError)(nil); errors.As(err, &refused) {
		return agentsandbox.Errorf(agentsandbox.CodeConflict, "The session %s was ended while it was being created.", info.ID)
	}
	if err != nil {
		return err
	}
	info.Status = agentsandbox.SessionLive
	e.admit(*info, sb, secrets)
	live = true
	return nil
}

// admit makes a session one of those that can be used, and watches it.
func (e *Engine) admit(info agentsandbox.Session, sb runtime.Sandbox, secrets []agentsandbox.BoundSecret) {
	s := e.enlist(info, sb, secrets)
	e.watchers.Go(func() { e.watch(s) })
}

// enlist puts a session with those that can be used. The caller has it watched.
func (e *Engine) enlist(info agentsandbox.Session, sb runtime.Sandbox, secrets []agentsandbox.BoundSecret) *session {
	s := &session{info: info, sandbox: sb, use: useOf(info), secrets: secrets}
	s.ended, s.end = context.WithCancelCause(context.Background())
	ports := s.info.Ports
	s.info.Ports = nil
	e.egressAudit.WatchSession(sb.ID(), info.Tenant, info.ID)
	e.mu.Lock()
	e.sessions[info.ID] = s
	e.setPorts(s, ports)
	e.mu.Unlock()
	return s
}

// watch marks a session lost when its sandbox dies by itself.
func (e *Engine) watch(s *session) {
	select {
	case <-s.sandbox.Done():
	case <-s.ended.Done():
	}
	if !e.remove(s) {
		return // deleted, not lost
	}
	e.log.Warn("the sandbox of a session died", "session", s.info.ID, "sandbox", s.sandbox.ID())
	e.noteEviction(s)
	e.finishSession(s, runtime.ErrSandboxLost, agentsandbox.SessionLost)
}

// remove takes a session off the live ones and tells whether this caller did:
// the one that must then finish it.
func (e *Engine) remove(s *session) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.sessions[s.info.ID] != s {
		return false
	}
	e.forgetSession(s)
	return true
}

// forgetSession takes a session off the live ones; the engine's lock is held.
func (e *Engine) forgetSession(s *session) {
	delete(e.sessions, s.info.ID)
	for _, p := range s.info.Ports {
		delete(e.byPath, p.Path)
	}
}

// endUse ends all use of a session that was taken off the live ones. What clients
// hold of it is free at once; awaitVisits waits for the rest.
func (e *Engine) endUse(s *session, cause error) {
	s.end(cause)
	e.endConns(cause, func(c *portConn) bool { return c.visit.session == s })
}

// finishSession ends what runs in a session, destroys its sandbox and writes its
// last state. The caller has removed it.
func (e *Engine) finishSession(s *session, cause error, last agentsandbox.SessionStatus) {
	e.endUse(s, cause)
	if !errors.Is(cause, runtime.ErrSandboxLost) {
		e.supply.Destroy(s.sandbox) // ends the runs too; logged there
	}
	e.awaitVisits(s)
	e.supply.Destroy(s.sandbox)
	ctx, cancel := context.WithTimeout(context.Background(), recordTimeout)
	defer cancel()
	if err := e.store.MoveSession(ctx, s.info.ID, last, e.now()); err != nil && !alreadyThere(err) {
		e.log.Error("the end of a session could not be written", "session", s.info.ID, "error", err)
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
func (e *Engine) awaitVisits(s *session) {
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	if overdue := s.users.Wait(ctx); overdue != "" {
		e.log.Error("requests go on in a session that has ended, and are not waited for any more", "session", s.info.ID,
			"requests", overdue, "waited_ms", leaveTimeout.Milliseconds())
	}
}

// noteEviction keeps why a session is lost, if its sandbox was ended.
func (e *Engine) noteEviction(s *session) {
	why := supply.Evicted(s.sandbox)
	if why == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), recordTimeout)
	defer cancel()
	if err := e.store.NoteSessionEnd(ctx, s.info.ID, why); err != nil {
		e.log.Error("why a session was lost could not be written", "session", s.info.ID, "error", err)
	}
}

// whyLost is the error for a session whose sandbox died.
func (e *Engine) whyLost(ctx context.Context, id string) error {
	why, err := e.store.SessionEnd(ctx, id)
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
func (e *Engine) whyGone(ctx context.Context, tenant, id string) error {
	row, err := e.store.Session(ctx, tenant, id)
	switch {
	case agentsandbox.CodeOf(err) == agentsandbox.CodeSessionNotFound:
		return e.whyNoSession(ctx, tenant, id)
	case err != nil:
		return err
	case row.Status == agentsandbox.SessionExpired:
		return whyExpired(row)
	case row.Status == agentsandbox.SessionLost:
		return e.whyLost(ctx, id)
	case row.Status == agentsandbox.SessionCreating:
		return agentsandbox.Errorf(agentsandbox.CodeConflict, "The session %s is still being created. Try again in a moment.", id)
	}
	return agentsandbox.Errorf(agentsandbox.CodeSessionNotFound, "The session %s was deleted. Create a new one.", id)
}

// whyNoSession is the error for an id of which the store knows no session: it may
// be that of a run that had a sandbox of its own.
func (e *Engine) whyNoSession(ctx context.Context, tenant, id string) error {
	runs, err := e.store.Executions(ctx, tenant, agentsandbox.ExecutionFilter{SessionID: id, Page: agentsandbox.Page{Limit: 1}})
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

// Session implements agentsandbox.Service.
func (e *Engine) Session(ctx context.Context, id string) (*agentsandbox.Session, error) {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, err
	}
	s, err := e.live(ctx, p.Tenant, id)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	info := e.view(s)
	return &info, nil
}

// Sessions implements agentsandbox.Service.
func (e *Engine) Sessions(ctx context.Context, filter agentsandbox.SessionFilter) (*agentsandbox.SessionPage, error) {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, err
	}
	cursors, err := cursor.ForList(e.vault, "sessions", p.Tenant, filter.Metadata)
	if err != nil {
		return nil, err
	}
	page := filter.Page
	if filter.Page, err = cursors.Open(page); err != nil {
		return nil, err
	}
	list, err := e.store.Sessions(ctx, p.Tenant, filter)
	list.Page, list.NextCursor = page, cursors.Seal(list.NextCursor)
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, row := range list.Sessions {
		if s := e.sessions[row.ID]; s != nil {
			list.Sessions[i] = e.view(s) // the store is behind in its times of last use
		}
	}
	return &list, err
}

// DeleteSession implements agentsandbox.Service. It returns when the sandbox is
// gone.
func (e *Engine) DeleteSession(ctx context.Context, id string) error {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return err
	}
	ctx, done, err := e.work.Begin(ctx, "deleteSession")
	if err != nil {
		return err
	}
	defer done()
	s, err := e.live(ctx, p.Tenant, id)
	if err != nil {
		return err
	}
	if !e.remove(s) {
		return sessionNotFound(id)
	}
	if err := e.store.MoveSession(context.WithoutCancel(ctx), id, agentsandbox.SessionDeleting, e.now()); err != nil {
		// Go on: the session is off the live ones, and its sandbox must end.
		e.log.Error("the deletion of a session could not be written", "session", id, "error", err)
	}
	e.finishSession(s, errSessionDeleted, agentsandbox.SessionDeleted)
	return nil
}

// InjectFiles implements agentsandbox.Service.
func (e *Engine) InjectFiles(ctx context.Context, sessionID string, fileIDs []string) error {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return err
	}
	if len(fileIDs) == 0 {
		return agentsandbox.Invalid("file_ids", "must name at least one file.")
	}
	if err := agentsandbox.ValidateFileIDs(fileIDs); err != nil {
		return err
	}
	return e.inSession(ctx, sessionID, "injectFiles", func(ctx context.Context, s *session) error {
		defer e.Library.Pin(fileIDs)()
		files, err := e.Library.Find(ctx, p.Tenant, fileIDs)
		if err != nil {
			return err
		}
		return e.Library.Inject(ctx, s.sandbox, files)
	})
}

// closeSessions ends every live session at the end of the server. Work has ended
// and none begins any more.
func (e *Engine) closeSessions() {
	e.mu.Lock()
	all := make([]*session, 0, len(e.sessions))
	for _, s := range e.sessions {
		all = append(all, s)
	}
	e.mu.Unlock()
	var ending sync.WaitGroup
	for _, s := range all {
		if e.remove(s) {
			ending.Go(func() { e.finishSession(s, work.ErrShutdown, agentsandbox.SessionLost) })
		}
	}
	ending.Wait()
	e.watchers.Wait()
}
