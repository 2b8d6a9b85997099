package cli

import (
	"errors"
	"strconv"
)

// Left is what one server has on this machine.
type Left struct {
	// Name is that of its control groups, and of its directory in /run.
	Name string `json:"name"`
	// StateDir is where its records are or were; empty: that is not known.
	StateDir string `json:"state_dir"`
	// Owner is what became of the server: running, stopped, gone or unknown.
	Owner     string   `json:"owner"`
	Sandboxes []string `json:"sandboxes"`
	Ended     bool     `json:"ended"`
}

// orphans lists what servers have on this machine, and ends what is nobody's.
func (c *doctorCommand) orphans(a *app) error {
	if a.local.Left == nil {
		return errors.New("this build of the program cannot look for sandboxes")
	}
	all, err := a.local.Left(a.ctx, c.End)
	if err != nil {
		return err
	}
	if c.JSON {
		for i := range all {
			if all[i].Sandboxes == nil {
				all[i].Sandboxes = []string{}
			}
		}
		return a.printJSON(struct {
			Servers []Left `json:"servers"`
		}{append([]Left{}, all...)})
	}
	rows := [][]string{{"SERVER", "SANDBOXES", "GROUP", "DIRECTORY"}}
	for _, l := range all {
		state := l.Owner
		if l.Ended {
			state += ", ended"
		}
		rows = append(rows, []string{state, strconv.Itoa(len(l.Sandboxes)), l.Name, l.StateDir})
	}
	return a.printAligned(rows)
}
