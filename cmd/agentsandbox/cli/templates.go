package cli

import (
	"errors"
	"maps"
	"slices"
)

type templatesCommand struct {
	List    templatesList    `cmd:"" help:"List the templates of this machine."`
	Build   templatesBuild   `cmd:"" help:"Build a template, unless it is there and nothing has changed."`
	Inspect templatesInspect `cmd:"" help:"Show what a template was made of and what is in it."`
	Remove  templatesRemove  `cmd:"" name:"rm" help:"Delete templates that no server uses."`
}

func (c *templatesCommand) prepare() {
	c.List.prepare("cache_dir")
	c.Build.prepare("cache_dir", "ca_bundle")
	c.Inspect.prepare("cache_dir")
	c.Remove.prepare("cache_dir")
}

// Help is the text between the summary and the flags.
func (c *templatesCommand) Help() string {
	return `A template is what sandboxes start from: an image of a Debian system with Python, and a snapshot of it. Templates live in the cache directory, shared by the servers of this machine; deleting one costs the time to build it again, nothing else. These verbs need no running server.

Examples:

    agentsandbox templates build
    agentsandbox templates list
    agentsandbox templates inspect default`
}

func (s *settings) templates(a *app) (Templates, error) {
	cfg, err := s.load(a)
	if err != nil {
		return nil, err
	}
	if a.local.Templates == nil {
		return nil, errors.New("this build of the program has no templates")
	}
	return a.local.Templates(cfg.Config, a.logger(cfg.Config))
}

type templatesList struct {
	jsonFlag
	settings
}

// Help is the text between the summary and the flags.
func (c *templatesList) Help() string {
	return `Example:

    agentsandbox templates list --json`
}

// Run lists templates.
func (c *templatesList) Run(a *app) error {
	templates, err := c.templates(a)
	if err != nil {
		return err
	}
	list, err := templates.List(a.ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		return a.printJSON(map[string]any{"templates": append([]Template{}, list...)})
	}
	rows := make([][]string, len(list))
	for i, t := range list {
		rows[i] = []string{t.Name, t.Digest, sizeText(t.SizeBytes), timeText(t.BuiltAt)}
	}
	return a.printTable([]string{"NAME", "DIGEST", "SIZE", "BUILT"}, rows)
}

type templatesBuild struct {
	Name string `arg:"" optional:"" default:"default" help:"Which template (default ${default})."`
	jsonFlag
	settings
}

// Help is the text between the summary and the flags.
func (c *templatesBuild) Help() string {
	return `Takes a minute or two the first time, with progress on standard error; a build that is already running, by a server for instance, is waited for and shared.

Example:

    agentsandbox templates build --ca-bundle /etc/ssl/certs/company.pem`
}

// Run builds a template.
func (c *templatesBuild) Run(a *app) error {
	templates, err := c.templates(a)
	if err != nil {
		return err
	}
	built, err := templates.Build(a.ctx, c.Name, func(line string) { a.note("%s", line) })
	if err != nil {
		return err
	}
	if c.JSON {
		return a.printJSON(built)
	}
	return a.printTemplate(built)
}

type templatesInspect struct {
	Name string `arg:"" optional:"" default:"default" help:"Name or digest of the template (default ${default})."`
	jsonFlag
	settings
}

// Help is the text between the summary and the flags.
func (c *templatesInspect) Help() string {
	return `Example:

    agentsandbox templates inspect default --json`
}

// Run shows a template.
func (c *templatesInspect) Run(a *app) error {
	templates, err := c.templates(a)
	if err != nil {
		return err
	}
	t, err := templates.Inspect(a.ctx, c.Name)
	if err != nil {
		return err
	}
	if c.JSON {
		return a.printJSON(t)
	}
	if err := a.printTemplate(t); err != nil {
		return err
	}
	rows := make([][]string, len(t.Packages))
	for i, p := range t.Packages {
		rows[i] = []string{p.Name, p.Version, p.Kind}
	}
	if err := a.print("\n"); err != nil {
		return err
	}
	return a.printTable([]string{"PACKAGE", "VERSION", "KIND"}, rows)
}

func (a *app) printTemplate(t Template) error {
	rows := [][2]string{
		{"name", t.Name},
		{"digest", t.Digest},
		{"size", sizeText(t.SizeBytes)},
		{"built", timeText(t.BuiltAt)},
		{"path", t.Path},
	}
	for _, name := range slices.Sorted(maps.Keys(t.Inputs)) {
		rows = append(rows, [2]string{name, t.Inputs[name]})
	}
	return a.printFields(rows)
}

type templatesRemove struct {
	Names []string `arg:"" name:"name" sep:"none" help:"Names or digests of the templates."`
	settings
}

// Help is the text between the summary and the flags.
func (c *templatesRemove) Help() string {
	return `Example:

    agentsandbox templates rm default`
}

// Run removes templates.
func (c *templatesRemove) Run(a *app) error {
	templates, err := c.templates(a)
	if err != nil {
		return err
	}
	return eachOf(c.Names, func(name string) error { return templates.Remove(a.ctx, name) })
}

// eachOf does something with each of several things, and goes on after an
// error: the others are not less wanted.
func eachOf[T any](names []T, do func(name T) error) error {
	var errs []error
	for _, name := range names {
		if err := do(name); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
