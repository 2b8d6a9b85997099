package run

import (
	"context"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// collect keeps the files that a run made or changed, and notes them in its record.
func (r *Run) collect(ctx context.Context, result *runtime.Result) error {
	err := r.explain(r.s.files.Collect(ctx, r.sandbox, &r.record, result))
	if err != nil {
		r.record.Error = "Files that the run made could not be kept: " + agentsandbox.MessageOf(err)
	}
	return err
}
