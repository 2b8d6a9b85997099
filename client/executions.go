package client

import (
	"context"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/agentsandbox/agentsandbox"
)

// executeBody is the body of POST /v1/execute.
type executeBody struct {
	Code      string                `json:"code"`
	Language  agentsandbox.Language `json:"language,omitempty"`
	SessionID string                `json:"session_id,omitempty"`
	Env       map[string]string     `json:"env_vars,omitempty"`
	FileIDs   []string              `json:"file_ids,omitempty"`
	TimeoutMS int64                 `json:"timeout_ms,omitempty"`
	MemoryMB  int64                 `json:"memory_mb,omitempty"`
	CPUs      float64               `json:"cpus,omitempty"`
	CPUTimeMS int64                 `json:"cpu_time_ms,omitempty"`
	limitsBody
	CollectIgnored *bool `json:"collect_ignored,omitempty"`

	Metadata map[string]string `json:"metadata,omitempty"`
	Network  *policyBody       `json:"network,omitempty"`
}

// limitsBody is what bounds a run and the file system of a sandbox.
type limitsBody struct {
	Processes   int64 `json:"processes,omitempty"`
	OpenFiles   int64 `json:"open_files,omitempty"`
	OutputBytes int64 `json:"output_bytes,omitempty"`
	DiskMB      int64 `json:"disk_mb,omitempty"`
	Inodes      int64 `json:"inodes,omitempty"`
}

func limitsOf(run agentsandbox.RunLimits, disk agentsandbox.DiskLimits) limitsBody {
	return limitsBody{run.Processes, run.OpenFiles, run.OutputBytes, disk.DiskMB, disk.Inodes}
}

func (b limitsBody) limits() (agentsandbox.RunLimits, agentsandbox.DiskLimits) {
	return agentsandbox.RunLimits{Processes: b.Processes, OpenFiles: b.OpenFiles, OutputBytes: b.OutputBytes},
		agentsandbox.DiskLimits{DiskMB: b.DiskMB, Inodes: b.Inodes}
}

// executionAnswer is what the answer of a run and its record have in common.
type executionAnswer struct {
	SessionID   string              `json:"session_id"`
	Ephemeral   bool                `json:"ephemeral"`
	Status      agentsandbox.Status `json:"status"`
	ReturnCode  *int                `json:"return_code"`
	Signal      string              `json:"signal"`
	Stdout      string              `json:"stdout"`
	Stderr      string              `json:"stderr"`
	StdoutBytes int64               `json:"stdout_bytes"`
	StderrBytes int64               `json:"stderr_bytes"`
	Truncated   bool                `json:"truncated"`
	Dropped     bool                `json:"output_dropped"`
	DurationMS  int64               `json:"duration_ms"`
	CPUMS       int64               `json:"cpu_ms"`
	MemoryPeak  int64               `json:"memory_peak_bytes"`
	// SessionLeft is null for a run without a session.
	SessionLeft  agentsandbox.SessionStatus `json:"session_status"`
	Metadata     map[string]string          `json:"metadata"`
	Files        []fileAnswer               `json:"files"`
	FilesOmitted int                        `json:"files_omitted"`

	Refused        []agentsandbox.NetworkRefusal `json:"network_refused"`
	RefusedOmitted int64                         `json:"network_refused_omitted"`
	Error          string                        `json:"error"`

	FilesOmittedReasons []struct {
		Reason agentsandbox.OmittedReason `json:"reason"`
		Count  int                        `json:"count"`
	} `json:"files_omitted_reasons"`
}

// execution fails if what every answer has is not there.
func (a executionAnswer) execution(id string) (*agentsandbox.Execution, error) {
	if id == "" || a.ReturnCode == nil && a.Status.Terminal() {
		return nil, errMissing("execution_id or return_code")
	}
	e := &agentsandbox.Execution{
		ID:            id,
		SessionID:     a.SessionID,
		Ephemeral:     a.Ephemeral,
		Status:        a.Status,
		Signal:        a.Signal,
		Stdout:        []byte(a.Stdout),
		Stderr:        []byte(a.Stderr),
		StdoutBytes:   a.StdoutBytes,
		StderrBytes:   a.StderrBytes,
		Truncated:     a.Truncated,
		OutputDropped: a.Dropped,
		DurationMS:    a.DurationMS,
		CPUMS:         a.CPUMS,
		FilesOmitted:  a.FilesOmitted,
		Error:         a.Error,

		MemoryPeakBytes: a.MemoryPeak,
		SessionStatus:   a.SessionLeft,

		NetworkRefusedOmitted: a.RefusedOmitted,
	}
	if len(a.Metadata) > 0 {
		e.Metadata = a.Metadata
	}
	if len(a.Refused) > 0 {
		e.NetworkRefused = a.Refused
	}
	if a.ReturnCode != nil {
		e.ReturnCode = *a.ReturnCode
	}
	for _, o := range a.FilesOmittedReasons {
		if e.OmittedReasons == nil {
			e.OmittedReasons = map[agentsandbox.OmittedReason]int{}
		}
		e.OmittedReasons[o.Reason] = o.Count
	}
	for _, f := range a.Files {
		file := f.file()
		file.SessionID, file.ExecutionID = a.SessionID, id
		e.Files = append(e.Files, file)
	}
	return e, nil
}

// recordAnswer is the record of a run.
type recordAnswer struct {
	executionAnswer
	ID         string                `json:"id"`
	Endpoint   string                `json:"endpoint"`
	Method     string                `json:"method"`
	HTTPStatus int                   `json:"status_code"`
	Language   agentsandbox.Language `json:"language"`
	Code       string                `json:"code"`
	Meta       map[string]string     `json:"request_meta"`
	CreatedAt  time.Time             `json:"created_at"`
	EndedAt    *time.Time            `json:"ended_at"`
}

func (a recordAnswer) execution() (*agentsandbox.Execution, error) {
	e, err := a.executionAnswer.execution(a.ID)
	if err != nil {
		return nil, err
	}
	e.Endpoint, e.Method, e.HTTPStatus, e.Meta = a.Endpoint, a.Method, a.HTTPStatus, a.Meta
	e.Language, e.Code = a.Language, a.Code
	e.CreatedAt, e.EndedAt = a.CreatedAt, timeOrZero(a.EndedAt)
	return e, nil
}

// Execute runs code and waits for its end. Cancelling ctx ends the code. The
// answer's Stdout and Stderr are the exact bytes; should they not be text, they
// take a second call, and if that one fails they are the text of the answer,
// with U+FFFD where bytes are not UTF-8. Endpoint, Method and Meta of the
// request are the server's to fill in.
func (c *Client) Execute(ctx context.Context, req agentsandbox.ExecuteRequest) (*agentsandbox.Execution, error) {
	if err := validText("code", req.Code); err != nil {
		return nil, err
	}
	if err := validTexts("env_vars", req.Env); err != nil {
		return nil, err
	}
	if err := validTexts("metadata", req.Metadata); err != nil {
		return nil, err
	}
	call := call{method: http.MethodPost, path: segments("execute"), json: executeBody{
		Code:      req.Code,
		Language:  req.Language,
		SessionID: req.SessionID,
		Env:       req.Env,
		FileIDs:   req.FileIDs,
		TimeoutMS: req.TimeoutMS,
		MemoryMB:  req.MemoryMB,
		CPUs:      req.CPUs,
		CPUTimeMS: req.CPUTimeMS, limitsBody: limitsOf(req.RunLimits, req.DiskLimits), Metadata: req.Metadata,
		Network: policyBodyOf(req.Network), CollectIgnored: req.CollectIgnored,
	}}
	var answer struct {
		executionAnswer
		ID string `json:"execution_id"`
	}
	if err := c.exchange(ctx, call, &answer); err != nil {
		return nil, err
	}
	e, err := answer.execution(answer.ID)
	if err != nil {
		return nil, c.incomplete(call, err)
	}
	e.Language, e.Code = req.Language, req.Code
	if e.Language == "" {
		e.Language = agentsandbox.Python
	}
	c.exactOutput(ctx, e)
	return e, nil
}

// Execution returns the record of one run, with output as Execute has it.
func (c *Client) Execution(ctx context.Context, id string) (*agentsandbox.Execution, error) {
	call := call{method: http.MethodGet, path: segments("executions", id)}
	var answer recordAnswer
	if err := c.exchange(ctx, call, &answer); err != nil {
		return nil, err
	}
	e, err := answer.execution()
	if err != nil {
		return nil, c.incomplete(call, err)
	}
	c.exactOutput(ctx, e)
	return e, nil
}

// exactOutput fetches the bytes of output whose text may stand for other bytes.
func (c *Client) exactOutput(ctx context.Context, e *agentsandbox.Execution) {
	for name, p := range map[string]*[]byte{"stdout": &e.Stdout, "stderr": &e.Stderr} {
		if !strings.ContainsRune(string(*p), utf8.RuneError) {
			continue
		}
		if exact, err := c.output(ctx, e.ID, name); err == nil {
			*p = exact
		}
	}
}

func (c *Client) output(ctx context.Context, id, stream string) ([]byte, error) {
	resp, err := c.send(ctx, call{method: http.MethodGet, path: segments("executions", id, stream)})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes))
}

// Executions lists records, newest first.
func (c *Client) Executions(ctx context.Context, filter agentsandbox.ExecutionFilter) (*agentsandbox.ExecutionPage, error) {
	query := pageQuery(filter.Page)
	if filter.SessionID != "" {
		query.Set("session_id", filter.SessionID)
	}
	if filter.Status != "" {
		query.Set("status", string(filter.Status))
	}
	metadataQuery(query, filter.Metadata)
	call := call{method: http.MethodGet, path: segments("executions"), query: query}
	var answer struct {
		Executions []recordAnswer `json:"executions"`
		pageAnswer
	}
	if err := c.exchange(ctx, call, &answer); err != nil {
		return nil, err
	}
	page := &agentsandbox.ExecutionPage{Total: answer.Total, Page: answer.page(), NextCursor: answer.NextCursor}
	for _, record := range answer.Executions {
		e, err := record.execution()
		if err != nil {
			return nil, c.incomplete(call, err)
		}
		page.Executions = append(page.Executions, *e)
	}
	return page, nil
}
