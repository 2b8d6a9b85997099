package cli

import "errors"

type doctorCommand struct {
	jsonFlag
	settings
	Probe   bool `help:"Look from inside a real sandbox too, and compare with what must be seen." xor:"what"`
	Orphans bool `help:"List the sandboxes on this machine by server, and whether that server is there." xor:"what"`
	End     bool `help:"With --orphans: end the sandboxes of servers whose data directory is gone."`
}

func (c *doctorCommand) prepare() {
	c.settings.prepare("data_dir", "cache_dir", "platform", "ca_bundle", "default_memory_mb", "default_cpus", "max_tasks", "disk_mb", "log_level", "log_format")
}

// Help is the text between the summary and the flags.
func (c *doctorCommand) Help() string {
	return `Looks and changes nothing, unless --end is given. The exit status is 1 if something is missing without which no sandbox can run.

With --probe it starts two sandboxes, one without a network and one with the network that servers give by default, beside those of any server, runs a program of its own in each with the rights of user code, asks the host about the sandbox's process, and compares every line with what is expected. The exit status is 1 if a line differs. The template is built first if it is missing.

With --orphans it lists whose sandboxes are on this machine. A server is running, stopped (its data directory is there, under whatever name), gone (its data directory was removed), or unknown. --end ends everything of the servers that are gone, and removes their control groups and their files in /run; it touches nothing else.

Examples:

    agentsandbox doctor
    agentsandbox doctor --json
    agentsandbox doctor --probe
    agentsandbox doctor --orphans --end`
}

// Run looks at this machine.
func (c *doctorCommand) Run(a *app) error {
	cfg, err := c.load(a)
	if err != nil {
		return err
	}
	if c.End && !c.Orphans {
		return errors.New("--end goes with --orphans")
	}
	if c.Orphans {
		return c.orphans(a)
	}
	if c.Probe {
		return c.probe(a, cfg.Config)
	}
	if a.local.Check == nil {
		return errors.New("this build of the program cannot look at the machine")
	}
	report, err := a.local.Check(a.ctx, cfg.Config)
	if err != nil {
		return err
	}
	if c.JSON {
		err = a.printJSON(struct {
			Ready bool `json:"ready"`
			Report
		}{report.Ready(), report})
	} else {
		err = a.printReport(report)
	}
	if err != nil {
		return err
	}
	if !report.Ready() {
		return errors.New("this machine cannot run sandboxes yet; see what is marked as missing")
	}
	return nil
}

func (a *app) printReport(r Report) error {
	if err := a.printFindings("This machine", r.Findings); err != nil {
		return err
	}
	if len(r.Protections) == 0 {
		return nil
	}
	return a.printFindings("\nProtections of a sandbox", r.Protections)
}

func (a *app) printFindings(title string, findings []Finding) error {
	rows := make([][]string, 0, len(findings))
	for _, f := range findings {
		state := "ok"
		switch {
		case !f.OK && f.Required:
			state = "MISSING"
		case !f.OK:
			state = "advice"
		}
		rows = append(rows, []string{f.Name, state, f.Detail})
		if !f.OK && f.Remedy != "" {
			rows = append(rows, []string{"", "", "→ " + f.Remedy})
		}
	}
	if err := a.print(title + "\n"); err != nil {
		return err
	}
	return a.printAligned(rows)
}
