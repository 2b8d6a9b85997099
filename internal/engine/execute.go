package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/engine/supply"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

const (
	signalBase = 128
	// returnCodeNotStarted is what a shell has for a command that it cannot
	// execute.
	returnCodeNotStarted = 126
	returnCodeKilled     = signalBase + 9
	// verdictGrace is how long after its time limit a run may take to report, for
	// example on a host with no CPU to spare. Past it the sandbox is destroyed.
	verdictGrace = 10 * time.Second
	// killGrace is how long a run that was killed may take to report.
	killGrace = 2 * time.Second
)

// Execute implements agentsandbox.Service.
func (e *Engine) Execute(ctx context.Context, req agentsandbox.ExecuteRequest) (*agentsandbox.Execution, error) {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, err
	}
	if err := req.Validate(e.limits.CodeBytes); err != nil {
		return nil, err
	}
	if err := e.checkLimits(asked{req.TimeoutMS, req.MemoryMB, req.CPUs, req.RunLimits, req.DiskLimits}); err != nil {
		return nil, err
	}
	if err := e.network.Check(e.template, req.Network); err != nil {
		return nil, err
	}
	ctx, done, err := e.work.Begin(ctx, "execute")
	if err != nil {
		return nil, err
	}
	defer done()
	defer e.Library.Pin(req.FileIDs)()
	files, err := e.Library.Find(ctx, p.Tenant, req.FileIDs)
	if err != nil {
		return nil, err
	}
	if req.SessionID != "" {
		return e.executeInSession(ctx, p, req, files)
	}
	return e.executeOnce(ctx, p, req, files)
}

func (e *Engine) executeInSession(ctx context.Context, p agentsandbox.Principal, req agentsandbox.ExecuteRequest, files []agentsandbox.File) (*agentsandbox.Execution, error) {
	for _, limit := range []struct {
		field string
		asked bool
	}{{"memory_mb", req.MemoryMB != 0}, {"cpus", req.CPUs != 0}, {"disk_mb", req.DiskMB != 0}, {"inodes", req.Inodes != 0}, {"network", req.Network != nil}} {
		if limit.asked {
			return nil, agentsandbox.Invalid(limit.field, "is set when a session is created, not on a run in it.")
		}
	}
	inside, v, err := e.visit(ctx, p.Tenant, req.SessionID, "execute")
	if err != nil {
		return nil, err
	}
	defer v.leave()
	s := v.session
	run := execution{
		session: s,
		record:  e.newRecord(p, req, s.info.ID),
		sandbox: s.sandbox,
		env:     mergeEnv(mergeEnv(mergeEnv(e.env, s.info.Env), placeholders(s.secrets)), req.Env),
		bounds:  e.boundsOf(req, s.info),
		files:   files,
	}
	rec, err := e.perform(inside, &run)
	v.leave()
	return e.answer(ctx, &run, rec, err)
}

func (e *Engine) executeOnce(ctx context.Context, p agentsandbox.Principal, req agentsandbox.ExecuteRequest, files []agentsandbox.File) (*agentsandbox.Execution, error) {
	template, err := e.templates.Template(e.template)
	if err != nil {
		return nil, err
	}
	limits := e.sandboxLimits(req.MemoryMB, req.CPUs, req.DiskMB)
	sb, err := e.supply.Claim(ctx, supply.Request{
		Owner: supply.OwnerOf(p), Template: e.template, Snapshot: template.snapshotFor(req.Language, req.Code, limits, e.limits.Default()),
		Limits: limits, Policy: req.Network,
	})
	if err != nil {
		return nil, err
	}
	end := sync.OnceFunc(func() { e.supply.DestroyLater(sb) })
	defer end()
	run := execution{
		record:  e.newRecord(p, req, agentsandbox.NewID(agentsandbox.SessionPrefix)),
		sandbox: sb,
		env:     mergeEnv(e.env, req.Env),
		network: req.Network,
		bounds:  e.boundsOf(req, agentsandbox.Session{DiskLimits: req.DiskLimits, CollectIgnored: e.limits.Collect.Ignored}),
		files:   files,
		final:   true,
	}
	run.record.Ephemeral = true
	e.egressAudit.WatchRun(sb.ID(), p.Tenant, run.record.ID)
	rec, err := e.perform(ctx, &run)
	end()
	return e.answer(ctx, &run, rec, err)
}

// execution is one run on its way: its record and what it runs in.
type execution struct {
	session *session // nil: the sandbox is made for the run
	record  agentsandbox.Execution
	sandbox runtime.Sandbox
	env     map[string]string
	bounds  bounds
	files   []agentsandbox.File
	final   bool
	spooled spooled

	// network is what a run in a sandbox of its own may reach.
	network *agentsandbox.NetworkPolicy
	command runtime.Command
	// resume is where to follow a run that an earlier server started; nil: it is
	// this one's.
	resume *runtime.Progress
	// handle holds on to the run until its outcome is written.
	handle runtime.Run
}

func (e *Engine) newRecord(p agentsandbox.Principal, req agentsandbox.ExecuteRequest, sessionID string) agentsandbox.Execution {
	return agentsandbox.Execution{
		ID: agentsandbox.NewID(agentsandbox.ExecutionPrefix), Tenant: p.Tenant, SessionID: sessionID,
		Language: req.Language, Code: req.Code, Status: agentsandbox.StatusRunning,
		Endpoint: req.Endpoint, Method: req.Method, Meta: req.Meta, Metadata: req.Metadata, CreatedAt: e.now(),
	}
}

// perform writes the record, runs the code, keeps what it made, and writes the
// outcome. From the first write on, the record always gets an outcome. What it
// returns lacks the output that the spool has: answer adds that, or whoever needs
// none removes it.
func (e *Engine) perform(ctx context.Context, x *execution) (*agentsandbox.Execution, error) {
	rec := &x.record
	var err error
	if x.resume == nil {
		x.command = e.command(x)
		if err := place(rec, x.sandbox, plan{x.command, x.network}); err != nil {
			return nil, err
		}
		if err := e.store.InsertExecution(ctx, *rec); err != nil {
			return nil, err
		}
		err = e.Library.Inject(ctx, x.sandbox, x.files)
	}
	var result *runtime.Result
	if err == nil {
		refusals := e.network.Refusals(x.sandbox.ID())
		result, err = e.run(ctx, x)
		if refusals != nil {
			rec.NetworkRefused, rec.NetworkRefusedOmitted = refusals()
		}
	}
	if x.resume != nil && result != nil {
		// It may have ended long before this server looked.
		rec.DurationMS = min(rec.DurationMS, max(1, result.Duration.Milliseconds()))
	}
	if x.goesOn(ctx) {
		return nil, leftRunning(rec.ID)
	}
	defer e.letGo(x)
	var note, cleared string
	switch {
	case result != nil:
		cleared = clearedNote(result, x.bounds)
		note = judge(rec, result, x.bounds)
		if err = x.explain(e.Library.Collect(ctx, x.sandbox, rec, result)); err != nil {
			rec.Error = "Files that the run made could not be kept: " + agentsandbox.MessageOf(err)
		}
	case errors.Is(err, errNoVerdict): // its session sees the sandbox die of that, and is not the cause
		rec.Status, rec.ReturnCode, rec.Signal = agentsandbox.StatusTimedOut, agentsandbox.ReturnCodeTimedOut, "SIGKILL"
		rec.Error = "The sandbox did not report after the time limit and was destroyed."
		note, err = timedOutNote(x.bounds.timeout), nil
	case errors.Is(x.endCause(ctx), runtime.ErrSandboxLost):
		note, err = e.lost(x.sandbox, rec), nil // its session has noticed already
	case x.endCause(ctx) != nil:
		note, err = cancelled(rec, x.endCause(ctx)), nil
	case errors.Is(err, runtime.ErrSandboxLost):
		note, err = e.lost(x.sandbox, rec), nil
	case x.resume != nil && errors.Is(err, runtime.ErrNotExist):
		e.forget(x)
		note, err = lostTrack(rec), nil
	case errors.Is(err, runtime.ErrNotStarted):
		rec.Status, rec.ReturnCode = agentsandbox.StatusFailed, returnCodeNotStarted
		rec.Error = err.Error()
		note, err = rec.Error, nil
	default:
		rec.Status, rec.ReturnCode = agentsandbox.StatusFailed, 1
		rec.Error = agentsandbox.MessageOf(err)
	}
	rec.SessionStatus = x.sessionStatus()
	return e.finish(ctx, x, func() []string { return remarks(rec, cleared, note) }, err)
}

// endCause is why the run has to end; nil: it need not. The context hears of the
// end of its session a moment later than those who destroy the sandbox.
func (x *execution) endCause(ctx context.Context) error {
	if x.session != nil && x.session.ended.Err() != nil {
		return context.Cause(x.session.ended)
	}
	return context.Cause(ctx)
}

// explain is that of the session, if the run has one.
func (x *execution) explain(err error) error {
	if x.session == nil {
		return err
	}
	return x.session.explain(err)
}

// sessionStatus is what became of the session of the run; empty if it has none.
func (x *execution) sessionStatus() agentsandbox.SessionStatus {
	if x.session == nil {
		return ""
	}
	// Whoever ends a session says why before the sandbox goes.
	switch cause := context.Cause(x.session.ended); {
	case errors.Is(cause, errSessionDeleted):
		return agentsandbox.SessionDeleted
	case errors.Is(cause, errSessionExpired):
		return agentsandbox.SessionExpired
	case cause != nil:
		return agentsandbox.SessionLost
	}
	select {
	case <-x.sandbox.Done():
		return agentsandbox.SessionLost
	default:
		return agentsandbox.SessionLive
	}
}

// finish writes the outcome, also when the caller is gone. The last lines of
// standard error are asked for when all of it is known.
func (e *Engine) finish(ctx context.Context, x *execution, last func() []string, err error) (*agentsandbox.Execution, error) {
	rec := &x.record
	rec.EndedAt = e.now()
	rec.HTTPStatus = e.answerStatus(agentsandbox.CodeOf(err))
	var ferr error
	e.loaded(x, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
		defer cancel()
		ferr = e.writeOutcome(ctx, rec, last)
	})
	if ferr != nil {
		for _, f := range rec.Files {
			e.Library.Remove(f.ID) // no row names it
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
		defer cancel()
		e.finishBare(ctx, *rec, ferr)
		return nil, withExecution(fmt.Errorf("writing the outcome of %s: %w", rec.ID, ferr), rec.ID)
	}
	if err != nil {
		return nil, withExecution(err, rec.ID)
	}
	return rec, nil
}

// writeOutcome writes the outcome with as much of the files and the output as the
// tenant has room for.
func (e *Engine) writeOutcome(ctx context.Context, rec *agentsandbox.Execution, last func() []string) error {
	u, done, err := e.quotas.Count(ctx, rec.Tenant)
	if err != nil {
		return err
	}
	defer done()
	kept, omitted, full := e.quotas.FitFiles(rec.Files, &u)
	for _, f := range omitted {
		e.Library.Remove(f.ID)
	}
	rec.Files = kept
	rec.Omit(agentsandbox.OmittedStorageFull, len(omitted))
	if full != nil && rec.Error == "" {
		rec.Error = "Not all files that the run made were kept. " + agentsandbox.MessageOf(full)
	}
	rec.Stderr = appendNotes(rec.Stderr, last()...)
	fits, err := e.quotas.MakeOutputRoom(ctx, rec.Tenant, u, int64(len(rec.Code)), int64(len(rec.Stdout)+len(rec.Stderr)))
	if err != nil {
		return err
	}
	rec.OutputDropped = !fits
	_, err = e.store.FinishExecution(ctx, *rec)
	return err
}

// finishBare writes the outcome without its output and files, for which there is
// no room, so that the record does not say for ever that the run goes on.
func (e *Engine) finishBare(ctx context.Context, rec agentsandbox.Execution, cause error) {
	rec.Omit(agentsandbox.OmittedStorageFull, len(rec.Files))
	rec.Stdout, rec.Stderr, rec.Files = nil, nil, nil
	rec.Truncated, rec.OutputDropped = rec.StdoutBytes+rec.StderrBytes > 0, true
	rec.Error = "The output and files of this run could not be kept: " + agentsandbox.MessageOf(cause)
	rec.HTTPStatus = e.answerStatus(agentsandbox.CodeOf(cause))
	if _, err := e.store.FinishExecution(ctx, rec); err != nil {
		e.log.Error("the outcome of an execution could not be written", "execution", rec.ID, "error", err)
	}
}

// errNoVerdict says that the agent did not report a result in time.
var errNoVerdict = errors.New("no result in time")

// run starts the code and reads its output and result. Exactly one of the
// result and the error is nil.
func (e *Engine) run(ctx context.Context, x *execution) (*runtime.Result, error) {
	rec := &x.record
	started := time.Now()
	if x.resume != nil {
		started = rec.CreatedAt
	}
	defer func() { rec.DurationMS = max(1, int64((time.Since(started)+time.Millisecond/2)/time.Millisecond)) }()
	r, err := e.startOrFollow(ctx, x)
	if err != nil {
		return nil, err
	}
	x.handle = r
	wait, cancel := context.WithTimeoutCause(ctx, max(x.bounds.timeout-time.Since(started), 0)+e.verdictGrace, errNoVerdict)
	defer cancel()
	result, err := e.readRun(wait, r, x)
	switch {
	case err == nil:
		return result, nil
	case x.goesOn(ctx):
		return nil, ctx.Err()
	case ctx.Err() != nil:
		// The caller went away, or the session was deleted: end the code, and
		// keep the output that was on its way.
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), killGrace)
		defer cancel()
		if r.Kill(last) == nil {
			_, _ = e.readRun(last, r, x)
		}
		return nil, ctx.Err()
	case wait.Err() != nil:
		e.supply.Destroy(x.sandbox) // a session sees it die
		return nil, errNoVerdict
	}
	return nil, err
}

// readRun keeps the output in the record and the spool, within the limit whatever
// the agent sends.
func (e *Engine) readRun(ctx context.Context, r runtime.Run, x *execution) (*runtime.Result, error) {
	rec, s := &x.record, &x.spooled
	for {
		ev, err := r.Next(ctx)
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
			keep(&rec.Stdout, &rec.StdoutBytes, &rec.Truncated, ev.Data, e.room(x, len(ev.Data), s.stdout, len(rec.Stdout)))
		default:
			keep(&rec.Stderr, &rec.StderrBytes, &rec.Truncated, ev.Data, e.room(x, len(ev.Data), s.stderr, len(rec.Stderr)))
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

// withExecution says in an error's message which record tells of the run.
func withExecution(err error, id string) error {
	var e *agentsandbox.Error
	if !errors.As(err, &e) {
		return err
	}
	told := *e
	told.Message += " The run's record is " + id + "."
	return &told
}
