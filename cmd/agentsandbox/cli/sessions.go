package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

type sessionsCommand struct {
	List    sessionsList    `cmd:"" help:"List live sessions, newest first."`
	Create  sessionsCreate  `cmd:"" help:"Create a session."`
	Get     sessionsGet     `cmd:"" help:"Show a session."`
	Delete  sessionsDelete  `cmd:"" help:"Delete sessions and what runs in them."`
	Keep    sessionsKeep    `cmd:"" help:"Put off the expiry of sessions."`
	Network sessionsNetwork `cmd:"" help:"Show or replace what a session may reach."`
	Inject  sessionsInject  `cmd:"" help:"Copy uploaded files to /workspace of a session."`
	Ls      sessionsLs      `cmd:"" help:"List a directory of a session."`
	Read    sessionsRead    `cmd:"" help:"Read a file of a session."`
	Write   sessionsWrite   `cmd:"" help:"Write a file of a session."`
	Rm      sessionsRm      `cmd:"" help:"Delete files and directories of a session."`
}

// Help is the text between the summary and the flags.
func (c *sessionsCommand) Help() string {
	return `A session is a sandbox that is kept between executions, with its /workspace, until it is deleted or expires.

Examples:

    s=$(agentsandbox sessions create)
    agentsandbox sessions write "$s" /workspace/data.csv data.csv
    agentsandbox run analyse.py --session "$s"
    agentsandbox sessions delete "$s"`
}

type sessionsList struct {
	Metadata map[string]string `mapsep:"none" placeholder:"NAME=VALUE" help:"Only those with this among their metadata. Can be repeated."`
	pageFlags
	jsonFlag
	connection
}

// Help is the text between the summary and the flags.
func (c *sessionsList) Help() string {
	return `Example:

    agentsandbox sessions list --json`
}

// Run lists sessions.
func (c *sessionsList) Run(a *app) error {
	page, err := c.page()
	if err != nil {
		return err
	}
	service, err := c.service(a)
	if err != nil {
		return err
	}
	list, err := service.Sessions(a.ctx, agentsandbox.SessionFilter{Page: page, Metadata: c.Metadata})
	if err != nil {
		return err
	}
	if c.JSON {
		views := make([]sessionView, len(list.Sessions))
		for i, s := range list.Sessions {
			views[i] = viewOfSession(s)
		}
		return a.printJSON(struct {
			Sessions []sessionView `json:"sessions"`
			pageView
		}{views, viewOfPage(list.Total, page, list.NextCursor)})
	}
	rows := make([][]string, len(list.Sessions))
	for i, s := range list.Sessions {
		rows[i] = []string{s.ID, string(s.Status), s.Template, timeText(s.CreatedAt), timeText(s.ExpiresAt()), metadataText(s.Metadata)}
	}
	if err := a.printTable([]string{"ID", "STATUS", "TEMPLATE", "CREATED", "EXPIRES", "METADATA"}, rows); err != nil {
		return err
	}
	a.noteMore(len(rows), list.Total, list.NextCursor)
	return nil
}

func metadataText(metadata map[string]string) string {
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(metadata)) {
		pairs = append(pairs, name+"="+metadata[name])
	}
	return strings.Join(pairs, " ")
}

type sessionsCreate struct {
	Env      []string      `short:"e" sep:"none" placeholder:"NAME=VALUE" help:"Set an environment variable for every execution; NAME alone passes on the value that it has here. Can be repeated."`
	FileID   []string      `sep:"none" placeholder:"ID" help:"Copy an uploaded file to /workspace. Can be repeated."`
	Template string        `placeholder:"NAME" help:"Template to start from; the server's default otherwise."`
	Timeout  time.Duration `short:"t" placeholder:"DURATION" help:"Time limit of each execution, such as 90s or 5m."`
	limitFlags
	Metadata map[string]string `mapsep:"none" placeholder:"NAME=VALUE" help:"Note to keep with the session. Can be repeated."`
	Idle     time.Duration     `placeholder:"DURATION" help:"End the session when nothing uses it for so long, such as 30m; the server's default otherwise."`
	networkFlags
	CollectIgnored *bool         `negatable:"" help:"Keep the files of tools, too, such as .git, node_modules and virtual environments. The server's setting otherwise."`
	Lifetime       time.Duration `placeholder:"DURATION" help:"End the session at this age in any case, such as 48h; the server's default otherwise."`
	jsonFlag
	connection
}

// Help is the text between the summary and the flags.
func (c *sessionsCreate) Help() string {
	return `Prints the id of the session.

Examples:

    agentsandbox sessions create
    agentsandbox sessions create --memory-mb 4096 -e TOKEN --metadata user=ada`
}

// Run creates a session.
func (c *sessionsCreate) Run(a *app) error {
	env, err := environment(c.Env, a.Getenv)
	if err != nil {
		return err
	}
	timeout, err := milliseconds("--timeout", c.Timeout)
	if err != nil {
		return err
	}
	service, err := c.service(a)
	if err != nil {
		return err
	}
	session, err := service.CreateSession(a.ctx, agentsandbox.SessionRequest{
		Env:        env,
		FileIDs:    c.FileID,
		Template:   c.Template,
		TimeoutMS:  timeout,
		MemoryMB:   c.MemoryMB,
		CPUs:       c.CPUs,
		RunLimits:  c.run(),
		DiskLimits: c.disk(),
		Metadata:   c.Metadata,

		IdleTimeoutMS: c.Idle.Milliseconds(),
		MaxLifetimeMS: c.Lifetime.Milliseconds(),
		Network:       c.policy(),

		CollectIgnored: c.CollectIgnored,
	})
	if err != nil {
		return err
	}
	if c.JSON {
		return a.printJSON(viewOfSession(*session))
	}
	return a.print(neutral(session.ID) + "\n")
}

type sessionsGet struct {
	ID string `arg:"" help:"Id of the session."`
	jsonFlag
	connection
}

// Help is the text between the summary and the flags.
func (c *sessionsGet) Help() string {
	return `Example:

    agentsandbox sessions get ses_… --json`
}

// Run shows a session.
func (c *sessionsGet) Run(a *app) error {
	service, err := c.service(a)
	if err != nil {
		return err
	}
	s, err := service.Session(a.ctx, c.ID)
	if err != nil {
		return err
	}
	if c.JSON {
		return a.printJSON(viewOfSession(*s))
	}
	return a.printFields([][2]string{
		{"id", s.ID},
		{"status", string(s.Status)},
		{"template", s.Template},
		{"created", timeText(s.CreatedAt)},
		{"last used", timeText(s.LastUsedAt)},
		{"expires", timeText(s.ExpiresAt())},
		{"timeout", millis(s.TimeoutMS)},
		{"memory", sizeText(s.MemoryMB << 20)},
		{"cpus", fmt.Sprint(s.CPUs)},
		{"network", policyText(s.Network)},
		{"metadata", metadataText(s.Metadata)},
	})
}

type sessionsDelete struct {
	IDs []string `arg:"" name:"id" sep:"none" help:"Ids of the sessions."`
	connection
}

// Help is the text between the summary and the flags.
func (c *sessionsDelete) Help() string {
	return `Example:

    agentsandbox sessions delete ses_…`
}

// Run deletes sessions.
func (c *sessionsDelete) Run(a *app) error {
	service, err := c.service(a)
	if err != nil {
		return err
	}
	return eachOf(c.IDs, func(id string) error { return service.DeleteSession(a.ctx, id) })
}

type sessionsKeep struct {
	IDs  []string      `arg:"" name:"id" sep:"none" help:"Ids of the sessions."`
	Idle time.Duration `placeholder:"DURATION" help:"From now on, end the session when nothing uses it for so long."`
	connection
}

// Help is the text between the summary and the flags.
func (c *sessionsKeep) Help() string {
	return `Counts as a use of the session.

Example:

    agentsandbox sessions keep ses_… --idle 2h`
}

// Run puts off the expiry of sessions.
func (c *sessionsKeep) Run(a *app) error {
	service, err := c.service(a)
	if err != nil {
		return err
	}
	return eachOf(c.IDs, func(id string) error {
		_, err := service.KeepSession(a.ctx, id, c.Idle.Milliseconds())
		return err
	})
}

type sessionsInject struct {
	ID      string   `arg:"" help:"Id of the session."`
	FileIDs []string `arg:"" name:"file-id" sep:"none" help:"Ids of the files."`
	connection
}

// Help is the text between the summary and the flags.
func (c *sessionsInject) Help() string {
	return `Example:

    agentsandbox sessions inject ses_… fil_… fil_…`
}

// Run injects files.
func (c *sessionsInject) Run(a *app) error {
	service, err := c.service(a)
	if err != nil {
		return err
	}
	return service.InjectFiles(a.ctx, c.ID, c.FileIDs)
}
