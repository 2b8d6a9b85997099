package cli

import (
	"errors"
)

type filesCommand struct {
	List     filesList     `cmd:"" help:"List files, newest first."`
	Upload   filesUpload   `cmd:"" help:"Upload local files."`
	Download filesDownload `cmd:"" help:"Download a file."`
	Delete   filesDelete   `cmd:"" help:"Delete files."`
}

// Help is the text between the summary and the flags.
func (c *filesCommand) Help() string {
	return `A file is bytes that were uploaded, or that an execution made, kept by the server under an id until they are deleted.

Examples:

    agentsandbox files upload sales.csv
    agentsandbox files list
    agentsandbox files download fil_… -o sales.csv`
}

type filesList struct {
	pageFlags
	jsonFlag
	connection
}

// Help is the text between the summary and the flags.
func (c *filesList) Help() string {
	return `Example:

    agentsandbox files list --limit 10 --json`
}

// Run lists files.
func (c *filesList) Run(a *app) error {
	page, err := c.page()
	if err != nil {
		return err
	}
	service, err := c.service(a)
	if err != nil {
		return err
	}
	list, err := service.Files(a.ctx, page)
	if err != nil {
		return err
	}
	if c.JSON {
		views := make([]fileView, len(list.Files))
		for i, f := range list.Files {
			views[i] = viewOfFile(f)
		}
		return a.printJSON(struct {
			Files []fileView `json:"files"`
			pageView
		}{views, viewOfPage(list.Total, page, list.NextCursor)})
	}
	rows := make([][]string, len(list.Files))
	for i, f := range list.Files {
		rows[i] = []string{f.ID, f.Filename, f.MediaType, sizeText(f.SizeBytes), f.SessionID, timeText(f.CreatedAt)}
	}
	if err := a.printTable([]string{"ID", "NAME", "TYPE", "SIZE", "SESSION", "CREATED"}, rows); err != nil {
		return err
	}
	a.noteMore(len(rows), list.Total, list.NextCursor)
	return nil
}

type filesUpload struct {
	Paths     []string `arg:"" name:"path" sep:"none" help:"Local files, and directories, of which each file is uploaded with its path."`
	Path      string   `name:"path" placeholder:"PATH" help:"Where below /workspace a single file or directory belongs, such as pkg/__init__.py; a dot puts what is in a directory right there. At its name otherwise."`
	Name      string   `placeholder:"NAME" help:"File name to keep, for a single file; its own otherwise."`
	MediaType string   `placeholder:"TYPE" help:"Media type, such as text/csv; guessed from the name otherwise."`
	Session   string   `short:"s" placeholder:"ID" help:"Also copy the file to /workspace of this session."`
	jsonFlag
	connection
}

// Help is the text between the summary and the flags.
func (c *filesUpload) Help() string {
	return `Prints the id of each file on a line of its own, in the order of the arguments. Of a directory, links and directories of tools (.git, __pycache__, node_modules, virtual environments) are left out.

Examples:

    agentsandbox files upload sales.csv costs.csv
    agentsandbox files upload core.py --path pkg/core.py
    agentsandbox files upload pkg --session ses_…
    id=$(agentsandbox files upload sales.csv) && agentsandbox run report.py --file-id "$id"`
}

// Run uploads files.
func (c *filesUpload) Run(a *app) error {
	if c.Name != "" && len(c.Paths) > 1 {
		return errors.New("--name: is for a single file")
	}
	if c.Path != "" && (len(c.Paths) > 1 || c.Name != "") {
		return errors.New("--path: is for a single file or directory, and takes the place of --name")
	}
	service, err := c.service(a)
	if err != nil {
		return err
	}
	views := []fileView{}
	err = eachOf(c.Paths, func(path string) error {
		files, err := localFiles(path, c.Path)
		if err != nil {
			return err
		}
		return eachOf(files, func(f localFile) error {
			as := f.as()
			as.MediaType, as.SessionID = c.MediaType, c.Session
			if c.Name != "" {
				as.Filename = c.Name
			}
			file, err := a.upload(service, f.local, as)
			if err != nil {
				return err
			}
			views = append(views, viewOfFile(*file))
			return nil
		})
	})
	return errors.Join(a.printUploads(views, c.JSON), err)
}

func (a *app) printUploads(views []fileView, asJSON bool) error {
	if asJSON {
		return a.printJSON(map[string]any{"files": views})
	}
	return printIDs(a, views, func(v fileView) string { return v.ID })
}

type filesDownload struct {
	ID     string `arg:"" help:"Id of the file."`
	Output string `short:"o" placeholder:"PATH" help:"Where to save it; a file that is there is replaced once all has arrived. Standard output otherwise."`
	connection
}

// Help is the text between the summary and the flags.
func (c *filesDownload) Help() string {
	return `Writes the bytes as they are, but to a terminal with its control characters made harmless.

Examples:

    agentsandbox files download fil_… -o chart.png
    agentsandbox files download fil_… | head`
}

// Run downloads a file.
func (c *filesDownload) Run(a *app) error {
	service, err := c.service(a)
	if err != nil {
		return err
	}
	_, body, err := service.OpenFile(a.ctx, c.ID)
	if err != nil {
		return err
	}
	defer body.Close()
	return a.saveAs(c.Output, body)
}

type filesDelete struct {
	IDs []string `arg:"" name:"id" sep:"none" help:"Ids of the files."`
	connection
}

// Help is the text between the summary and the flags.
func (c *filesDelete) Help() string {
	return `Copies that are in a sandbox already stay there.

Example:

    agentsandbox files delete fil_…`
}

// Run deletes files.
func (c *filesDelete) Run(a *app) error {
	service, err := c.service(a)
	if err != nil {
		return err
	}
	return eachOf(c.IDs, func(id string) error { return service.DeleteFile(a.ctx, id) })
}
