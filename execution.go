package agentsandbox

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Language is what the code is written in.
type Language string

const (
	Python Language = "python"
	Bash   Language = "bash"
)

// Languages lists every language that can be run.
var Languages = []Language{Python, Bash}

// Status is the state of an execution: running, or one of the terminal states.
type Status string

const (
	StatusRunning        Status = "running"
	StatusSucceeded      Status = "succeeded"       // exit code 0
	StatusFailed         Status = "failed"          // another exit code, or a signal
	StatusTimedOut       Status = "timed_out"       // return code 124
	StatusMemoryExceeded Status = "memory_exceeded" // return code 137
	StatusProcessLimit   Status = "process_limit"
	StatusDiskFull       Status = "disk_full"
	StatusOutputLimit    Status = "output_limit"
	StatusCancelled      Status = "cancelled"    // the caller went away or the session was deleted
	StatusSandboxLost    Status = "sandbox_lost" // the sandbox died; safe to retry
)

// Terminal tells whether an execution in this state has ended.
func (s Status) Terminal() bool { return s != StatusRunning }

// ReturnCodeTimedOut is the return code of a run that its time limit ended, as
// timeout(1) of coreutils has it.
const ReturnCodeTimedOut = 124

// ExecuteRequest asks for one run of code.
type ExecuteRequest struct {
	Code     string
	Language Language // Python when empty
	// SessionID runs the code in a session; empty: in a fresh sandbox, which is
	// destroyed afterwards.
	SessionID string
	// Env is added to the environment of this run alone.
	Env map[string]string
	// FileIDs are copied to Workspace/{Filename} before the run.
	FileIDs []string
	// TimeoutMS ends the run; 0: the session's limit, or the server's default.
	TimeoutMS int64
	// MemoryMB and CPUs are limits of a run without a session; 0: the default.
	MemoryMB int64
	CPUs     float64
	RunLimits
	// DiskLimits are of a run without a session.
	DiskLimits
	// CollectIgnored keeps the files of tools, too, see OmittedIgnored; nil: as the
	// session says, or the server.
	CollectIgnored *bool
	// Metadata is kept and shown with the execution.
	Metadata map[string]string
	// Network is what a run without a session may reach; nil: what the server
	// allows.
	Network *NetworkPolicy

	// What the record shows of the request; set by the HTTP layer.
	Endpoint, Method string
	Meta             map[string]string
}

// Execution is one run of code, with its record.
type Execution struct {
	ID        string
	Tenant    string
	SessionID string
	// Ephemeral says that the session was made for this run alone.
	Ephemeral bool
	Language  Language
	Code      string
	Status    Status
	// ReturnCode is the exit code; 128 + n after signal n; 124 after a time-out.
	ReturnCode int
	// Signal is the signal that ended the run, such as "SIGKILL"; empty for none.
	Signal string
	// Stdout and Stderr are exact bytes, cut at the output limit.
	Stdout, Stderr []byte
	// StdoutBytes and StderrBytes count what the code wrote, kept or not.
	StdoutBytes, StderrBytes int64
	// Truncated says that the code wrote more than was kept.
	Truncated bool
	// OutputDropped says that the record keeps neither the code nor the output, for
	// want of room: they were dropped to make room for newer ones, or had none from
	// the start. The answer of the run itself has its output all the same.
	OutputDropped bool
	Files         []File
	// FilesOmitted counts the files that were not kept; a directory that was left
	// out as a whole counts once. OmittedReasons counts them by reason.
	FilesOmitted   int
	OmittedReasons map[OmittedReason]int
	DurationMS     int64
	CPUMS          int64
	// MemoryPeakBytes is the most memory that the sandbox held during the run,
	// its files and its own kernel included; 0: it is not known.
	MemoryPeakBytes int64
	// NetworkRefused is what the policy of the network, or a limit of it, refused to
	// the sandbox while this ran, and NetworkRefusedOmitted how many refusals there
	// were of kinds beyond those. It is not known of the time before a server was
	// started again under the run.
	NetworkRefused        []NetworkRefusal
	NetworkRefusedOmitted int64
	// SessionStatus is what became of the session of the run, live or lost;
	// empty while running, and without a session.
	SessionStatus SessionStatus
	// Metadata is as it was given.
	Metadata map[string]string
	// Error says why the service could not finish the run; empty otherwise.
	Error string

	Endpoint, Method string
	HTTPStatus       int
	Meta             map[string]string
	CreatedAt        time.Time
	EndedAt          time.Time // zero while running
}

// Stream names one of the two streams of output.
type Stream string

const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
)

// OutputNotKept is the error for reading the bytes of a run whose output was dropped.
func OutputNotKept(id string) error {
	return Errorf(CodeConflict, "The output of the run %s is not kept any more, for want of room (output_dropped). Its record has all else.", id)
}

// OmittedReason is why a file that a run made or changed was not kept.
type OmittedReason string

const (
	OmittedIgnored     OmittedReason = "ignored"      // a directory of tools: version control, caches, environments
	OmittedFileLimit   OmittedReason = "file_limit"   // more files than the server keeps of a run
	OmittedSizeLimit   OmittedReason = "size_limit"   // more bytes than that
	OmittedDepthLimit  OmittedReason = "depth_limit"  // deeper below the workspace than it looks
	OmittedTimeLimit   OmittedReason = "time_limit"   // there was no time left to look or to fetch
	OmittedUnreadable  OmittedReason = "unreadable"   // gone again, no regular file any more, or not to be read
	OmittedStorageFull OmittedReason = "storage_full" // the tenant or the server has no room
)

// OmittedReasons lists every reason.
var OmittedReasons = []OmittedReason{
	OmittedIgnored, OmittedFileLimit, OmittedSizeLimit, OmittedDepthLimit, OmittedTimeLimit, OmittedUnreadable, OmittedStorageFull,
}

// Omit counts n files that were not kept.
func (e *Execution) Omit(why OmittedReason, n int) {
	if n <= 0 {
		return
	}
	if e.OmittedReasons == nil {
		e.OmittedReasons = map[OmittedReason]int{}
	}
	e.OmittedReasons[why] += n
	e.FilesOmitted += n
}

var omittedTexts = map[OmittedReason]string{
	OmittedFileLimit:   "beyond the number that the server keeps of a run",
	OmittedSizeLimit:   "beyond the size that the server keeps of a run",
	OmittedDepthLimit:  "too deep",
	OmittedTimeLimit:   "for lack of time",
	OmittedUnreadable:  "gone again or unreadable",
	OmittedStorageFull: "for lack of room in the storage",
}

// LostText says for people which files were not kept that they may miss, and why;
// empty: none. Files of tools are not missed.
func (e *Execution) LostText() string {
	lost := e.FilesOmitted - e.OmittedReasons[OmittedIgnored]
	if lost <= 0 {
		return ""
	}
	text := "1 file that the run made or changed was not kept"
	if lost > 1 {
		text = fmt.Sprintf("%d files that the run made or changed were not kept", lost)
	}
	var why []string
	for _, reason := range OmittedReasons {
		if n := e.OmittedReasons[reason]; n > 0 && reason != OmittedIgnored {
			why = append(why, fmt.Sprintf("%d %s", n, omittedTexts[reason]))
		}
	}
	if len(why) == 0 {
		return text
	}
	return text + " (" + strings.Join(why, ", ") + ")"
}

// ExecutionFilter narrows a list of executions.
type ExecutionFilter struct {
	Page
	SessionID string
	Status    Status
	// Metadata must all be among that of the execution.
	Metadata map[string]string
}

// ExecutionPage is one page of records. Lists leave Code, Stdout and Stderr out.
type ExecutionPage struct {
	Executions []Execution
	Total      int
	Page
	// NextCursor is the Cursor of the page after this one; empty at the end.
	NextCursor string
}

// Page asks for part of a list. Limit is 1 to 100. Offset counts from the newest
// item; items that come or go between two pages shift it. A cursor stays at its
// place: every item that exists all the while is listed exactly once.
type Page struct {
	Limit, Offset int
	// Cursor is the NextCursor of the page before, for the same list and filter.
	// The offset must be 0 then; the limit may differ.
	Cursor string
}

// DefaultPageLimit is how many items a list shows when it is not said.
const DefaultPageLimit = 50

// MaxPageLimit is how many items one page can hold.
const MaxPageLimit = 100

// Validate checks the bounds of a page.
func (p Page) Validate() error {
	if p.Limit < 1 || p.Limit > MaxPageLimit {
		return Invalid("limit", "must be from 1 to %d, not %d.", MaxPageLimit, p.Limit)
	}
	if p.Offset < 0 {
		return Invalid("offset", "must be 0 or more, not %d.", p.Offset)
	}
	if p.Cursor != "" && p.Offset != 0 {
		return Invalid("cursor", "cannot be given with an offset: the cursor says where the page begins.")
	}
	return nil
}

// Validate checks the request and fills in the default language.
// maxCodeBytes bounds the code; 0 means no bound.
func (r *ExecuteRequest) Validate(maxCodeBytes int64) error {
	if r.Language == "" {
		r.Language = Python
	}
	if !slices.Contains(Languages, r.Language) {
		return Invalid("language", "must be python or bash, not %q.", r.Language)
	}
	if strings.TrimSpace(r.Code) == "" {
		return Invalid("code", "must not be empty.")
	}
	if strings.ContainsRune(r.Code, 0) {
		return Invalid("code", "must not contain a NUL character.")
	}
	if maxCodeBytes > 0 && int64(len(r.Code)) > maxCodeBytes {
		return &Error{
			Code:    CodeTooLarge,
			Message: "code is larger than this server accepts; upload it as a file and run that.",
			Details: []Detail{{Field: "code", Message: sizeMessage(int64(len(r.Code)), maxCodeBytes)}},
		}
	}
	if err := validateLimits(r.TimeoutMS, r.MemoryMB, r.CPUs); err != nil {
		return err
	}
	if err := cmp.Or(r.RunLimits.Validate(), r.DiskLimits.Validate(), ValidateMetadata(r.Metadata)); err != nil {
		return err
	}
	if r.Network != nil {
		if err := r.Network.Validate(); err != nil {
			return err
		}
	}
	if err := ValidateEnv(r.Env); err != nil {
		return err
	}
	return ValidateFileIDs(r.FileIDs)
}

func validateLimits(timeoutMS, memoryMB int64, cpus float64) error {
	switch {
	case timeoutMS < 0:
		return Invalid("timeout_ms", "must not be negative.")
	case memoryMB < 0:
		return Invalid("memory_mb", "must not be negative.")
	case cpus < 0:
		return Invalid("cpus", "must not be negative.")
	}
	return nil
}

// MaxEnvVars and MaxEnvBytes bound the environment variables of one request.
const (
	MaxEnvVars  = 1000
	MaxEnvBytes = 256 << 10
)

// ValidateEnv checks names and values of environment variables: a name is not
// empty and has no "=" and no NUL, a value has no NUL.
func ValidateEnv(env map[string]string) error {
	if len(env) > MaxEnvVars {
		return Invalid("env_vars", "must have at most %d variables, not %d.", MaxEnvVars, len(env))
	}
	total := 0
	for _, name := range slices.Sorted(maps.Keys(env)) {
		value := env[name]
		total += len(name) + len(value) + 2
		switch {
		case name == "":
			return Invalid("env_vars", "a name must not be empty.")
		case strings.ContainsAny(name, "=\x00"):
			return Invalid("env_vars", "the name %q must not contain \"=\" or NUL.", name)
		case strings.ContainsRune(value, 0):
			return Invalid("env_vars."+name, "the value must not contain NUL.")
		}
	}
	if total > MaxEnvBytes {
		return Invalid("env_vars", "must be at most %d bytes in all, not %d.", MaxEnvBytes, total)
	}
	return nil
}
