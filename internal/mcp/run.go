package mcp

import (
	"context"
	"fmt"
	"strings"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agentsandbox/agentsandbox"
)

type runInput struct {
	Code           string            `json:"code" jsonschema:"the code to run"`
	SessionID      string            `json:"session_id,omitempty" jsonschema:"run in this session instead of in the sandbox of the conversation"`
	TimeoutMS      int64             `json:"timeout_ms,omitempty" jsonschema:"time limit in milliseconds; the session's otherwise"`
	EnvVars        map[string]string `json:"env_vars,omitempty" jsonschema:"environment variables of this run alone"`
	FileIDs        []string          `json:"file_ids,omitempty" jsonschema:"files to copy to /workspace before the run"`
	CollectIgnored bool              `json:"collect_ignored,omitempty" jsonschema:"keep the files of tools, too, such as .git and virtual environments"`
	MaxOutputBytes int               `json:"max_output_bytes,omitempty" jsonschema:"how much to show of each of stdout and stderr; 100000 otherwise"`
}

type runOutput struct {
	Status          string         `json:"status" jsonschema:"how the run ended: succeeded, failed, timed_out, memory_exceeded, …"`
	ReturnCode      int            `json:"return_code" jsonschema:"the exit status; 124 after a time-out, 128 + N after signal N"`
	Signal          string         `json:"signal,omitempty"`
	Stdout          string         `json:"stdout"`
	Stderr          string         `json:"stderr"`
	StdoutBytes     int64          `json:"stdout_bytes" jsonschema:"how much the code wrote, shown or not"`
	StderrBytes     int64          `json:"stderr_bytes"`
	Truncated       bool           `json:"truncated" jsonschema:"stdout or stderr is not all that the code wrote"`
	Files           []fileOutput   `json:"files" jsonschema:"files that the run made or changed"`
	OmittedReasons  map[string]int `json:"files_omitted_reasons,omitempty" jsonschema:"how many files were not kept, by reason"`
	FilesOmitted    int            `json:"files_omitted,omitempty" jsonschema:"files that were not kept, a directory that was left out as a whole counted once; files_omitted_reasons says why"`
	NetworkRefused  []string       `json:"network_refused,omitempty" jsonschema:"what the policy of the network refused to the run, and why"`
	SessionID       string         `json:"session_id"`
	SessionStatus   string         `json:"session_status,omitempty"`
	ExecutionID     string         `json:"execution_id"`
	DurationMS      int64          `json:"duration_ms"`
	MemoryPeakBytes int64          `json:"memory_peak_bytes,omitempty"`

	lost string // for people
}

type fileOutput struct {
	FileID    string `json:"file_id"`
	Filename  string `json:"filename"`
	Path      string `json:"path,omitempty" jsonschema:"where it stood in the sandbox"`
	MediaType string `json:"media_type"`
	SizeBytes int64  `json:"size_bytes"`
}

func viewOfFile(f agentsandbox.File) fileOutput {
	return fileOutput{
		FileID: f.ID, Filename: agentsandbox.ShownName(f.Filename), Path: agentsandbox.ShownName(f.Path),
		MediaType: f.MediaType, SizeBytes: f.SizeBytes,
	}
}

func (c *conversation) addRunTools(s *sdk.Server) {
	for _, tool := range []struct {
		language agentsandbox.Language
		tool     *sdk.Tool
	}{
		{agentsandbox.Python, &sdk.Tool{
			Name: "execute_python", Title: "Run Python",
			Description: "Runs Python code as a script in /workspace of an isolated sandbox. numpy, pandas, matplotlib and other data libraries are installed. " +
				"Each run is a new process: files stay, variables do not, and what is not printed is not seen. " +
				"Save plots as files, such as plt.savefig('plot.png'): images that a run makes are shown.",
		}},
		{agentsandbox.Bash, &sdk.Tool{
			Name: "execute_bash", Title: "Run Bash",
			Description: "Runs a Bash script in /workspace of an isolated sandbox (Debian, without root). Each run is a new shell: files and background processes stay, variables do not.",
		}},
	} {
		addTool(c, s, tool.tool, func(ctx context.Context, in runInput) (*sdk.CallToolResult, runOutput, error) {
			return c.run(ctx, tool.language, in)
		})
	}
}

func (c *conversation) run(ctx context.Context, language agentsandbox.Language, in runInput) (*sdk.CallToolResult, runOutput, error) {
	limit, err := shownBytes("max_output_bytes", in.MaxOutputBytes)
	if err != nil {
		return nil, runOutput{}, err
	}
	var e *agentsandbox.Execution
	err = c.in(ctx, in.SessionID, func(sessionID string) (err error) {
		request := agentsandbox.ExecuteRequest{
			Code: in.Code, Language: language, SessionID: sessionID,
			Env: in.EnvVars, FileIDs: in.FileIDs, TimeoutMS: in.TimeoutMS,
		}
		if in.CollectIgnored {
			request.CollectIgnored = &in.CollectIgnored
		}
		e, err = c.service.Execute(ctx, request)
		return err
	})
	if err != nil {
		return nil, runOutput{}, err
	}
	if e.SessionStatus != "" && e.SessionStatus != agentsandbox.SessionLive {
		c.forget(ctx, e.SessionID)
	}
	out := viewOfExecution(e, limit)
	pictures, notes := c.images(ctx, e.Files)
	result := &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: verdict(out, notes)}}}
	// Output stands in blocks of its own, so that it cannot pass for the verdict.
	if out.Stdout != "" {
		result.Content = append(result.Content, &sdk.TextContent{Text: out.Stdout})
	}
	if out.Stderr != "" {
		result.Content = append(result.Content, &sdk.TextContent{Text: out.Stderr})
	}
	result.Content = append(result.Content, pictures...)
	return result, out, nil
}

func viewOfExecution(e *agentsandbox.Execution, limit int) runOutput {
	out := runOutput{
		Status: string(e.Status), ReturnCode: e.ReturnCode, Signal: e.Signal,
		StdoutBytes: e.StdoutBytes, StderrBytes: e.StderrBytes,
		Files: []fileOutput{}, FilesOmitted: e.FilesOmitted,
		SessionID: e.SessionID, SessionStatus: string(e.SessionStatus), ExecutionID: e.ID,
		DurationMS: e.DurationMS, MemoryPeakBytes: e.MemoryPeakBytes,
	}
	var outShort, errShort bool
	out.Stdout, outShort = cut(e.Stdout, limit)
	out.Stderr, errShort = cut(e.Stderr, limit)
	out.Truncated = e.Truncated || outShort || errShort
	for _, r := range e.NetworkRefused {
		line := r.Host
		if r.Port != 0 {
			line += fmt.Sprintf(" port %d", r.Port)
		}
		out.NetworkRefused = append(out.NetworkRefused, strings.ToValidUTF8(fmt.Sprintf("%s: %s (%d times)", line, r.Rule, r.Count), "\uFFFD"))
	}
	if e.NetworkRefusedOmitted > 0 {
		out.NetworkRefused = append(out.NetworkRefused, fmt.Sprintf("%d more", e.NetworkRefusedOmitted))
	}
	for why, n := range e.OmittedReasons {
		if out.OmittedReasons == nil {
			out.OmittedReasons = map[string]int{}
		}
		out.OmittedReasons[string(why)] = n
	}
	out.lost = e.LostText()
	for _, f := range e.Files {
		out.Files = append(out.Files, viewOfFile(f))
	}
	return out
}

// verdict is the first block of a result: how the run ended, what follows it,
// and what is missing.
func verdict(out runOutput, notes []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, return code %d", out.Status, out.ReturnCode)
	if out.Signal != "" {
		fmt.Fprintf(&b, ", ended by %s", out.Signal)
	}
	fmt.Fprintf(&b, ", %d ms, session %s", out.DurationMS, out.SessionID)
	if out.SessionStatus != "" && out.SessionStatus != string(agentsandbox.SessionLive) {
		fmt.Fprintf(&b, "\nThe session is %s, and its files with it.", out.SessionStatus)
	}
	var follows []string
	if out.Stdout != "" {
		follows = append(follows, "stdout")
	}
	if out.Stderr != "" {
		follows = append(follows, "stderr")
	}
	if len(follows) > 0 {
		fmt.Fprintf(&b, "\nFollows: %s.", strings.Join(follows, ", then "))
	} else {
		b.WriteString("\nThe code printed nothing.")
	}
	if out.Truncated {
		fmt.Fprintf(&b, "\nThe output was cut: the code wrote %d bytes to stdout and %d to stderr, of which %d and %d are shown.",
			out.StdoutBytes, out.StderrBytes, len(out.Stdout), len(out.Stderr))
	}
	for _, f := range out.Files {
		fmt.Fprintf(&b, "\nFile %q (%s, %d bytes): %s", f.Filename, f.MediaType, f.SizeBytes, f.FileID)
	}
	if out.lost != "" {
		b.WriteString("\n" + out.lost + ".")
	}
	for _, refused := range out.NetworkRefused {
		b.WriteString("\nThe network refused " + refused + ".")
	}
	for _, note := range notes {
		b.WriteString("\n" + note)
	}
	return b.String()
}
