// Package sessions keeps the sessions: which are live, who uses them, when they end.
// A session is a state in the store with, while it is live, a sandbox here. Its state
// changes only along the table of moves in the root package, and every use of one is a
// visit, which its end waits for, within a bound.
//
// The package knows what can be done in a session but for runs: its paths, its network
// and secrets, its ports. What a caller did wrong, and a session that has ended, are
// errors for the caller; what cannot be written at the end of a session is logged, and
// found by the Recover of the next start.
package sessions

import (
	"context"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/engine/files"
	"github.com/agentsandbox/agentsandbox/internal/engine/limits"
	"github.com/agentsandbox/agentsandbox/internal/engine/quota"
	"github.com/agentsandbox/agentsandbox/internal/engine/supply"
	"github.com/agentsandbox/agentsandbox/internal/engine/templates"
	"github.com/agentsandbox/agentsandbox/internal/engine/work"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// Store keeps sessions.
type Store interface {
	// InsertSession stores a session, and its secrets, sealed, until it ends.
	InsertSession(ctx context.Context, s agentsandbox.Session, sealedSecrets []byte) error
	// Session finds a session in any state.
	Session(ctx context.Context, tenant, id string) (agentsandbox.Session, error)
	// Sessions lists live sessions, newest first.
	Sessions(ctx context.Context, tenant string, filter agentsandbox.SessionFilter) (agentsandbox.SessionPage, error)
	// MoveSession changes the status, if the table of moves allows it from the one that
	// the session has; otherwise the error is an agentsandbox.SessionMoveError. There is
	// no other way in which a status changes. One that nothing follows sets EndedAt.
	MoveSession(ctx context.Context, id string, to agentsandbox.SessionStatus, at time.Time) error
	// BindSession notes which sandbox is a session's.
	BindSession(ctx context.Context, id, sandbox string) error
	// LeftSessions lists every tenant's sessions that are creating, live or
	// deleting.
	LeftSessions(ctx context.Context) ([]Left, error)
	// TouchSessions records when sessions were last used.
	TouchSessions(ctx context.Context, used map[string]time.Time) error
	// KeepSession records a use, and how long the session may be idle from then
	// on, if it has not ended.
	KeepSession(ctx context.Context, id string, used time.Time, idleTimeoutMS int64) error
	// SetNetwork replaces the policy of a session that has not ended, and SetPorts
	// its open ports.
	SetNetwork(ctx context.Context, id string, policy *agentsandbox.NetworkPolicy) error
	SetPorts(ctx context.Context, id string, ports []agentsandbox.OpenPort) error
	// NoteSessionEnd keeps why a session ended, in sentences for people. The first
	// reason stays.
	NoteSessionEnd(ctx context.Context, id, why string) error
	// SessionEnd returns what was noted; "" if nothing was.
	SessionEnd(ctx context.Context, id string) (string, error)
	// Executions lists runs: the id of a session may be that of a run without one.
	Executions(ctx context.Context, tenant string, filter agentsandbox.ExecutionFilter) (agentsandbox.ExecutionPage, error)
}

// Left is a session that has not ended, and what a later server needs to go on with it:
// its sandbox, empty if it had none yet, its secrets, sealed, and its open ports. It is
// an alias, so that a store need not import this package.
type Left = struct {
	Tenant, ID    string
	Status        agentsandbox.SessionStatus
	Sandbox       string
	SealedSecrets []byte
	Ports         []agentsandbox.OpenPort
}

// Network decides what sandboxes may reach. A sandbox that was just made reaches
// nothing until Apply.
type Network interface {
	supply.Network
	// Check refuses what is more than the server allows to a template: an
	// *agentsandbox.Error of code invalid_request that names the entry.
	Check(template string, policy *agentsandbox.NetworkPolicy) error
	// HasDevice tells whether a sandbox has a network device.
	HasDevice(sandbox string) bool
	// Report tells what a sandbox did, its Policy aside.
	Report(sandbox string) agentsandbox.NetworkReport
	// Dial opens a connection to a port of a sandbox.
	Dial(ctx context.Context, sandbox string, port uint16) (net.Conn, error)
}

// Vault seals what must not be stored in clear, and makes tokens that strangers
// show again. What was sealed under another label, or elsewhere, is an error.
type Vault interface {
	Seal(plain []byte, label string) []byte
	Unseal(sealed []byte, label string) ([]byte, error)
	// Token returns a text that is safe in a path, the same for the same payload
	// and label, that tells nothing of either and that nobody else can make.
	Token(payload []byte, label string) string
}

// Keys tells when API keys stop being valid. What a key has opened ends with it.
type Keys interface {
	// End returns when a key stops, or stopped, being valid; false if that is not
	// known.
	End(id string) (end time.Time, known bool)
	// LoadEnds learns when the keys of an earlier process end.
	LoadEnds(ctx context.Context) error
	// OnRevoke has f called with the id of each key that is revoked, before the key's
	// owner is told.
	OnRevoke(f func(ctx context.Context, id string) error)
}

// Audit takes rows about what the server does by itself.
type Audit interface {
	// Append adds a row, also when the caller is gone. It logs a row that cannot be
	// written, and writes it when that is possible.
	Append(ctx context.Context, entry agentsandbox.AuditEntry) error
}

// EgressAudit tells the audit log what sandboxes do with their network.
type EgressAudit interface {
	supply.EgressAudit
	// WatchSession and WatchRun begin with the sandbox of a session, or of a single
	// run.
	WatchSession(sandbox, tenant, session string)
	WatchRun(sandbox, tenant, execution string)
}

// Lifetimes say how long sessions are kept.
type Lifetimes struct {
	// Idle ends a session that nothing uses, and Age one of that age, unless it asks
	// for something else, up to the most of each; 0: never, and no most.
	Idle, MaxIdle time.Duration
	Age, MaxAge   time.Duration
}

// Options configure a Registry.
type Options struct {
	Store   Store
	Supply  *supply.Supply
	Files   *files.Library
	Quotas  *quota.Quotas
	Limits  limits.Limits
	Network Network
	Keys    Keys
	Audit   Audit
	Egress  EgressAudit
	// Vault seals the secrets of sessions and makes the URLs of their ports; nil:
	// there are neither.
	Vault Vault
	// Template is the name of the default one of Templates.
	Template  string
	Templates templates.Source
	Lifetimes Lifetimes
	// Ports bound the connections to ports of sessions.
	Ports  PortLimits
	Work   *work.Group
	Logger *slog.Logger
	// Now is the clock.
	Now func() time.Time
}

// Registry keeps the sessions. Make one with New, call Recover before the first
// request, Start for what happens by itself, and Close at the end.
type Registry struct {
	store           Store
	supply          *supply.Supply
	files           *files.Library
	quotas          *quota.Quotas
	limits          limits.Limits
	network         Network
	keys            Keys
	audit           Audit
	egress          EgressAudit
	vault           Vault
	defaultTemplate string
	templates       templates.Source
	lifetimes       Lifetimes
	ports           PortLimits
	work            *work.Group
	log             *slog.Logger
	clock           func() time.Time

	recovered []*session     // from Recover to Start
	keeping   sync.WaitGroup // what Start began, and the ends of sessions that have expired
	// keepingCtx ends with stopKeeping.
	keepingCtx  context.Context
	stopKeeping context.CancelFunc
	// watchers wait for the sandboxes of live sessions to die.
	watchers sync.WaitGroup

	mu       sync.Mutex
	sessions map[string]*session
	conns    map[*portConn]struct{} // to ports of sessions
	byPath   map[string]*session    // by the paths of their open ports
}

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
	// ports are open to whoever has their URL; under the registry's lock.
	ports []agentsandbox.OpenPort
	// networking is held while policy or ports are being replaced.
	networking sync.Mutex
}

// New returns a registry.
func New(o Options) *Registry {
	r := &Registry{
		store: o.Store, supply: o.Supply, files: o.Files, quotas: o.Quotas, limits: o.Limits, network: o.Network, keys: o.Keys,
		audit: o.Audit, egress: o.Egress, vault: o.Vault, defaultTemplate: o.Template, templates: o.Templates, lifetimes: o.Lifetimes, ports: o.Ports,
		work: o.Work, log: o.Logger, clock: o.Now,
		sessions: map[string]*session{}, conns: map[*portConn]struct{}{}, byPath: map[string]*session{},
	}
	r.keepingCtx, r.stopKeeping = context.WithCancel(context.Background())
	r.keys.OnRevoke(r.closeForKey)
	return r
}

// now is the time that rows carry: UTC, to the microsecond that stores keep.
func (r *Registry) now() time.Time { return r.clock().UTC().Truncate(time.Microsecond) }

// Start watches the sessions that Recover found, and begins to end those that expire.
func (r *Registry) Start() {
	r.Resume()
	r.keeping.Go(func() {
		ticker := time.NewTicker(tidyEvery)
		defer ticker.Stop()
		for {
			select {
			case <-r.keepingCtx.Done():
				return
			case <-ticker.C:
			}
			r.Tidy()
		}
	})
}

// Resume is the part of Start that watches the sessions that Recover found.
func (r *Registry) Resume() {
	for _, s := range r.recovered {
		r.watchers.Go(func() { r.watch(s) })
	}
	r.recovered = nil
}

// Tidy is one round of what Start does every second: it ends sessions and connections
// whose time has come, and writes when sessions were last used.
func (r *Registry) Tidy() {
	r.expireSessions(r.keepingCtx)
	r.endDueConns()
	r.saveUses(r.keepingCtx, false)
}

// StopKeeping ends what Start began. Sessions stay.
func (r *Registry) StopKeeping() {
	r.stopKeeping()
	r.keeping.Wait()
}

// add puts a session with those that can be used. The caller has it watched.
func (r *Registry) add(info agentsandbox.Session, sb runtime.Sandbox, secrets []agentsandbox.BoundSecret, ports []agentsandbox.OpenPort) *session {
	s := &session{info: info, sandbox: sb, use: useOf(info), secrets: secrets}
	s.ended, s.end = context.WithCancelCause(context.Background())
	r.egress.WatchSession(sb.ID(), info.Tenant, info.ID)
	r.mu.Lock()
	r.sessions[info.ID] = s
	r.setPorts(s, ports)
	r.mu.Unlock()
	return s
}

// remove takes a session off those that can be used and tells whether this caller did:
// the one that must then finish it.
func (r *Registry) remove(s *session) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sessions[s.info.ID] != s {
		return false
	}
	r.removeLocked(s)
	return true
}

// removeLocked is remove of a session that is live; the registry's lock is held.
func (r *Registry) removeLocked(s *session) {
	delete(r.sessions, s.info.ID)
	for _, p := range s.ports {
		delete(r.byPath, p.Path)
	}
}

// all are the live sessions.
func (r *Registry) all() []*session {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Values(r.sessions))
}
