package engine

import (
	"context"
	"net"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/engine/files"
	"github.com/agentsandbox/agentsandbox/internal/engine/quota"
	"github.com/agentsandbox/agentsandbox/internal/engine/supply"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// Store keeps what must not be lost. Methods that take a tenant see that
// tenant's rows only. A row that is not there is an *agentsandbox.Error with the
// not-found code of its kind; a full disk is one of code storage_full.
type Store interface {
	SessionStore
	ExecutionStore
	files.Store
	AdmissionStore
}

// AdmissionStore keeps what the admission of work needs to know.
type AdmissionStore interface {
	quota.Store
	// NoteSessionEnd keeps why a session ended, in sentences for people. The first
	// reason stays.
	NoteSessionEnd(ctx context.Context, id, why string) error
	// SessionEnd returns what was noted; "" if nothing was.
	SessionEnd(ctx context.Context, id string) (string, error)
}

// SessionStore keeps sessions.
type SessionStore interface {
	InsertSession(ctx context.Context, s agentsandbox.Session) error
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
	// DeleteSessions forgets at most limit sessions that ended before a time.
	DeleteSessions(ctx context.Context, before time.Time, limit int) (int, error)
}

// ExecutionStore keeps the records of runs.
type ExecutionStore interface {
	InsertExecution(ctx context.Context, e agentsandbox.Execution) error
	// FinishExecution writes the outcome of a run, and the rows of its files,
	// in one transaction, if the run is still running; it tells whether it was.
	FinishExecution(ctx context.Context, e agentsandbox.Execution) (bool, error)
	// Execution finds a record, with those of its files that still exist.
	Execution(ctx context.Context, tenant, id string) (agentsandbox.Execution, error)
	Executions(ctx context.Context, tenant string, filter agentsandbox.ExecutionFilter) (agentsandbox.ExecutionPage, error)
	// LeftExecutions lists every tenant's runs that have not ended.
	LeftExecutions(ctx context.Context) ([]Left, error)
	// DeleteExecutions forgets at most limit records of runs that ended before a
	// time, and returns how many; 0 when there are none left. Their files stay.
	DeleteExecutions(ctx context.Context, before time.Time, limit int) (int, error)
}

// Left is a row that has not ended, and where it was at work: Sandbox is empty
// if it had none yet. An alias, like Blob.
type Left = struct {
	Tenant, ID, Status, Sandbox string
	Plan                        []byte
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

// EgressAudit writes to the audit log what sandboxes do with their network.
type EgressAudit interface {
	supply.EgressAudit
	// WatchSession and WatchRun begin with the sandbox of a session, or of a single
	// run.
	WatchSession(sandbox, tenant, session string)
	WatchRun(sandbox, tenant, execution string)
}

// Spool keeps the output of runs that go on, so that the sandbox may forget it.
// It is needed only after the death of the process, and may be lost with the
// host, which takes the sandboxes too.
type Spool interface {
	// Append adds an entry to the spool of an execution; all of it is there when
	// Append returns without an error, and none of it counts otherwise.
	Append(id string, e SpoolEntry) error
	// Read returns what was appended, added up; nothing is an empty entry.
	Read(id string) (SpoolEntry, error)
	// Remove can be repeated.
	Remove(id string) error
	// Sweep removes the spools for which keep says false.
	Sweep(keep func(id string) bool) error
}

// SpoolEntry is output as it was taken, up to a point: an alias, like Blob.
type SpoolEntry = struct {
	Stdout, Stderr []byte
	Progress       runtime.Progress
}

// Templates are what sandboxes are made of, as data.
type Templates interface {
	// Template returns a template by its name. One that the server does not have
	// is an *agentsandbox.Error of code invalid_request.
	Template(name string) (Template, error)
}

// Sandboxes hands out sandboxes that nobody used before.
type Sandboxes interface {
	supply.Pool
	// Ready tells whether a sandbox of the default template can be claimed now;
	// nil if so, otherwise why not.
	Ready() error
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
	// Refusals begins to add up what a sandbox is refused; the function returned ends
	// that and tells it, in bounded space, with the count of what was left out. It
	// is nil for a sandbox without a device.
	Refusals(sandbox string) (end func() ([]agentsandbox.NetworkRefusal, int64))
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
