package run

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// attachInfo is what a later server needs to follow a run. Code and variables, which
// may hold secrets, are not needed.
type attachInfo struct {
	runtime.Command
	// Network is what a sandbox of the run's own may reach.
	Network *agentsandbox.NetworkPolicy `json:",omitempty"`
}

// insertRecord writes the row that says that the run goes on, and where.
func (r *Run) insertRecord(ctx context.Context) error {
	r.command = r.newCommand()
	info := attachInfo{r.command, r.network}
	info.Code, info.Env = "", nil
	text, err := json.Marshal(info)
	if err != nil {
		return fmt.Errorf("what is needed to attach to %s: %w", r.record.ID, err)
	}
	return r.s.store.InsertExecution(ctx, r.record, r.sandbox.ID(), text)
}

// readAttachInfo returns what was noted of a run; not ok says that the run cannot be
// followed.
func readAttachInfo(x Left) (info attachInfo, ok bool) {
	ok = x.Sandbox != "" && json.Unmarshal(x.AttachInfo, &info) == nil && info.ID == x.ID
	return info, ok
}
