package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox"
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
	if err := e.checkLimits(req.TimeoutMS, req.MemoryMB, req.CPUs); err != nil {
		return nil, err
	}
	ctx, done, err := e.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	files, err := e.lookUpFiles(ctx, p.Tenant, req.FileIDs)
	if err != nil {
		return nil, err
	}
	if req.SessionID != "" {
		return e.executeInSession(ctx, p, req, files)
	}
	return e.executeOnce(ctx, p, req, files)
}

func (e *Engine) executeInSession(ctx context.Context, p agentsandbox.Principal, req agentsandbox.ExecuteRequest, files []agentsandbox.File) (*agentsandbox.Execution, error) {
	if req.MemoryMB != 0 || req.CPUs != 0 {
		return nil, agentsandbox.Invalid("memory_mb", "and cpus are set when a session is created, not on a run in it.")
	}
	s, release, err := e.acquire(ctx, p.Tenant, req.SessionID)
	if err != nil {
		return nil, err
	}
	defer release()
	run := execution{
		record:  e.newRecord(p, req, s.info.ID),
		sandbox: s.sandbox,
		env:     mergeEnv(s.info.Env, req.Env),
		timeout: e.timeout(req.TimeoutMS, s.info.TimeoutMS),
		files:   files,
	}
	ctx, stop := s.context(ctx)
	defer stop()
	return e.perform(ctx, run)
}

func (e *Engine) executeOnce(ctx context.Context, p agentsandbox.Principal, req agentsandbox.ExecuteRequest, files []agentsandbox.File) (*agentsandbox.Execution, error) {
	sb, err := e.sandboxes.Claim(ctx, e.template, runtime.VariantFor(req.Language, req.Code), e.sandboxLimits(req.MemoryMB, req.CPUs))
	if err != nil {
		return nil, err
	}
	defer e.background(func() { _ = e.destroy(sb) }) // logged there
	run := execution{
		record:  e.newRecord(p, req, agentsandbox.NewID(agentsandbox.SessionPrefix)),
		sandbox: sb,
		env:     req.Env,
		timeout: e.timeout(req.TimeoutMS, 0),
		files:   files,
		final:   true,
	}
	run.record.Ephemeral = true
	return e.perform(ctx, run)
}

// execution is one run on its way: its record and what it runs in.
type execution struct {
	record  agentsandbox.Execution
	sandbox runtime.Sandbox
	env     map[string]string
	timeout time.Duration
	files   []agentsandbox.File
	final   bool

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
		Endpoint: req.Endpoint, Method: req.Method, Meta: req.Meta, CreatedAt: e.now(),
	}
}

// perform writes the record, runs the code, keeps what it made, and writes the
// outcome. From the first write on, the record always gets an outcome.
func (e *Engine) perform(ctx context.Context, x execution) (*agentsandbox.Execution, error) {
	rec := &x.record
	var err error
	if x.resume == nil {
		x.command = e.command(&x)
		if err := place(rec, x.sandbox, x.command); err != nil {
			return nil, err
		}
		if err := e.store.InsertExecution(ctx, *rec); err != nil {
			return nil, err
		}
		err = e.inject(ctx, x.sandbox, x.files)
	}
	var result *runtime.Result
	if err == nil {
		result, err = e.run(ctx, &x, rec)
	}
	if x.resume != nil && result != nil {
		// It may have ended long before this server looked.
		rec.DurationMS = min(rec.DurationMS, max(1, result.Duration.Milliseconds()))
	}
	if x.goesOn(ctx) {
		return nil, leftRunning(rec.ID)
	}
	defer e.letGo(&x)
	switch {
	case result != nil:
		judge(rec, result)
		if err = e.collect(ctx, x.sandbox, rec, result); err != nil {
			rec.Error = "Files that the run made could not be kept: " + publicMessage(err)
		}
	case ctx.Err() != nil:
		cancelled(rec, context.Cause(ctx))
		err = nil
	case errors.Is(err, errNoVerdict):
		rec.Status, rec.ReturnCode, rec.Signal = agentsandbox.StatusTimedOut, agentsandbox.ReturnCodeTimedOut, "SIGKILL"
		rec.Error = "The sandbox did not report after the time limit and was destroyed."
		err = nil
	case errors.Is(err, runtime.ErrSandboxLost):
		e.lost(x.sandbox, rec)
		err = nil
	case x.resume != nil && errors.Is(err, runtime.ErrNotExist):
		e.forget(&x)
		lostTrack(rec)
		err = nil
	case errors.Is(err, runtime.ErrNotStarted):
		rec.Status, rec.ReturnCode = agentsandbox.StatusFailed, returnCodeNotStarted
		rec.Error = err.Error()
		err = nil
	default:
		rec.Status, rec.ReturnCode = agentsandbox.StatusFailed, 1
		rec.Error = publicMessage(err)
	}
	if note := verdictNote(rec, x.timeout); note != "" {
		rec.Stderr = appendNote(rec.Stderr, note)
	}
	return e.finish(ctx, rec, err)
}

// finish writes the outcome, also when the caller is gone.
func (e *Engine) finish(ctx context.Context, rec *agentsandbox.Execution, err error) (*agentsandbox.Execution, error) {
	rec.EndedAt = e.now()
	rec.HTTPStatus = 200
	if err != nil {
		rec.HTTPStatus = agentsandbox.CodeOf(err).HTTPStatus()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	if _, ferr := e.store.FinishExecution(ctx, *rec); ferr != nil {
		for _, f := range rec.Files {
			e.removeBlob(f.ID) // no row names it
		}
		e.finishBare(ctx, *rec, ferr)
		return nil, withExecution(fmt.Errorf("writing the outcome of %s: %w", rec.ID, ferr), rec.ID)
	}
	if err != nil {
		return nil, withExecution(err, rec.ID)
	}
	return rec, nil
}

// finishBare writes the outcome without its output and files, for which there is
// no room, so that the record does not say for ever that the run goes on.
func (e *Engine) finishBare(ctx context.Context, rec agentsandbox.Execution, cause error) {
	rec.FilesOmitted += len(rec.Files)
	rec.Stdout, rec.Stderr, rec.Files = nil, nil, nil
	rec.Truncated = rec.StdoutBytes+rec.StderrBytes > 0
	rec.Error = "The output and files of this run could not be kept: " + publicMessage(cause)
	rec.HTTPStatus = agentsandbox.CodeOf(cause).HTTPStatus()
	if _, err := e.store.FinishExecution(ctx, rec); err != nil {
		e.log.Error("the outcome of an execution could not be written", "execution", rec.ID, "error", err)
	}
}

// errNoVerdict says that the agent did not report a result in time.
var errNoVerdict = errors.New("no result in time")

// run starts the code and reads its output and result. Exactly one of the
// result and the error is nil.
func (e *Engine) run(ctx context.Context, x *execution, rec *agentsandbox.Execution) (*runtime.Result, error) {
	started := time.Now()
	if x.resume != nil {
		started = rec.CreatedAt
	}
	defer func() { rec.DurationMS = max(1, int64((time.Since(started)+time.Millisecond/2)/time.Millisecond)) }()
	r, err := e.startOrFollow(ctx, x, rec)
	if err != nil {
		return nil, err
	}
	x.handle = r
	wait, cancel := context.WithTimeoutCause(ctx, max(x.timeout-time.Since(started), 0)+verdictGrace, errNoVerdict)
	defer cancel()
	result, err := e.readRun(wait, r, rec)
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
			_, _ = e.readRun(last, r, rec)
		}
		return nil, ctx.Err()
	case wait.Err() != nil:
		_ = e.destroy(x.sandbox) // logged there; a session sees it die
		return nil, errNoVerdict
	}
	return nil, err
}

// readRun keeps the output in rec, within the limit whatever the agent sends.
func (e *Engine) readRun(ctx context.Context, r runtime.Run, rec *agentsandbox.Execution) (*runtime.Result, error) {
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
			rec.Truncated = rec.StdoutBytes > int64(len(rec.Stdout)) || rec.StderrBytes > int64(len(rec.Stderr))
			return ev.Result, nil
		case ev.Stream == runtime.Stdout:
			e.keep(&rec.Stdout, &rec.StdoutBytes, &rec.Truncated, ev.Data)
		default:
			e.keep(&rec.Stderr, &rec.StderrBytes, &rec.Truncated, ev.Data)
		}
	}
}

func (e *Engine) keep(to *[]byte, seen *int64, truncated *bool, data []byte) {
	*seen += int64(len(data))
	if limit := e.limits.OutputBytes; limit > 0 {
		if room := limit - int64(len(*to)); int64(len(data)) > room {
			data = data[:max(room, 0)]
			*truncated = true
		}
	}
	*to = append(*to, data...)
}

// judge turns a result into the one terminal state of the record.
func judge(rec *agentsandbox.Execution, r *runtime.Result) {
	rec.CPUMS = r.CPU.Milliseconds()
	rec.ReturnCode = r.ExitCode
	if r.Signal != 0 {
		rec.ReturnCode = signalBase + r.Signal
		rec.Signal = signalName(r.Signal)
	}
	switch {
	case r.TimedOut:
		rec.Status, rec.ReturnCode = agentsandbox.StatusTimedOut, agentsandbox.ReturnCodeTimedOut
	case r.Killed:
		rec.Status = agentsandbox.StatusCancelled
	case rec.ReturnCode == 0:
		rec.Status = agentsandbox.StatusSucceeded
	default:
		rec.Status = agentsandbox.StatusFailed
	}
}

func cancelled(rec *agentsandbox.Execution, cause error) {
	rec.Status, rec.ReturnCode, rec.Signal = agentsandbox.StatusCancelled, returnCodeKilled, "SIGKILL"
	switch {
	case errors.Is(cause, errSessionDeleted):
		rec.Error = "The session was deleted while this ran."
	case errors.Is(cause, errShutdown), errors.Is(cause, errLeaving):
		rec.Error = "The server shut down while this ran."
	default:
		rec.Error = "The client disconnected while this ran."
	}
}

// lost tells a sandbox that the memory limit killed from one that died.
func (e *Engine) lost(sb runtime.Sandbox, rec *agentsandbox.Execution) {
	rec.ReturnCode, rec.Signal = returnCodeKilled, "SIGKILL"
	rec.Status, rec.Error = agentsandbox.StatusSandboxLost, "The sandbox died. It is safe to run this again."
	usage, err := sb.Usage()
	switch {
	case err != nil:
		e.log.Warn("the counters of a lost sandbox could not be read", "sandbox", sb.ID(), "error", err)
	case usage.OOMKills > 0:
		rec.Status, rec.Error = agentsandbox.StatusMemoryExceeded, "The sandbox used more memory than its limit and was killed."
	}
}

// verdictNote is the last line on stderr of a run that did not end by itself.
func verdictNote(rec *agentsandbox.Execution, timeout time.Duration) string {
	switch rec.Status {
	case agentsandbox.StatusTimedOut:
		return fmt.Sprintf("agentsandbox: timed out after %d ms", timeout.Milliseconds())
	case agentsandbox.StatusMemoryExceeded, agentsandbox.StatusSandboxLost:
		return "agentsandbox: " + rec.Error
	}
	if rec.ReturnCode == returnCodeNotStarted && rec.Error != "" {
		return "agentsandbox: " + rec.Error
	}
	return ""
}

func appendNote(stderr []byte, note string) []byte {
	if n := len(stderr); n > 0 && stderr[n-1] != '\n' {
		stderr = append(stderr, '\n')
	}
	return append(append(stderr, note...), '\n')
}

func signalName(n int) string {
	if name := unix.SignalName(unix.Signal(n)); name != "" {
		return name
	}
	return fmt.Sprintf("SIG%d", n)
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

// publicMessage is what may be shown of an error.
func publicMessage(err error) string {
	var e *agentsandbox.Error
	if errors.As(err, &e) {
		return e.Message
	}
	return "An internal error; the server's log has the cause."
}
