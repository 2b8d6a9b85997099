package gvisor

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"

	"gvisor.dev/gvisor/pkg/state/statefile"
	runscsandbox "gvisor.dev/gvisor/runsc/sandbox"

	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// snapshotIDPrefix starts the ids of the sandboxes that snapshots are made of.
const snapshotIDPrefix = "snapshot-"

// makeSnapshot boots a template in a sandbox of its own, has the agent bring up
// all that a run will need, and freezes it into dir. The sandbox has no limits:
// nothing in it is anybody's code but the template's.
func (r *Runtime) makeSnapshot(ctx context.Context, dir, template string, variant runtime.Variant, cores int, progress Progress) error {
	progress("booting the template")
	m, err := r.launch(ctx, launchSpec{
		id:       snapshotIDPrefix + strings.ToLower(rand.Text()),
		template: template,
		bundle:   bundle{dir: dir},
		cores:    cores,
	}, func(m *machine) error { return m.container.Start(r.conf) })
	if err != nil {
		return err
	}
	defer m.abandon(r)
	client, err := guest.NewClient(ctx, m.conn)
	if err != nil {
		return fmt.Errorf("no answer from the agent in the image: %w", err)
	}
	// The conversation must stay open until all is frozen: the agent waits on it
	// for the next one, and would take an end for the end of its work.
	defer func() { _ = client.Close() }()
	progress("bringing up the interpreter")
	if err := client.PrepareSnapshot(ctx, variant.Modules()); err != nil {
		return fmt.Errorf("the agent could not get ready to be frozen: %w", err)
	}
	progress("freezing the sandbox")
	return m.killedWhenDone(ctx, func() error {
		return m.container.Checkpoint(r.conf, dir, runscsandbox.CheckpointOpts{
			// Uncompressed pages are a file of their own, which a restore reads in
			// parallel with the rest.
			Compression:               statefile.CompressionLevelNone,
			ExcludeCommittedZeroPages: true,
		})
	})
}
