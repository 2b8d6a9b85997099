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
	"github.com/agentsandbox/agentsandbox/internal/engine/quota"
	"github.com/agentsandbox/agentsandbox/internal/engine/supply"
	"github.com/agentsandbox/agentsandbox/internal/engine/work"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// Limits are the defaults of the server, and how far a request may go.
type Limits struct {
	DefaultTimeout, MaxTimeout   time.Duration
	DefaultMemoryMB, MaxMemoryMB int64
	DefaultCPUs, MaxCPUs         float64
	// Tasks bounds the processes and threads of one sandbox on the host.
	Tasks int64
	// OutputBytes bounds what is kept of each output stream.
	OutputBytes int64
	CodeBytes   int64
	UploadBytes int64
	Collect     runtime.CollectLimits
	Gentle      GentleLimits
	// StreamBytes ends a run that has written more to one stream.
	StreamBytes int64
}

// Options configure an Engine.
type Options struct {
	Store       Store
	Blobs       files.Blobs
	Sandboxes   Sandboxes
	Spool       Spool
	Keys        Keys
	Audit       Audit
	EgressAudit EgressAudit
	// Network is what sandboxes may reach; nil: nothing.
	Network Network
	// Vault seals the secrets of sessions and makes the URLs of their ports; nil:
	// there are neither.
	Vault Vault
	// SandboxEnv is the environment of every run that does not set it itself.
	SandboxEnv map[string]string
	// KeepSessions says that sessions outlive Close, for the Recover of a later
	// server.
	KeepSessions bool
	// Template is the name of the default one of Templates.
	Template  string
	Templates Templates
	Limits    Limits
	Quotas    *quota.Quotas
	// Ports bound the connections to ports of sessions.
	Ports PortLimits
	// Lifetimes say what expires and when; the zero value: nothing does.
	Lifetimes Lifetimes
	// AnswerStatus says with which status a run that ended with a code, "" for none,
	// was answered: the record keeps it, and the engine knows no HTTP. Needed.
	AnswerStatus func(agentsandbox.Code) int
	Logger       *slog.Logger
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Engine implements the services of executions, sessions, files and networks.
// Make one with New, call Recover before the first request, Start for what happens
// by itself, and Close at the end.
type Engine struct {
	*files.Library

	store       Store
	sandboxes   Sandboxes
	supply      *supply.Supply
	spool       Spool
	keys        Keys
	audit       Audit
	egressAudit EgressAudit
	network     Network
	vault       Vault
	env         map[string]string // of every run
	// answerStatus is the status with which a code is answered.
	answerStatus func(agentsandbox.Code) int
	// keepSessions says that sessions outlive Close.
	keepSessions atomic.Bool
	recovered    *recovery // from Recover to Start
	template     string    // of what names none
	templates    Templates
	limits       Limits
	verdictGrace time.Duration
	quotas       *quota.Quotas
	loads        chan struct{} // holds a token for each run whose output is read back
	spoolless    atomic.Int64  // output that only memory has because the spool cannot take it
	lifetimes    Lifetimes
	log          *slog.Logger
	work         *work.Group
	clock        func() time.Time

	// keeping is the housekeeping that Start begins, and the ends of sessions
	// that have expired.
	keeping        sync.WaitGroup
	keepingCtx     context.Context
	stopKeepingNow context.CancelFunc

	mu       sync.Mutex
	sessions map[string]*session
	ports    PortLimits
	conns    map[*portConn]struct{} // to ports of sessions
	byPath   map[string]*session    // by the paths of their open ports
	// watchers wait for the sandboxes of live sessions to die.
	watchers sync.WaitGroup
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
	keepingCtx, stopKeepingNow := context.WithCancel(context.Background())
	e := &Engine{
		store: opts.Store, sandboxes: opts.Sandboxes, spool: opts.Spool, keys: opts.Keys, audit: opts.Audit, egressAudit: opts.EgressAudit, network: opts.Network, vault: opts.Vault, env: opts.SandboxEnv,
		answerStatus: opts.AnswerStatus,
		template:     opts.Template, templates: opts.Templates, limits: opts.Limits, verdictGrace: verdictGrace, quotas: opts.Quotas, loads: make(chan struct{}, outputLoads), log: opts.Logger, clock: opts.Now,
		lifetimes:  opts.Lifetimes,
		keepingCtx: keepingCtx, stopKeepingNow: stopKeepingNow,
		sessions: map[string]*session{}, ports: opts.Ports, conns: map[*portConn]struct{}{}, byPath: map[string]*session{},
		work: work.NewGroup(opts.Logger),
	}
	e.Library = files.New(files.Options{
		Store: opts.Store, Blobs: opts.Blobs, Quotas: e.quotas, Vault: opts.Vault,
		UploadBytes: opts.Limits.UploadBytes, Collect: opts.Limits.Collect, Logger: opts.Logger, Now: e.now,
	})
	e.supply = supply.New(opts.Sandboxes, opts.Network, opts.EgressAudit, e.work, opts.Logger)
	e.keepSessions.Store(opts.KeepSessions)
	e.keys.OnRevoke(e.closeForKey)
	return e
}

// now is the time that rows carry: UTC, to the microsecond that stores keep.
func (e *Engine) now() time.Time { return e.clock().UTC().Truncate(time.Microsecond) }

const (
	destroyTimeout = 30 * time.Second
	destroyTries   = 3
	// recordTimeout bounds the writing of an outcome whose caller is gone.
	recordTimeout = 30 * time.Second
)

// Close refuses new work and lets running work end. When ctx is done, what still
// runs is ended and recorded as cancelled. Then the live sessions end too; with
// KeepSessions they, and what runs in them, are left to the next server. It
// returns when nothing is left to do.
func (e *Engine) Close(ctx context.Context) {
	e.work.Refuse()
	e.stopKeeping()
	e.work.Close(ctx, e.endOfWork)
	e.saveUses(context.Background(), true)
	if e.keepSessions.Load() {
		e.leaveSessions()
	} else {
		e.closeSessions()
	}
}
