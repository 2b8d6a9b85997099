package main

import (
	"context"
	"fmt"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// recover takes over what an earlier process left alive and somebody owns, and
// removes the rest of it.
func (d *daemon) recover(ctx context.Context) error {
	keep, err := d.engine.Owned(ctx)
	if err != nil {
		return err
	}
	found, err := d.machine.Recover(ctx, keep)
	// Should the start fail after this, they are left as they are. Of those that
	// have ended by then, nothing is left to release.
	d.onClose(func() error {
		for _, sb := range found.Adopted {
			sb.Release()
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("sandboxes of an earlier process could not be destroyed: %w", err)
	}
	if len(found.Destroyed)+len(found.Adopted) > 0 {
		d.log.Info("found sandboxes of an earlier process", "taken_over", len(found.Adopted), "destroyed", len(found.Destroyed))
	}
	adopted := make([]runtime.Sandbox, 0, len(found.Adopted))
	for _, sb := range found.Adopted {
		adopted = append(adopted, d.pool.Adopt(sb))
	}
	return d.engine.Recover(ctx, found.Foreign, adopted...)
}
