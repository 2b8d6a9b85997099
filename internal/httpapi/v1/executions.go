package v1

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/input"
)

type executeRequest struct {
	Code      string                `json:"code" minLength:"1" maxBytes:"body" doc:"The program, run as a script in a fresh process." example:"print(1 + 1)"`
	Language  agentsandbox.Language `json:"language,omitempty" enum:"python,bash" default:"python" doc:"What the code is written in."`
	SessionID *string               `json:"session_id,omitempty" minLength:"1" doc:"The session to run in. Without it the sandbox is made for this run and destroyed after it."`
	EnvVars   map[string]string     `json:"env_vars,omitempty" doc:"Environment variables of this run alone. They are not stored."`
	FileIDs   []string              `json:"file_ids,omitempty" nullable:"false" maxItems:"1000" doc:"Files to copy to /workspace/{filename} before the run."`
	TimeoutMS int64                 `json:"timeout_ms,omitempty" minimum:"0" doc:"Time limit of the run, in milliseconds. 0 or left out: the session's limit, or the server's default."`
	MemoryMB  int64                 `json:"memory_mb,omitempty" minimum:"0" doc:"Memory limit, in MiB, of a run without a session. 0 or left out: the server's default."`
	CPUs      float64               `json:"cpus,omitempty" minimum:"0" doc:"CPU limit, in cores, of a run without a session. 0 or left out: the server's default."`
	CPUTimeMS int64                 `json:"cpu_time_ms,omitempty" minimum:"0" doc:"CPU time of all processes of the run together, in milliseconds. 0 or left out: the server's default."`
	RunLimitFields
	DiskLimitFields
	CollectField
	Network  *networkPolicy    `json:"network,omitempty" doc:"What a run without a session may reach. Left out: what the server allows."`
	Metadata map[string]string `json:"metadata,omitempty" maxProperties:"64" doc:"Kept and shown with the execution; names and values of at most 1024 bytes."`
}

// RunLimitFields are limits that can be set on a session and on a run.
type RunLimitFields struct {
	Processes   int64 `json:"processes,omitempty" minimum:"0" doc:"Processes and threads that the code may have at once; more fail with EAGAIN. 0 or left out: the session's limit, or the server's default."`
	OpenFiles   int64 `json:"open_files,omitempty" minimum:"0" doc:"Open files of each process; more fail with EMFILE. 0 or left out: the session's limit, or the server's default."`
	OutputBytes int64 `json:"output_bytes,omitempty" minimum:"0" doc:"How much is kept of each of stdout and stderr, in bytes; the rest is counted and dropped. 0 or left out: the session's limit, or the server's default."`
}

// DiskLimitFields are limits of the file system of a sandbox.
type DiskLimitFields struct {
	DiskMB int64 `json:"disk_mb,omitempty" minimum:"0" doc:"Room for files, in MiB, a power of two from 64 on; more fail with ENOSPC. Files count against the memory limit too. 0 or left out: the server's default. Not on a run in a session."`
	Inodes int64 `json:"inodes,omitempty" minimum:"0" doc:"Files, directories and links that the sandbox may hold; a run that makes more is ended as disk_full. 0 or left out: the server's default. Not on a run in a session."`
}

// CollectField says which files of runs are kept.
type CollectField struct {
	CollectIgnored *bool `json:"collect_ignored,omitempty" doc:"Keep the files of tools below /workspace, too: version control, virtual environments, package directories, caches. Left out: as the session says, or the server's default."`
}

type omittedFiles struct {
	Reason agentsandbox.OmittedReason `json:"reason" enum:"ignored,file_limit,size_limit,depth_limit,time_limit,unreadable,storage_full" doc:"ignored: a directory of tools, see collect_ignored; file_limit, size_limit, depth_limit, time_limit: a limit of the server; unreadable: gone again, or no regular file any more; storage_full: no room is left."`
	Count  int                        `json:"count" doc:"How many files; a directory that was left out as a whole counts once."`
}

type executionFile struct {
	FileID    string `json:"file_id" doc:"Downloads the contents, also after the sandbox is gone."`
	Filename  string `json:"filename" doc:"The path below /workspace or /output. Bytes that are not UTF-8 are shown as %XX."`
	Path      string `json:"path" doc:"The absolute path in the sandbox. Bytes that are not UTF-8 are shown as %XX."`
	MIMEType  string `json:"mime_type" doc:"The media type, guessed from the name."`
	SizeBytes int64  `json:"size_bytes" doc:"Size in bytes."`
	SHA256    string `json:"sha256" doc:"SHA-256 of the contents, in hex."`
	ExactName
}

// ExactName has the bytes of names that JSON cannot carry.
type ExactName struct {
	FilenameBase64 string `json:"filename_base64,omitempty" doc:"The exact bytes of a filename that is not UTF-8, in base64; left out otherwise."`
	PathBase64     string `json:"path_base64,omitempty" doc:"The exact bytes of a path that is not UTF-8, in base64; left out otherwise."`
}

func exactName(f *agentsandbox.File) ExactName {
	return ExactName{exact(f.Filename), exact(f.Path)}
}

// Outcome is how a run ended, in the answer to execute and in the record. Like
// every type that answers embed, it is exported because the makers of schemas
// pass over embedded types that are not.
type Outcome struct {
	Status      agentsandbox.Status `json:"status" enum:"running,succeeded,failed,timed_out,memory_exceeded,process_limit,disk_full,output_limit,cancelled,sandbox_lost" doc:"The state: running, or the one state in which the run ended. sandbox_lost is safe to try again."`
	Signal      *string             `json:"signal" doc:"The signal that ended the run, such as SIGKILL; null for none." example:"SIGKILL"`
	DurationMS  int64               `json:"duration_ms" doc:"Wall-clock time of the run, in milliseconds."`
	CPUMS       int64               `json:"cpu_ms" doc:"CPU time of the run, in milliseconds: of its main process and those that it waited for."`
	MemoryPeak  int64               `json:"memory_peak_bytes" doc:"The most memory that the sandbox held during the run, its files and its own kernel included, in bytes; 0 where it is not known."`
	SessionLeft *string             `json:"session_status" enum:"live,lost,deleted,expired" doc:"What became of the session that the run was in: live, lost with its sandbox, deleted or expired meanwhile; null for a run without one, and while running."`
	Metadata    map[string]string   `json:"metadata" doc:"As given with the request."`
	Truncated   bool                `json:"truncated" doc:"The code wrote more than was kept."`
	Dropped     bool                `json:"output_dropped" doc:"The record keeps neither the code nor the output, for want of room: it was dropped for newer ones, or never kept. The answer of the run itself has its output all the same."`
	StdoutBytes int64               `json:"stdout_bytes" doc:"How many bytes the code wrote to standard output, kept or not."`
	StderrBytes int64               `json:"stderr_bytes" doc:"How many bytes the code wrote to standard error, kept or not."`
	Files       []executionFile     `json:"files" nullable:"false" doc:"Files that were created or changed below /workspace or /output since a run of the session last reported them: by this run, by what an earlier one left running, or by one that runs beside it. Each change is in the files of one run."`
	// Nil is an empty list: nothing was refused.
	Refused        []agentsandbox.NetworkRefusal `json:"network_refused" nullable:"false" doc:"What the policy of the network, or a limit of it, refused to the sandbox while this ran: at most 20 kinds. Empty for a sandbox without a network."`
	RefusedOmitted int64                         `json:"network_refused_omitted" doc:"How many refusals there were of kinds beyond those that are listed."`
	FilesOmitted   int                           `json:"files_omitted" doc:"How many files were not kept; a directory that was left out as a whole counts once."`

	FilesOmittedReasons []omittedFiles `json:"files_omitted_reasons" nullable:"false" doc:"Why files were not kept, sorted by reason; empty where none was left out, and for records of earlier versions."`
}

type executeAnswer struct {
	ExecutionID string      `json:"execution_id" doc:"Names the record of this run."`
	SessionID   string      `json:"session_id" doc:"The session of the run; that of a run without one is gone by now."`
	Stdout      edge.Output `json:"stdout,omitzero" required:"true" doc:"Standard output. Invalid UTF-8 is shown as U+FFFD; /v1/executions/{execution_id}/stdout has the exact bytes."`
	Stderr      edge.Output `json:"stderr,omitzero" required:"true" doc:"Standard error. Invalid UTF-8 is shown as U+FFFD; /v1/executions/{execution_id}/stderr has the exact bytes."`
	ReturnCode  int         `json:"return_code" doc:"The exit code; 128 + n after signal n, 124 after the time limit."`
	Error       string      `json:"error,omitempty" doc:"Why the service could not finish the run; left out when it could."`
	Outcome
}

func (a executeAnswer) SetHeaders(h http.Header) { h.Set("X-Execution-Id", a.ExecutionID) }
func (a executeAnswer) ObjectID() string         { return a.ExecutionID }

// ExecutionSummary is a record without what may be large.
type ExecutionSummary struct {
	ID          string                `json:"id" doc:"The execution's id."`
	Endpoint    string                `json:"endpoint" doc:"The route that started the run."`
	Method      string                `json:"method" doc:"The HTTP method that started the run."`
	StatusCode  *int                  `json:"status_code" doc:"The HTTP status of the answer; null while running."`
	SessionID   string                `json:"session_id" doc:"The session of the run."`
	Ephemeral   bool                  `json:"ephemeral" doc:"The session was made for this run alone."`
	Language    agentsandbox.Language `json:"language" doc:"What the code is written in."`
	ReturnCode  *int                  `json:"return_code" doc:"The exit code; null while running."`
	FilesCount  int                   `json:"files_count" doc:"How many files of the run still exist."`
	Error       *string               `json:"error" doc:"Why the service could not finish the run; null when it could."`
	RequestMeta map[string]string     `json:"request_meta" doc:"What is known of the request: request_id and user_agent."`
	CreatedAt   time.Time             `json:"created_at" doc:"When the run was asked for (RFC 3339, UTC)."`
	EndedAt     *time.Time            `json:"ended_at" doc:"When the run ended (RFC 3339, UTC); null while running."`
	Outcome
}

type executionRecord struct {
	ExecutionSummary
	Code   edge.Output `json:"code,omitzero" required:"true" doc:"The code that was run."`
	Stdout edge.Output `json:"stdout,omitzero" required:"true" doc:"Standard output, invalid UTF-8 shown as U+FFFD."`
	Stderr edge.Output `json:"stderr,omitzero" required:"true" doc:"Standard error, invalid UTF-8 shown as U+FFFD."`
}

type executionList struct {
	Executions []ExecutionSummary `json:"executions" nullable:"false" doc:"One page of records, newest first, without code and output."`
	PageInfo
}

type executionInput struct {
	ID string `path:"execution_id" doc:"The execution's id."`
}

func (a *api) executionRoutes() []edge.Route {
	return []edge.Route{
		a.executeRoute(),
		a.listExecutionsRoute(),
		a.getExecutionRoute(),
		a.outputRoute(agentsandbox.Stdout, "getExecutionStdout"),
		a.outputRoute(agentsandbox.Stderr, "getExecutionStderr"),
	}
}

func (a *api) executeRoute() edge.Route {
	type executeInput struct{ Body executeRequest }
	return edge.Answer(edge.Route{
		Method: "POST", Path: "/v1/execute", ID: "execute", Tag: "executions", Scope: agentsandbox.ScopeSandbox,
		Summary: "Run code",
		Description: "Runs Python or Bash and answers when it has ended. What the code did, its crash or time-out included, " +
			"is a 200; other statuses speak of requests that were refused and of failures of the service.",
		Codes: []agentsandbox.Code{agentsandbox.CodeSessionNotFound, agentsandbox.CodeFileNotFound, agentsandbox.CodeConflict,
			agentsandbox.CodeTooLarge, agentsandbox.CodeStorageFull},
		Headers: map[string]string{"X-Execution-Id": "The execution's id, as in the body."},
		Resume:  a.resumeExecution,
	}, func(c *edge.Call, in *executeInput) (*executeAnswer, error) { return a.execute(c, &in.Body) })
}

func (a *api) listExecutionsRoute() edge.Route {
	type listInput struct {
		pageInput
		SessionID string `query:"session_id" doc:"Show only runs in this session."`
		Status    string `query:"status" enum:"running,succeeded,failed,timed_out,memory_exceeded,process_limit,disk_full,output_limit,cancelled,sandbox_lost" doc:"Show only runs in this state."`
		metadataInput
	}
	return edge.Answer(edge.Route{
		Method: "GET", Path: "/v1/executions", ID: "listExecutions", Tag: "executions", Scope: agentsandbox.ScopeRead,
		Summary: "List runs", Description: "Lists the records of runs, newest first. A page ends early where its records have very many files: go on with next_cursor.",
	}, func(c *edge.Call, in *listInput) (*executionList, error) {
		return a.listExecutions(c, in.pageInput, in.SessionID, agentsandbox.Status(in.Status), in.Metadata)
	})
}

func (a *api) getExecutionRoute() edge.Route {
	return edge.Answer(edge.Route{
		Method: "GET", Path: "/v1/executions/{execution_id}", ID: "getExecution", Tag: "executions", Scope: agentsandbox.ScopeRead,
		Summary: "Show a run", Description: "Shows the record of one run, failed and timed-out ones included.",
		Codes: []agentsandbox.Code{agentsandbox.CodeExecutionNotFound},
	}, func(c *edge.Call, in *executionInput) (*executionRecord, error) {
		e, err := a.record(c, in.ID)
		if err != nil {
			return nil, err
		}
		return &executionRecord{ExecutionSummary: summaryOf(e), Code: edge.Output(e.Code), Stdout: e.Stdout, Stderr: e.Stderr}, nil
	})
}

// outputRoute is the download of the standard output or error of a run.
func (a *api) outputRoute(stream agentsandbox.Stream, id string) edge.Route {
	name := string(stream)
	return edge.Stream(edge.Route{
		Method: "GET", Path: "/v1/executions/{execution_id}/" + name, ID: id,
		Tag: "executions", Scope: agentsandbox.ScopeRead,
		Summary:     "Download the " + name + " of a run",
		Description: "The exact bytes that were kept, invalid UTF-8 included.",
		Codes:       []agentsandbox.Code{agentsandbox.CodeExecutionNotFound, agentsandbox.CodeConflict},
		Download:    &edge.Content{MediaType: "application/octet-stream", Description: "The bytes.", Ranges: true},
	}, func(c *edge.Call, in *executionInput) error {
		output, size, err := a.openOutput(c, in.ID, stream)
		if err != nil {
			return err
		}
		return c.Download(edge.Download{Name: in.ID + "." + name, Size: size, Body: output, Seek: output})
	})
}

func (a *api) execute(c *edge.Call, in *executeRequest) (*executeAnswer, error) {
	session := ""
	if in.SessionID != nil {
		// An empty id is one that the client lacks, and not a wish for no session.
		if session = *in.SessionID; session == "" {
			return nil, agentsandbox.Invalid("session_id", "must not be empty. Leave it out to run without a session.")
		}
	}
	req := agentsandbox.ExecuteRequest{
		Code: in.Code, Language: in.Language, SessionID: session, Env: in.EnvVars, FileIDs: in.FileIDs,
		TimeoutMS: in.TimeoutMS, MemoryMB: in.MemoryMB, CPUs: in.CPUs,
		RunLimits: in.RunLimitFields.limits(), DiskLimits: in.DiskLimitFields.limits(), Metadata: in.Metadata, Network: in.Network.policy(),
		CollectIgnored: in.CollectIgnored,
		Endpoint:       c.Route(), Method: c.Request().Method, Meta: metaOf(c),
	}
	req.CPUTimeMS = in.CPUTimeMS
	if err := req.Validate(a.codeBytes); err != nil {
		return nil, err
	}
	done, err := c.BeginExecution()
	if err != nil {
		return nil, err
	}
	defer done()
	waited := 0
	ctx := agentsandbox.WithOutputRoom(c.Context(), func(ctx context.Context, bytes int) error {
		waited = bytes
		return c.AwaitRoom(ctx, bytes)
	})
	e, err := a.service.Execute(ctx, req)
	if err != nil {
		return nil, err
	}
	c.OccupyMade(len(e.Stdout) + len(e.Stderr) - waited)
	return executeAnswerOf(e), nil
}

func executeAnswerOf(e *agentsandbox.Execution) *executeAnswer {
	return &executeAnswer{
		ExecutionID: e.ID, SessionID: e.SessionID, Stdout: e.Stdout, Stderr: e.Stderr,
		ReturnCode: e.ReturnCode, Error: e.Error, Outcome: outcomeOf(e),
	}
}

// pollEvery is how often a run of an earlier process is looked at.
const pollEvery = 100 * time.Millisecond

// resumeExecution is the answer to a request whose run another process began: its
// outcome, once it has one.
func (a *api) resumeExecution(c *edge.Call, id, _ string) (any, error) {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		e, err := a.outcome(c, id)
		if err != nil {
			return nil, err
		}
		if e.Status.Terminal() {
			return executeAnswerOf(e), nil
		}
		select {
		case <-c.Context().Done():
			return nil, agentsandbox.Errorf(agentsandbox.CodeConflict, "The run %s of the earlier request with this Idempotency-Key still goes on. Ask again for its answer.", id)
		case <-ticker.C:
		}
	}
}

// outcome reads a record that may not have its outcome yet. What it holds is counted
// once it has: until then it is read over and over.
func (a *api) outcome(c *edge.Call, id string) (*agentsandbox.Execution, error) {
	return a.read(c, id, func(e *agentsandbox.Execution) bool { return e.Status.Terminal() })
}

func omittedFilesOf(reasons map[agentsandbox.OmittedReason]int) []omittedFiles {
	list := make([]omittedFiles, 0, len(reasons))
	for _, why := range slices.Sorted(maps.Keys(reasons)) {
		list = append(list, omittedFiles{why, reasons[why]})
	}
	return list
}

// orEmpty is a map that is shown as an object in any case.
func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// maxMetaBytes bounds what a record keeps of a client's header.
const maxMetaBytes = 256

// metaOf is what the record of a run keeps of its request.
func metaOf(c *edge.Call) map[string]string {
	m := map[string]string{"request_id": c.RequestID()}
	if agent := edge.Text([]byte(c.Request().UserAgent())); agent != "" {
		m["user_agent"] = strings.ToValidUTF8(agent[:min(len(agent), maxMetaBytes)], "")
	}
	return m
}

func (a *api) listExecutions(c *edge.Call, in pageInput, session string, status agentsandbox.Status, metadata map[string]string) (*executionList, error) {
	page, err := in.page()
	if err != nil {
		return nil, err
	}
	if status != "" && !knownStatus(status) {
		return nil, agentsandbox.Invalid("status", "must be a state of an execution, such as succeeded, not %q.", input.Clip(string(status)))
	}
	got, err := a.records(c, agentsandbox.ExecutionFilter{Page: page, SessionID: session, Status: status, Metadata: metadata})
	if err != nil {
		return nil, err
	}
	out := &executionList{Executions: make([]ExecutionSummary, len(got.Executions)), PageInfo: PageInfo{got.Total, page.Limit, page.Offset, got.NextCursor}}
	for i := range got.Executions {
		out.Executions[i] = summaryOf(&got.Executions[i])
	}
	return out, nil
}

func knownStatus(s agentsandbox.Status) bool {
	switch s {
	case agentsandbox.StatusRunning, agentsandbox.StatusSucceeded, agentsandbox.StatusFailed, agentsandbox.StatusTimedOut,
		agentsandbox.StatusMemoryExceeded, agentsandbox.StatusProcessLimit, agentsandbox.StatusDiskFull,
		agentsandbox.StatusOutputLimit, agentsandbox.StatusCancelled, agentsandbox.StatusSandboxLost:
		return true
	}
	return false
}

func (f RunLimitFields) limits() agentsandbox.RunLimits {
	return agentsandbox.RunLimits{Processes: f.Processes, OpenFiles: f.OpenFiles, OutputBytes: f.OutputBytes}
}

func (f DiskLimitFields) limits() agentsandbox.DiskLimits {
	return agentsandbox.DiskLimits{DiskMB: f.DiskMB, Inodes: f.Inodes}
}

func outcomeOf(e *agentsandbox.Execution) Outcome {
	files := make([]executionFile, len(e.Files))
	for i, f := range e.Files {
		files[i] = executionFile{f.ID, agentsandbox.ShownName(f.Filename), agentsandbox.ShownName(f.Path), f.MediaType, f.SizeBytes, f.SHA256, exactName(&f)}
	}
	refused := e.NetworkRefused
	if refused == nil {
		refused = []agentsandbox.NetworkRefusal{}
	}
	return Outcome{
		Refused: refused, RefusedOmitted: e.NetworkRefusedOmitted,
		MemoryPeak: e.MemoryPeakBytes, SessionLeft: orNull(string(e.SessionStatus)), Metadata: orEmpty(e.Metadata),
		Status: e.Status, Signal: orNull(e.Signal), DurationMS: e.DurationMS, CPUMS: e.CPUMS, Truncated: e.Truncated, Dropped: e.OutputDropped,
		StdoutBytes: e.StdoutBytes, StderrBytes: e.StderrBytes, Files: files, FilesOmitted: e.FilesOmitted, FilesOmittedReasons: omittedFilesOf(e.OmittedReasons),
	}
}

func summaryOf(e *agentsandbox.Execution) ExecutionSummary {
	s := ExecutionSummary{
		ID: e.ID, Endpoint: e.Endpoint, Method: e.Method, SessionID: e.SessionID, Ephemeral: e.Ephemeral,
		Language: e.Language, FilesCount: len(e.Files), Error: orNull(e.Error), RequestMeta: e.Meta,
		CreatedAt: wireTime(e.CreatedAt), EndedAt: timeOrNull(e.EndedAt), Outcome: outcomeOf(e),
	}
	if s.RequestMeta == nil {
		s.RequestMeta = map[string]string{}
	}
	if e.Status.Terminal() {
		s.ReturnCode = &e.ReturnCode
		if e.HTTPStatus != 0 {
			s.StatusCode = &e.HTTPStatus
		}
	}
	return s
}
