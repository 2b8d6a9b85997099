package cli

import (
	"fmt"
	"maps"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/agentsandbox/agentsandbox"
)

// The views are what --json prints: the fields, and their names, of the API, so
// that a script reads both in the same way.

type executionView struct {
	ID           string                `json:"execution_id"`
	SessionID    string                `json:"session_id"`
	Status       agentsandbox.Status   `json:"status"`
	ReturnCode   int                   `json:"return_code"`
	Signal       string                `json:"signal,omitempty"`
	Language     agentsandbox.Language `json:"language"`
	Code         string                `json:"code,omitempty"`
	Stdout       *string               `json:"stdout,omitempty"`
	Stderr       *string               `json:"stderr,omitempty"`
	StdoutBytes  int64                 `json:"stdout_bytes"`
	StderrBytes  int64                 `json:"stderr_bytes"`
	Truncated    bool                  `json:"truncated"`
	Dropped      bool                  `json:"output_dropped"`
	DurationMS   int64                 `json:"duration_ms"`
	CPUMS        int64                 `json:"cpu_ms"`
	MemoryPeak   int64                 `json:"memory_peak_bytes"`
	SessionLeft  string                `json:"session_status,omitempty"`
	Metadata     map[string]string     `json:"metadata,omitempty"`
	Files        []fileView            `json:"files"`
	FilesOmitted int                   `json:"files_omitted"`
	Omitted      []omittedView         `json:"files_omitted_reasons,omitempty"`

	NetworkRefused        []agentsandbox.NetworkRefusal `json:"network_refused"`
	NetworkRefusedOmitted int64                         `json:"network_refused_omitted"`
	Error                 string                        `json:"error,omitempty"`
	CreatedAt             *time.Time                    `json:"created_at,omitempty"`
	EndedAt               *time.Time                    `json:"ended_at,omitempty"`
}

// viewOfExecution shows an execution; withOutput: its output too, as text, where
// bytes that are not UTF-8 become U+FFFD.
func viewOfExecution(e agentsandbox.Execution, withOutput bool) executionView {
	v := executionView{
		ID:           e.ID,
		SessionID:    e.SessionID,
		Status:       e.Status,
		ReturnCode:   e.ReturnCode,
		Signal:       e.Signal,
		Language:     e.Language,
		Code:         e.Code,
		StdoutBytes:  e.StdoutBytes,
		StderrBytes:  e.StderrBytes,
		Truncated:    e.Truncated,
		Dropped:      e.OutputDropped,
		DurationMS:   e.DurationMS,
		CPUMS:        e.CPUMS,
		MemoryPeak:   e.MemoryPeakBytes,
		SessionLeft:  string(e.SessionStatus),
		Metadata:     e.Metadata,
		Files:        []fileView{},
		FilesOmitted: e.FilesOmitted,

		NetworkRefused: append([]agentsandbox.NetworkRefusal{}, e.NetworkRefused...), NetworkRefusedOmitted: e.NetworkRefusedOmitted,
		Error:     e.Error,
		CreatedAt: timeOrNil(e.CreatedAt),
		EndedAt:   timeOrNil(e.EndedAt),
	}
	if withOutput {
		stdout, stderr := string(e.Stdout), string(e.Stderr)
		v.Stdout, v.Stderr = &stdout, &stderr
	}
	for _, why := range slices.Sorted(maps.Keys(e.OmittedReasons)) {
		v.Omitted = append(v.Omitted, omittedView{why, e.OmittedReasons[why]})
	}
	for _, f := range e.Files {
		v.Files = append(v.Files, viewOfFile(f))
	}
	return v
}

type omittedView struct {
	Reason agentsandbox.OmittedReason `json:"reason"`
	Count  int                        `json:"count"`
}

type fileView struct {
	ID       string `json:"file_id"`
	Filename string `json:"filename"`
	Path     string `json:"path,omitempty"`
	// The exact bytes of names that JSON cannot carry.
	ExactName   []byte     `json:"filename_base64,omitempty"`
	ExactPath   []byte     `json:"path_base64,omitempty"`
	MediaType   string     `json:"mime_type"`
	SizeBytes   int64      `json:"size_bytes"`
	SessionID   string     `json:"session_id,omitempty"`
	ExecutionID string     `json:"execution_id,omitempty"`
	CreatedAt   *time.Time `json:"created_at,omitempty"`
}

func viewOfFile(f agentsandbox.File) fileView {
	v := fileView{
		ID:          f.ID,
		Filename:    agentsandbox.ShownName(f.Filename),
		Path:        agentsandbox.ShownName(f.Path),
		MediaType:   f.MediaType,
		SizeBytes:   f.SizeBytes,
		SessionID:   f.SessionID,
		ExecutionID: f.ExecutionID,
		CreatedAt:   timeOrNil(f.CreatedAt),
	}
	if v.Filename != f.Filename {
		v.ExactName = []byte(f.Filename)
	}
	if v.Path != f.Path {
		v.ExactPath = []byte(f.Path)
	}
	return v
}

type sessionView struct {
	ID        string                     `json:"session_id"`
	Status    agentsandbox.SessionStatus `json:"status"`
	Template  string                     `json:"template"`
	TimeoutMS int64                      `json:"timeout_ms"`
	MemoryMB  int64                      `json:"memory_mb"`
	CPUs      float64                    `json:"cpus"`
	Processes int64                      `json:"processes"`
	OpenFiles int64                      `json:"open_files"`
	Output    int64                      `json:"output_bytes"`
	DiskMB    int64                      `json:"disk_mb"`
	Inodes    int64                      `json:"inodes"`
	Metadata  map[string]string          `json:"metadata,omitempty"`
	CreatedAt *time.Time                 `json:"created_at,omitempty"`

	IdleTimeoutMS int64      `json:"idle_timeout_ms"`
	MaxLifetimeMS int64      `json:"max_lifetime_ms"`
	LastUsedAt    *time.Time `json:"last_used_at,omitempty"`
	ExpiresAt     *time.Time `json:"expires_at,omitempty"`

	CollectIgnored bool `json:"collect_ignored"`

	Network *policyView `json:"network,omitempty"`
}

func viewOfSession(s agentsandbox.Session) sessionView {
	return sessionView{
		Network:   viewOfPolicy(s.Network),
		ID:        s.ID,
		Status:    s.Status,
		Template:  s.Template,
		TimeoutMS: s.TimeoutMS,
		MemoryMB:  s.MemoryMB,
		CPUs:      s.CPUs,
		Processes: s.Processes,
		OpenFiles: s.OpenFiles,
		Output:    s.OutputBytes,
		DiskMB:    s.DiskMB,
		Inodes:    s.Inodes,
		Metadata:  s.Metadata,
		CreatedAt: timeOrNil(s.CreatedAt),

		CollectIgnored: s.CollectIgnored,

		IdleTimeoutMS: s.IdleTimeoutMS,
		MaxLifetimeMS: s.MaxLifetimeMS,
		LastUsedAt:    timeOrNil(s.LastUsedAt),
		ExpiresAt:     timeOrNil(s.ExpiresAt()),
	}
}

type pathView struct {
	Path       string                `json:"path"`
	PathBytes  []byte                `json:"path_base64,omitempty"` // where JSON cannot carry the path
	Kind       agentsandbox.PathKind `json:"kind"`
	SizeBytes  int64                 `json:"size_bytes"`
	Mode       string                `json:"mode"` // octal
	ModifiedAt *time.Time            `json:"modified_at,omitempty"`
	Target     string                `json:"target,omitempty"`
}

func viewOfPath(p agentsandbox.PathInfo) pathView {
	v := pathView{
		Path:       p.Path,
		Kind:       p.Kind,
		SizeBytes:  p.SizeBytes,
		Mode:       fmt.Sprintf("%04o", p.Mode),
		ModifiedAt: timeOrNil(p.ModifiedAt),
		Target:     p.Target,
	}
	if !utf8.ValidString(p.Path) {
		v.PathBytes = []byte(p.Path)
	}
	return v
}

type keyView struct {
	ID         string               `json:"id"`
	Name       string               `json:"name"`
	Tenant     string               `json:"tenant"`
	Hint       string               `json:"hint"`
	Scopes     []agentsandbox.Scope `json:"scopes"`
	Value      string               `json:"key_value,omitempty"`
	CreatedAt  *time.Time           `json:"created_at,omitempty"`
	ExpiresAt  *time.Time           `json:"expires_at,omitempty"`
	LastUsedAt *time.Time           `json:"last_used_at,omitempty"`
	RevokedAt  *time.Time           `json:"revoked_at,omitempty"`
}

func viewOfKey(k agentsandbox.Key) keyView {
	return keyView{
		ID:         k.ID,
		Name:       k.Name,
		Tenant:     k.Tenant,
		Hint:       k.Hint,
		Scopes:     k.Scopes,
		CreatedAt:  timeOrNil(k.CreatedAt),
		ExpiresAt:  timeOrNil(k.ExpiresAt),
		LastUsedAt: timeOrNil(k.LastUsedAt),
		RevokedAt:  timeOrNil(k.RevokedAt),
	}
}
