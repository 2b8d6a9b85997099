package cli

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/agentsandbox/agentsandbox"
)

type executionsCommand struct {
	List executionsList `cmd:"" help:"List executions, newest first."`
	Get  executionsGet  `cmd:"" help:"Show the record of an execution."`
}

// Help is the text between the summary and the flags.
func (c *executionsCommand) Help() string {
	return `Every run of code leaves a record, those that failed or were ended included.

Examples:

    agentsandbox executions list --status failed
    agentsandbox executions get exe_… --stdout`
}

type executionsList struct {
	Session  string            `short:"s" placeholder:"ID" help:"Only those of this session."`
	Metadata map[string]string `mapsep:"none" placeholder:"NAME=VALUE" help:"Only those with this among their metadata. Can be repeated."`
	Status   string            `placeholder:"STATUS" help:"Only those that ended so, such as succeeded, failed or timed_out; running for those that have not."`
	pageFlags
	jsonFlag
	connection
}

// Help is the text between the summary and the flags.
func (c *executionsList) Help() string {
	return `Example:

    agentsandbox executions list --session ses_… --limit 10`
}

// Run lists executions.
func (c *executionsList) Run(a *app) error {
	page, err := c.page()
	if err != nil {
		return err
	}
	service, err := c.service(a)
	if err != nil {
		return err
	}
	list, err := service.Executions(a.ctx, agentsandbox.ExecutionFilter{
		Page: page, SessionID: c.Session, Status: agentsandbox.Status(c.Status), Metadata: c.Metadata,
	})
	if err != nil {
		return err
	}
	if c.JSON {
		views := make([]executionView, len(list.Executions))
		for i, e := range list.Executions {
			views[i] = viewOfExecution(e, false)
		}
		return a.printJSON(struct {
			Executions []executionView `json:"executions"`
			pageView
		}{views, viewOfPage(list.Total, page, list.NextCursor)})
	}
	rows := make([][]string, len(list.Executions))
	for i, e := range list.Executions {
		rows[i] = []string{e.ID, string(e.Status), fmt.Sprint(e.ReturnCode), string(e.Language), millis(e.DurationMS), e.SessionID, timeText(e.CreatedAt)}
	}
	if err := a.printTable([]string{"ID", "STATUS", "CODE", "LANGUAGE", "DURATION", "SESSION", "CREATED"}, rows); err != nil {
		return err
	}
	a.noteMore(len(rows), list.Total, list.NextCursor)
	return nil
}

type executionsGet struct {
	ID     string `arg:"" help:"Id of the execution."`
	Stdout bool   `xor:"part" help:"Print its standard output, byte for byte, and nothing else."`
	Stderr bool   `xor:"part" help:"Print its standard error, byte for byte, and nothing else."`
	Code   bool   `xor:"part" help:"Print its code and nothing else."`
	JSON   bool   `xor:"part" help:"Print JSON, with the fields of the API."`
	connection
}

// Help is the text between the summary and the flags.
func (c *executionsGet) Help() string {
	return `Bytes are written as they are, but to a terminal with control characters made harmless.

Examples:

    agentsandbox executions get exe_…
    agentsandbox executions get exe_… --code > again.py`
}

// Run shows an execution.
func (c *executionsGet) Run(a *app) error {
	service, err := c.service(a)
	if err != nil {
		return err
	}
	e, err := service.Execution(a.ctx, c.ID)
	if err != nil {
		return err
	}
	switch {
	case e.OutputDropped && (c.Stdout || c.Stderr || c.Code):
		return agentsandbox.Errorf(agentsandbox.CodeConflict, "The code and the output of the run %s are not kept any more, for want of room.", e.ID)
	case c.Stdout:
		return a.copyOut(bytes.NewReader(e.Stdout))
	case c.Stderr:
		return a.copyOut(bytes.NewReader(e.Stderr))
	case c.Code:
		return a.copyOut(strings.NewReader(e.Code))
	case c.JSON:
		return a.printJSON(viewOfExecution(*e, true))
	}
	return a.printExecution(e)
}

// reasonsText says in parentheses why files were left out.
func reasonsText(reasons map[agentsandbox.OmittedReason]int) string {
	var why []string
	for _, reason := range agentsandbox.OmittedReasons {
		if n := reasons[reason]; n > 0 {
			why = append(why, fmt.Sprintf("%s %d", reason, n))
		}
	}
	if len(why) == 0 {
		return ""
	}
	return " (" + strings.Join(why, ", ") + ")"
}

func (a *app) printExecution(e *agentsandbox.Execution) error {
	err := a.printFields([][2]string{
		{"id", e.ID},
		{"status", string(e.Status)},
		{"return code", fmt.Sprint(e.ReturnCode)},
		{"signal", e.Signal},
		{"error", e.Error},
		{"language", string(e.Language)},
		{"session", e.SessionID},
		{"session status", string(e.SessionStatus)},
		{"created", timeText(e.CreatedAt)},
		{"duration", millis(e.DurationMS)},
		{"CPU", millis(e.CPUMS)},
		{"network refused", refusals(e)},
		{"metadata", metadataText(e.Metadata)},
	})
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, f := range e.Files {
		fmt.Fprintf(&b, "file: %s  %s  %s\n", neutral(f.ID), neutral(f.Filename), sizeText(f.SizeBytes))
	}
	if e.FilesOmitted > 0 {
		fmt.Fprintf(&b, "files left out: %d%s\n", e.FilesOmitted, reasonsText(e.OmittedReasons))
	}
	for _, part := range []struct{ name, text string }{
		{"code", e.Code}, {"stdout", string(e.Stdout)}, {"stderr", string(e.Stderr)},
	} {
		if part.text != "" {
			fmt.Fprintf(&b, "\n%s:\n%s\n", part.name, neutralLines(strings.TrimSuffix(part.text, "\n")))
		}
	}
	if err := a.print(b.String()); err != nil {
		return err
	}
	if e.OutputDropped {
		return nil // its standard error says so
	}
	if e.Truncated {
		a.note("The output was cut at the server's limit.")
	}
	return nil
}
