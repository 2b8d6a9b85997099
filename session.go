package agentsandbox

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// SessionRequest asks for a session.
type SessionRequest struct {
	// Env holds for every run of the session.
	Env map[string]string
	// FileIDs are copied to Workspace/{Filename}.
	FileIDs []string
	// Template names the template; empty: the server's default.
	Template string
	// TimeoutMS is the time limit of each run; 0: the server's default.
	TimeoutMS int64
	// MemoryMB and CPUs limit the sandbox; 0: the server's default.
	MemoryMB int64
	CPUs     float64
	// RunLimits hold for each run; CPUTimeMS is of no use here.
	RunLimits
	DiskLimits
	// CollectIgnored is that of runs which do not say; nil: as the server says.
	CollectIgnored *bool
	// Metadata is kept and shown with the session.
	Metadata map[string]string
	// IdleTimeoutMS ends the session when nothing uses it for so long, and
	// MaxLifetimeMS in any case; 0: the server's default.
	IdleTimeoutMS, MaxLifetimeMS int64
	// Network is what the sandbox may reach; nil: what the server allows.
	Network *NetworkPolicy
	// Secrets are put into its requests to the hosts that they are bound to.
	Secrets []Secret
}

// Validate checks the request.
func (r *SessionRequest) Validate() error {
	if err := validateLimits(r.TimeoutMS, r.MemoryMB, r.CPUs); err != nil {
		return err
	}
	if r.CPUTimeMS != 0 {
		return Invalid("cpu_time_ms", "is set on a run, not on a session.")
	}
	if err := cmp.Or(r.RunLimits.Validate(), r.DiskLimits.Validate()); err != nil {
		return err
	}
	if err := ValidateEnv(r.Env); err != nil {
		return err
	}
	if err := ValidateFileIDs(r.FileIDs); err != nil {
		return err
	}
	if r.IdleTimeoutMS < 0 {
		return Invalid("idle_timeout_ms", "must not be negative.")
	}
	if r.MaxLifetimeMS < 0 {
		return Invalid("max_lifetime_ms", "must not be negative.")
	}
	if r.Network != nil {
		if err := r.Network.Validate(); err != nil {
			return err
		}
	}
	for _, s := range r.Secrets {
		if _, twice := r.Env[s.Name]; twice {
			return Invalid("secrets."+s.Name, "is in env_vars, too; a variable has one value.")
		}
	}
	return cmp.Or(ValidateSecrets(r.Secrets), ValidateMetadata(r.Metadata))
}

// ValidateMetadata checks the bounds of metadata.
func ValidateMetadata(metadata map[string]string) error {
	if len(metadata) > MaxMetadata {
		return Invalid("metadata", "must have at most %d entries, not %d.", MaxMetadata, len(metadata))
	}
	for name, value := range metadata {
		if name == "" || len(name) > MaxMetadataBytes || len(value) > MaxMetadataBytes {
			return Invalid("metadata", "names and values must be at most %d bytes, and names not empty.", MaxMetadataBytes)
		}
	}
	return nil
}

// Bounds of the metadata of a session or an execution.
const (
	MaxMetadata      = 64
	MaxMetadataBytes = 1024
)

// SessionStatus is the state of a session. Only the moves of [SessionStatus.Next]
// are made.
type SessionStatus string

const (
	SessionCreating SessionStatus = "creating"
	SessionLive     SessionStatus = "live"
	SessionDeleting SessionStatus = "deleting"
	SessionDeleted  SessionStatus = "deleted"
	SessionLost     SessionStatus = "lost"    // its sandbox died, or its daemon did
	SessionExpired  SessionStatus = "expired" // it was idle for too long, or too old
)

// sessionMoves are the states that each state can be followed by.
var sessionMoves = map[SessionStatus][]SessionStatus{
	// It is deleted when its sandbox cannot be had, and lost when the server dies
	// meanwhile: nobody was told of it then.
	SessionCreating: {SessionLive, SessionDeleted, SessionLost},
	// A deletion that could not be noted when it began is noted at its end.
	SessionLive:     {SessionDeleting, SessionDeleted, SessionLost, SessionExpired},
	SessionDeleting: {SessionDeleted},
	SessionDeleted:  {},
	SessionLost:     {},
	SessionExpired:  {},
}

// SessionStatuses lists every state.
func SessionStatuses() []SessionStatus {
	return []SessionStatus{SessionCreating, SessionLive, SessionDeleting, SessionDeleted, SessionLost, SessionExpired}
}

// Next lists the states that this one can be followed by.
func (s SessionStatus) Next() []SessionStatus { return slices.Clone(sessionMoves[s]) }

// Previous lists the states that can be followed by this one.
func (s SessionStatus) Previous() []SessionStatus {
	return slices.DeleteFunc(SessionStatuses(), func(from SessionStatus) bool { return !slices.Contains(sessionMoves[from], s) })
}

// Ended tells whether nothing follows this state: the session has no sandbox, and
// gets none any more.
func (s SessionStatus) Ended() bool {
	next, known := sessionMoves[s]
	return known && len(next) == 0
}

// SessionMoveError says that a session was not in a state from which it can get to
// another one.
type SessionMoveError struct {
	ID       string
	From, To SessionStatus // From is empty if there is no such session
}

func (e *SessionMoveError) Error() string {
	if e.From == "" {
		return fmt.Sprintf("session %s: there is none that could become %s", e.ID, e.To)
	}
	return fmt.Sprintf("session %s: it is %s, and cannot become %s", e.ID, e.From, e.To)
}

// Session is a sandbox that a client keeps, with its workspace.
type Session struct {
	ID        string
	Tenant    string
	Status    SessionStatus
	Template  string
	Env       map[string]string
	Metadata  map[string]string
	TimeoutMS int64
	MemoryMB  int64
	CPUs      float64
	RunLimits // of each run
	DiskLimits
	// CollectIgnored keeps the files of tools, too, see OmittedIgnored.
	CollectIgnored bool
	CreatedAt      time.Time
	EndedAt        time.Time // zero while live
	// IdleTimeoutMS and MaxLifetimeMS are how long it may be unused and how old
	// it may become; 0: for ever.
	IdleTimeoutMS, MaxLifetimeMS int64
	// LastUsedAt is when something in it was last done; zero: never.
	LastUsedAt time.Time
	// Busy says that something is being done in it now.
	Busy bool
	// Network is what was asked for, nil for nothing; what a live session shows
	// instead is what is in force.
	Network *NetworkPolicy
	// Secrets are without their values.
	Secrets []Secret
}

// ExpiresAt is when the session ends if nothing uses it until then; zero: never.
// While it is busy, only its age ends it.
func (s Session) ExpiresAt() time.Time {
	var end time.Time
	if s.MaxLifetimeMS > 0 {
		end = s.CreatedAt.Add(time.Duration(s.MaxLifetimeMS) * time.Millisecond)
	}
	if s.IdleTimeoutMS == 0 || s.Busy {
		return end
	}
	used := s.CreatedAt
	if s.LastUsedAt.After(used) {
		used = s.LastUsedAt
	}
	idle := used.Add(time.Duration(s.IdleTimeoutMS) * time.Millisecond)
	if end.IsZero() || idle.Before(end) {
		return idle
	}
	return end
}

// SessionFilter narrows a list of sessions.
type SessionFilter struct {
	Page
	// Metadata must all be among that of the session.
	Metadata map[string]string
}

// SessionPage is one page of sessions.
type SessionPage struct {
	Sessions []Session
	Total    int
	Page
	// NextCursor is the Cursor of the page after this one; empty at the end.
	NextCursor string
}
