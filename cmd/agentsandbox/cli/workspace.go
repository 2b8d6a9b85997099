package cli

import (
	"fmt"
	"io/fs"

	"github.com/agentsandbox/agentsandbox"
)

// listChunk is how many entries of a directory one call asks for.
const listChunk = 1000

type sessionsLs struct {
	ID   string `arg:"" help:"Id of the session."`
	Path string `arg:"" optional:"" default:"/workspace" help:"Absolute path of a directory (default ${default})."`
	jsonFlag
	connection
}

// Help is the text between the summary and the flags.
func (c *sessionsLs) Help() string {
	return `Lists by name. Control characters in names are shown as escapes.

Examples:

    agentsandbox sessions ls ses_…
    agentsandbox sessions ls ses_… /tmp --json`
}

// Run lists a directory. Entries are printed as they come, because a hostile
// directory can be larger than anybody wants to keep.
func (c *sessionsLs) Run(a *app) error {
	service, err := c.service(a)
	if err != nil {
		return err
	}
	var entries []pathView
	after := ""
	for {
		page, err := service.ListPath(a.ctx, c.ID, c.Path, after, listChunk)
		if err != nil {
			return err
		}
		if c.JSON {
			for _, e := range page.Entries {
				entries = append(entries, viewOfPath(e))
			}
		} else if err := a.printEntries(page.Entries); err != nil {
			return err
		}
		if page.Next == "" || len(page.Entries) == 0 {
			break
		}
		after = page.Next
	}
	if c.JSON {
		return a.printJSON(map[string]any{"entries": append([]pathView{}, entries...)})
	}
	return nil
}

func (a *app) printEntries(entries []agentsandbox.PathInfo) error {
	rows := make([][]string, len(entries))
	for i, e := range entries {
		name := e.Path
		if e.Target != "" {
			name += " -> " + e.Target
		}
		rows[i] = []string{modeText(e), fmt.Sprint(e.SizeBytes), timeText(e.ModifiedAt), name}
	}
	return a.printAligned(rows)
}

// modeText shows kind and permissions as ls does.
func modeText(e agentsandbox.PathInfo) string {
	kind := map[agentsandbox.PathKind]string{
		agentsandbox.PathFile: "-", agentsandbox.PathDirectory: "d", agentsandbox.PathSymlink: "l",
	}[e.Kind]
	if kind == "" {
		kind = "?"
	}
	return kind + fs.FileMode(e.Mode & 0o777).String()[1:]
}

type sessionsRead struct {
	ID     string `arg:"" help:"Id of the session."`
	Path   string `arg:"" help:"Absolute path of a file in the session."`
	Output string `short:"o" placeholder:"PATH" help:"Where to save it; a file that is there is replaced once all has arrived. Standard output otherwise."`
	connection
}

// Help is the text between the summary and the flags.
func (c *sessionsRead) Help() string {
	return `Writes the bytes as they are, but to a terminal with its control characters made harmless.

Examples:

    agentsandbox sessions read ses_… /workspace/result.json
    agentsandbox sessions read ses_… /workspace/chart.png -o chart.png`
}

// Run reads a file.
func (c *sessionsRead) Run(a *app) error {
	service, err := c.service(a)
	if err != nil {
		return err
	}
	_, body, err := service.ReadPath(a.ctx, c.ID, c.Path)
	if err != nil {
		return err
	}
	defer body.Close()
	return a.saveAs(c.Output, body)
}

type sessionsWrite struct {
	ID     string `arg:"" help:"Id of the session."`
	Path   string `arg:"" help:"Absolute path of the file in the session; directories above it are made."`
	Source string `arg:"" optional:"" name:"file" default:"-" help:"Local file; standard input otherwise."`
	jsonFlag
	connection
}

// Help is the text between the summary and the flags.
func (c *sessionsWrite) Help() string {
	return `The file is replaced as a whole, once all has arrived.

Examples:

    agentsandbox sessions write ses_… /workspace/data.csv data.csv
    date | agentsandbox sessions write ses_… /workspace/now`
}

// Run writes a file.
func (c *sessionsWrite) Run(a *app) error {
	service, err := c.service(a)
	if err != nil {
		return err
	}
	info, err := c.send(a, service)
	if err != nil {
		return err
	}
	if c.JSON {
		return a.printJSON(viewOfPath(*info))
	}
	return nil
}

func (c *sessionsWrite) send(a *app, service agentsandbox.Service) (*agentsandbox.PathInfo, error) {
	if c.Source == "-" {
		return service.WritePath(a.ctx, c.ID, c.Path, a.Stdin)
	}
	f, size, err := openLocal(c.Source)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	body := a.progress(f, c.Source, size)
	defer body.done()
	return service.WritePath(a.ctx, c.ID, c.Path, body)
}

type sessionsRm struct {
	ID    string   `arg:"" help:"Id of the session."`
	Paths []string `arg:"" name:"path" sep:"none" help:"Absolute paths in the session; a directory goes with all below it."`
	connection
}

// Help is the text between the summary and the flags.
func (c *sessionsRm) Help() string {
	return `Example:

    agentsandbox sessions rm ses_… /workspace/old.csv /workspace/tmp`
}

// Run removes paths.
func (c *sessionsRm) Run(a *app) error {
	service, err := c.service(a)
	if err != nil {
		return err
	}
	return eachOf(c.Paths, func(path string) error { return service.RemovePath(a.ctx, c.ID, path) })
}
