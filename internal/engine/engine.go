// Package engine is the use cases of Agent Sandbox: executing code, keeping
// sessions and files. It implements these parts of [agentsandbox.Service] on
// ports that it declares itself: a store, blobs, and a supply of sandboxes. It owns
// policy and state; it knows no HTTP, no SQL and no gVisor.
//
// What user code does is an outcome and stands in the execution; an error is a
// request that was refused, or a failure of ours. Work that must end, such as
// writing an outcome or destroying a sandbox, goes on when the caller is gone,
// and Close waits for it.
package engine

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/engine/files"
	"github.com/agentsandbox/agentsandbox/internal/engine/limits"
	"github.com/agentsandbox/agentsandbox/internal/engine/quota"
	"github.com/agentsandbox/agentsandbox/internal/engine/run"
	"github.com/agentsandbox/agentsandbox/internal/engine/sessions"
	"github.com/agentsandbox/agentsandbox/internal/engine/supply"
	"github.com/agentsandbox/agentsandbox/internal/engine/templates"
	"github.com/agentsandbox/agentsandbox/internal/engine/work"
	"github.com/agentsandbox/agentsandbox/internal/eventlog"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// Kept says at what age files, and records of executions and of sessions that have
// ended, are removed; 0: never.
type Kept struct {
	Files, Records time.Duration
}

// Options configure an Engine.
type Options struct {
	Store     Store
	Blobs     files.Blobs
	Sandboxes Sandboxes
	Logs      *eventlog.Dir
	Keys      sessions.Keys
	Audit     Audit
	// EgressAudit tells the audit log what sandboxes do with their network.
	EgressAudit sessions.EgressAudit
	// Network is what sandboxes may reach; nil: nothing.
	Network Network
	// Vault seals the secrets of sessions and makes the URLs of their ports; nil:
	// there are neither.
	Vault sessions.Vault
	// SandboxEnv is the environment of every run that does not set it itself.
	SandboxEnv map[string]string
	// KeepSessions says that sessions outlive Close, for the Recover of a later
	// server.
	KeepSessions bool
	// Template is the name of the default one of Templates.
	Template  string
	Templates templates.Source
	Limits    limits.Limits
	Quotas    *quota.Quotas
	// Ports bound the connections to ports of sessions.
	Ports sessions.PortLimits
	// Lifetimes say when sessions end; the zero value: never.
	Lifetimes sessions.Lifetimes
	// Kept says for how long files and records are kept; the zero value: for ever.
	Kept Kept
	// AnswerStatus says with which status a run that ended with a code, "" for none,
	// was answered: the record keeps it, and the engine knows no HTTP. Needed.
	AnswerStatus func(agentsandbox.Code) int
	// VerdictGrace is how long after its time limit a run may take to report; 0: 10 s.
	VerdictGrace time.Duration
	Logger       *slog.Logger
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Engine implements the services of executions, sessions, files and networks.
// Make one with New, call Recover before the first request, Start for what happens
// by itself, and Close at the end.
type Engine struct {
	*run.Supervisor
	*sessions.Registry
	*files.Library

	store     Store
	audit     Audit
	sandboxes Sandboxes
	supply    *supply.Supply
	// keepSessions says that sessions outlive Close.
	keepSessions atomic.Bool
	kept         Kept
	work         *work.Group
	log          *slog.Logger
	clock        func() time.Time
	unneeded     []runtime.Sandbox // from Recover to Start

	network Network
	// keeping is the housekeeping that Start begins.
	keeping        sync.WaitGroup
	keepingCtx     context.Context
	stopKeepingNow context.CancelFunc
}

var _ interface {
	agentsandbox.ExecutionService
	agentsandbox.SessionService
	agentsandbox.FileService
	agentsandbox.WorkspaceService
	agentsandbox.NetworkService
} = (*Engine)(nil)

// New makes an engine.
func New(opts Options) *Engine {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Network == nil {
		opts.Network = offline{}
	}
	e := &Engine{
		store: opts.Store, audit: opts.Audit, sandboxes: opts.Sandboxes, network: opts.Network, kept: opts.Kept,
		work: work.NewGroup(opts.Logger), log: opts.Logger, clock: opts.Now,
	}
	e.keepSessions.Store(opts.KeepSessions)
	e.keepingCtx, e.stopKeepingNow = context.WithCancel(context.Background())
	e.supply = supply.New(opts.Sandboxes, opts.Network, opts.EgressAudit, e.work, opts.Logger)
	e.Library = files.New(files.Options{
		Store: opts.Store, Blobs: opts.Blobs, Quotas: opts.Quotas, Vault: opts.Vault,
		UploadBytes: opts.Limits.UploadBytes, Collect: opts.Limits.Collect, Logger: opts.Logger, Now: e.now,
	})
	e.Registry = sessions.New(sessions.Options{
		Store: opts.Store, Supply: e.supply, Files: e.Library, Quotas: opts.Quotas, Limits: opts.Limits, Network: opts.Network,
		Keys: opts.Keys, Audit: opts.Audit, Egress: opts.EgressAudit, Vault: opts.Vault, Template: opts.Template, Templates: opts.Templates,
		Lifetimes: opts.Lifetimes, Ports: opts.Ports, Work: e.work, Logger: opts.Logger, Now: opts.Now,
	})
	e.Supervisor = run.New(run.Options{
		Store: opts.Store, Logs: opts.Logs, Supply: e.supply, Sessions: e.Registry, Files: e.Library, Quotas: opts.Quotas,
		Limits: opts.Limits, Network: opts.Network, Audit: opts.Audit, Egress: opts.EgressAudit, Vault: opts.Vault, Env: opts.SandboxEnv,
		Template: opts.Template, Templates: opts.Templates, AnswerStatus: opts.AnswerStatus, VerdictGrace: opts.VerdictGrace, Work: e.work, Logger: opts.Logger, Now: e.now,
	})
	return e
}

// now is the time that rows carry: UTC, to the microsecond that stores keep.
func (e *Engine) now() time.Time { return e.clock().UTC().Truncate(time.Microsecond) }

// KeepSessions has Close leave the sessions to a later server whatever the
// options say: a server that ends because it failed was not asked to end them.
func (e *Engine) KeepSessions() { e.keepSessions.Store(true) }

// Close refuses new work and lets running work end. When ctx is done, what still
// runs is ended and recorded as cancelled. Then the live sessions end too; with
// KeepSessions they, and what runs in them, are left to the next server. It
// returns when nothing is left to do.
func (e *Engine) Close(ctx context.Context) {
	e.work.Refuse()
	e.stopKeeping()
	e.work.Close(ctx, func() error {
		if e.keepSessions.Load() {
			return work.ErrLeaving
		}
		return work.ErrShutdown
	})
	e.Registry.Close(e.keepSessions.Load())
}
