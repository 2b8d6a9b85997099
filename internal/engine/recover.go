package engine

import (
	"context"
	"sync"
	"time"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// retainTimeout bounds how long sandboxes may take to forget runs.
const retainTimeout = 30 * time.Second

// Owned returns the ids of the sandboxes that an earlier process left and that
// somebody still needs: live sessions, and runs in a sandbox of their own. A
// runtime takes them over before Recover.
func (e *Engine) Owned(ctx context.Context) ([]string, error) {
	ofSessions, err := e.Registry.Owned(ctx)
	if err != nil {
		return nil, err
	}
	ofRuns, err := e.Supervisor.Owned(ctx)
	return append(ofSessions, ofRuns...), err
}

// Recover brings the store in line with what lives on of an earlier process:
// adopted are the sandboxes that were taken over, foreign the ids of those that
// belong to the data directory of which this one is a copy. What has no sandbox
// any more is recorded as lost. Start goes on from there: until then nothing is
// watched, followed or ended, so that a server that fails to start can let go of
// the sandboxes and leave them, with all that runs in them, to the next one.
func (e *Engine) Recover(ctx context.Context, foreign []string, adopted ...runtime.Sandbox) error {
	byID := map[string]runtime.Sandbox{}
	for _, sb := range adopted {
		byID[sb.ID()] = sb
	}
	live, lostSessions, err := e.Registry.Recover(ctx, byID, foreign)
	if err != nil {
		return err
	}
	runs, lostRuns, err := e.Supervisor.Recover(ctx, byID, foreign)
	if err != nil {
		return err
	}
	e.retain(ctx, adopted, runs)
	following := 0
	for _, sb := range adopted {
		following += len(runs[sb.ID()])
		if len(runs[sb.ID()]) == 0 && !live[sb.ID()] {
			e.unneeded = append(e.unneeded, sb)
		}
	}
	if len(adopted)+lostSessions+lostRuns > 0 {
		e.log.Info("recovered from an earlier process", "live_sessions", len(live), "running_executions", following,
			"lost_sessions", lostSessions, "lost_executions", lostRuns)
	}
	return nil
}

// retain ends what runs in the adopted sandboxes and has no record that says so. It
// comes before new runs begin.
func (e *Engine) retain(ctx context.Context, adopted []runtime.Sandbox, runs map[string][]string) {
	ctx, cancel := context.WithTimeout(ctx, retainTimeout)
	defer cancel()
	var asking sync.WaitGroup
	for _, sb := range adopted {
		asking.Go(func() {
			if err := sb.Retain(ctx, runs[sb.ID()]); err != nil {
				e.log.Warn("a sandbox of an earlier process does not answer", "sandbox", sb.ID(), "error", err)
			}
		})
	}
	asking.Wait()
}
