package agentsandbox

import (
	"cmp"
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
	// Metadata is kept and shown with the session.
	Metadata map[string]string
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
	return ValidateMetadata(r.Metadata)
}

// Bounds of the metadata of a session or an execution.
const (
	MaxMetadata      = 64
	MaxMetadataBytes = 1024
)

// SessionStatus is the state of a session.
type SessionStatus string

const (
	SessionCreating SessionStatus = "creating"
	SessionLive     SessionStatus = "live"
	SessionDeleting SessionStatus = "deleting"
	SessionDeleted  SessionStatus = "deleted"
	SessionLost     SessionStatus = "lost" // its sandbox died, or its daemon did
)

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
	CreatedAt time.Time
	EndedAt   time.Time // zero while live
}

// SessionPage is one page of sessions.
type SessionPage struct {
	Sessions []Session
	Total    int
	Page
}
