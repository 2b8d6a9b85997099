// Package run takes runs of code from the request to the outcome. All of them go one
// way, whether in a session, in a sandbox of their own, or begun by an earlier server,
// and its steps stand in files of these names:
//
//	admit    is the request allowed, and are its files there
//	place    in which sandbox, under which limits, with which variables
//	record   the row that says that it runs, and where
//	start    the code begins, or what an earlier server began is attached to
//	follow   output goes from the sandbox to the event log, until the result
//	collect  the files that it made are kept
//	finish   the log is sealed and the outcome written, in verdict, notes and output
//
// From the record on, a run belongs to the Supervisor and always gets an outcome, also
// when whoever asked for it has gone. What user code does is an outcome and stands in
// the execution; an error is a request that was refused, or a failure of ours. The
// package knows no HTTP, no SQL and no gVisor.
package run

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/cursor"
	"github.com/agentsandbox/agentsandbox/internal/engine/files"
	"github.com/agentsandbox/agentsandbox/internal/engine/limits"
	"github.com/agentsandbox/agentsandbox/internal/engine/quota"
	"github.com/agentsandbox/agentsandbox/internal/engine/sessions"
	"github.com/agentsandbox/agentsandbox/internal/engine/supply"
	"github.com/agentsandbox/agentsandbox/internal/engine/templates"
	"github.com/agentsandbox/agentsandbox/internal/engine/work"
	"github.com/agentsandbox/agentsandbox/internal/eventlog"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// Store keeps the records of runs.
type Store interface {
	// InsertExecution stores the record of a run, in which sandbox it is, and what a
	// later server needs to attach to it.
	InsertExecution(ctx context.Context, e agentsandbox.Execution, sandbox string, attachInfo []byte) error
	// FinishExecution writes the outcome of a run, its log and the rows of its files,
	// in one transaction, if the run is still running; it tells whether it was.
	FinishExecution(ctx context.Context, e agentsandbox.Execution, log eventlog.Sealed) (bool, error)
	// Execution finds a record, with those of its files that still exist, and its log.
	// A run from before there were logs has its output in the record.
	Execution(ctx context.Context, tenant, id string) (agentsandbox.Execution, eventlog.Sealed, error)
	// NeedsLog tells whether the file of a log is needed, whose ever it is.
	NeedsLog(ctx context.Context, id string) (bool, error)
	Executions(ctx context.Context, tenant string, filter agentsandbox.ExecutionFilter) (agentsandbox.ExecutionPage, error)
	// LeftExecutions lists every tenant's runs that have not ended.
	LeftExecutions(ctx context.Context) ([]Left, error)
	// DeleteExecutions forgets at most limit records of runs that ended before a
	// time, and returns their ids; none when there are none left. What files they made
	// stays.
	DeleteExecutions(ctx context.Context, before time.Time, limit int) ([]string, error)
}

// Left is a run that has not ended, its sandbox, and what was noted to attach to it. It
// is an alias, so that a store need not import this package.
type Left = struct {
	Tenant, ID, Sandbox string
	AttachInfo          []byte
}

// Network tells what a policy is, and what it refused.
type Network interface {
	// Check refuses what is more than the server allows to a template: an
	// *agentsandbox.Error of code invalid_request that names the entry.
	Check(template string, policy *agentsandbox.NetworkPolicy) error
	// Apply puts a policy in force for a sandbox, nil for the template's.
	Apply(sandbox, template string, policy *agentsandbox.NetworkPolicy, secrets []agentsandbox.BoundSecret) error
	// Refusals begins to add up what a sandbox is refused; the function returned ends
	// that and tells it, in bounded space, with the count of what was left out. It
	// is nil for a sandbox without a device.
	Refusals(sandbox string) (end func() ([]agentsandbox.NetworkRefusal, int64))
}

// Options configure a Supervisor.
type Options struct {
	Store    Store
	Logs     *eventlog.Dir
	Supply   *supply.Supply
	Sessions *sessions.Registry
	Files    *files.Library
	Quotas   *quota.Quotas
	Limits   limits.Limits
	Network  Network
	Audit    sessions.Audit
	Egress   sessions.EgressAudit
	// Vault seals the cursors of lists; nil: there are none.
	Vault cursor.Vault
	// Env is the environment of every run that does not set it itself.
	Env map[string]string
	// Template is the name, among Templates, of that of runs without a session.
	Template  string
	Templates templates.Source
	// AnswerStatus says with which status a run that ended with a code, "" for none,
	// was answered: the record keeps it, and this package knows no HTTP. Needed.
	AnswerStatus func(agentsandbox.Code) int
	// VerdictGrace is how long after its time limit a run may take to report; 0: 10 s.
	VerdictGrace time.Duration
	Work         *work.Group
	Logger       *slog.Logger
	// Now is the time that rows carry.
	Now func() time.Time
}

// Supervisor has the runs. Make one with New, call Recover before the first request, and
// Resume to go on with what that found. The work group waits for the runs at the end.
type Supervisor struct {
	store        Store
	logs         *eventlog.Dir
	supply       *supply.Supply
	sessions     *sessions.Registry
	files        *files.Library
	quotas       *quota.Quotas
	limits       limits.Limits
	network      Network
	audit        sessions.Audit
	egress       sessions.EgressAudit
	vault        cursor.Vault
	env          map[string]string
	template     string
	templates    templates.Source
	answerStatus func(agentsandbox.Code) int
	work         *work.Group
	log          *slog.Logger
	now          func() time.Time
	verdictGrace time.Duration

	recovered []*Run // from Recover to Resume
}

// New returns a supervisor without runs.
func New(o Options) *Supervisor {
	return &Supervisor{
		store: o.Store, logs: o.Logs, supply: o.Supply, sessions: o.Sessions, files: o.Files, quotas: o.Quotas, limits: o.Limits,
		network: o.Network, audit: o.Audit, egress: o.Egress, vault: o.Vault, env: o.Env, template: o.Template, templates: o.Templates,
		answerStatus: o.AnswerStatus, work: o.Work, log: o.Logger, now: o.Now,
		verdictGrace: cmp.Or(o.VerdictGrace, verdictGrace),
	}
}

// Run is one run of code, from its placement to its outcome.
type Run struct {
	*placement

	s       *Supervisor
	record  agentsandbox.Execution
	files   []agentsandbox.File // to be copied in
	command runtime.Command
	// resumed says that an earlier server started the run; the log knows how far it
	// was followed.
	resumed bool
	// handle holds on to the run in the sandbox until its outcome is written.
	handle runtime.Run
	// log has the output. Whoever takes the answer closes it.
	log *eventlog.Log
	// unwritten says that the log has output in memory that it could not write.
	unwritten bool
	// unrecorded says that the outcome could not be written.
	unrecorded bool
	// output says how much there was, once the run is over.
	output eventlog.Totals

	over chan struct{} // closed when err is final
	err  error
}

// Execute implements agentsandbox.ExecutionService: it starts a run, waits for its
// outcome, and returns it with all of its output. The run ends when ctx does.
func (s *Supervisor) Execute(ctx context.Context, req agentsandbox.ExecuteRequest) (*agentsandbox.Execution, error) {
	ctx, done, err := s.work.Begin(ctx, "execute")
	if err != nil {
		return nil, err
	}
	defer done()
	r, err := s.Start(ctx, req)
	if err != nil {
		return nil, err
	}
	<-r.over
	return r.answer(ctx)
}

// Start returns when a run is recorded. The run goes on until its outcome is written,
// and is ended before its time when ctx ends.
func (s *Supervisor) Start(ctx context.Context, req agentsandbox.ExecuteRequest) (*Run, error) {
	a, err := s.admit(ctx, req)
	if err != nil {
		return nil, err
	}
	ctx, r, err := s.place(ctx, a)
	if err != nil {
		a.unpin()
		return nil, err
	}
	if err := r.insertRecord(ctx); err != nil {
		r.log.Close()
		r.release()
		a.unpin()
		return nil, err
	}
	s.work.Go("run", func() {
		defer close(r.over)
		defer a.unpin()
		defer r.release()
		r.perform(ctx)
	})
	return r, nil
}

// perform takes a recorded run to its outcome, also where that makes the server panic:
// what a sandbox says of one run must not end the others.
func (r *Run) perform(ctx context.Context) {
	defer func() {
		if reason := recover(); reason != nil {
			r.writePanic(ctx, reason)
		}
	}()
	err := r.s.files.Inject(ctx, r.sandbox, r.files)
	var result *runtime.Result
	if err == nil {
		refusals := r.s.network.Refusals(r.sandbox.ID())
		result, err = r.follow(ctx)
		if refusals != nil {
			r.record.NetworkRefused, r.record.NetworkRefusedOmitted = refusals()
		}
	}
	if r.survivesShutdown(ctx) {
		r.err = leftRunning(r.record.ID)
		return
	}
	r.err = r.finish(ctx, result, err)
	if r.handle != nil && !r.unrecorded {
		_ = r.handle.Close() // the sandbox may forget the run, and may be gone
	}
}
