package cli

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/agentsandbox/agentsandbox/internal/config"
)

// ProbeRow is one thing that was seen of a sandbox, beside what must be seen.
type ProbeRow struct {
	// Network is the mode of the network of the sandbox.
	Network  string `json:"network"`
	Side     string `json:"side"` // inside, host
	Name     string `json:"name"`
	Value    string `json:"value"`
	Expected string `json:"expected"`
	OK       bool   `json:"ok"`
}

// probe looks at a real sandbox.
func (c *doctorCommand) probe(a *app, cfg config.Config) error {
	if a.local.Probe == nil {
		return errors.New("this build of the program cannot make a sandbox")
	}
	log := slog.New(slog.DiscardHandler)
	if !c.JSON {
		log = a.logger(cfg)
	}
	rows, err := a.local.Probe(a.ctx, cfg, log)
	if err != nil {
		return err
	}
	differ := 0
	for _, r := range rows {
		if !r.OK {
			differ++
		}
	}
	if c.JSON {
		err = a.printJSON(struct {
			OK   bool       `json:"ok"`
			Rows []ProbeRow `json:"rows"`
		}{differ == 0, rows})
	} else {
		err = a.printProbe(rows)
	}
	if err == nil && differ > 0 {
		err = fmt.Errorf("%d of %d lines differ from what is expected: do not run hostile code on this machine before the reason is known", differ, len(rows))
	}
	return err
}

func (a *app) printProbe(rows []ProbeRow) error {
	table := make([][]string, 0, len(rows))
	network := ""
	for _, r := range rows {
		if r.Network != network {
			network = r.Network
			table = append(table, []string{"", "A sandbox with the network " + network})
		}
		state := "ok"
		if !r.OK {
			state = "DIFFERS"
		}
		table = append(table, []string{r.Side, r.Name, state, r.Value})
		if !r.OK {
			table = append(table, []string{"", "", "", "→ expected: " + r.Expected})
		}
	}
	return a.printAligned(table)
}
