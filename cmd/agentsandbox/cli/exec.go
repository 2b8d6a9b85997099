package cli

import (
	"errors"
	"strings"

	"github.com/agentsandbox/agentsandbox"
)

type execCommand struct {
	Session string   `arg:"" help:"Id of the session."`
	Command []string `arg:"" passthrough:"" sep:"none" help:"After --, a command and its arguments, passed on as they are; or a single argument, which is a line of shell."`
	executionFlags
	connection
}

// Help is the text between the summary and the flags.
func (c *execCommand) Help() string {
	return `Prints what the command prints and ends with its status, as run does. The working directory is /workspace.

Examples:

    agentsandbox exec ses_… -- ls -la "a file"
    agentsandbox exec ses_… -- 'grep -c error *.log | sort'
    agentsandbox exec --timeout 10m ses_… -- pip install polars`
}

// Run runs a command.
func (c *execCommand) Run(a *app) error {
	code, err := shellLine(c.Command)
	if err != nil {
		return err
	}
	session, err := sessionID(&c.Session)
	if err != nil {
		return err
	}
	service, err := c.service(a)
	if err != nil {
		return err
	}
	return a.execute(service, agentsandbox.ExecuteRequest{
		Code:      code,
		Language:  agentsandbox.Bash,
		SessionID: session,
	}, c.executionFlags)
}

// shellLine makes a line of shell of a command: one word is a line already,
// several are quoted so that each arrives as it is.
func shellLine(words []string) (string, error) {
	if len(words) > 0 && words[0] == "--" {
		words = words[1:]
	}
	switch len(words) {
	case 0:
		return "", errors.New(`no command; write it after --, as in "agentsandbox exec SESSION -- ls"`)
	case 1:
		return words[0], nil
	}
	quoted := make([]string, len(words))
	for i, word := range words {
		quoted[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
	}
	return strings.Join(quoted, " "), nil
}
