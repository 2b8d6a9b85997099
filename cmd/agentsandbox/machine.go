package main

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/agentsandbox/agentsandbox/internal/config"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
	"github.com/agentsandbox/agentsandbox/internal/runtime/gvisor"
)

// machine is what the daemon's sandboxes are made by and made of.
type machine interface {
	runtime.Runtime
	// Prepare makes what sandboxes start from, if it is missing.
	Prepare(ctx context.Context) error
	// MemoryUse reads how much memory all sandboxes use together, in bytes. Below
	// enough, it may be more than that.
	MemoryUse(enough int64) (int64, error)
}

// machineOpener opens the machine of a daemon, with the networks of its sandboxes.
type machineOpener func(cfg config.Config, network runtime.Network, log *slog.Logger) (machine, error)

// gvisorMachine makes sandboxes with gVisor, of the default template.
type gvisorMachine struct {
	*gvisor.Runtime
	cfg    config.Config
	images *images
	log    *slog.Logger
}

func openGVisor(cfg config.Config, network runtime.Network, log *slog.Logger) (machine, error) {
	images, err := openImages(cfg, log)
	if err != nil {
		return nil, err
	}
	r, err := gvisor.New(gvisor.Options{
		StateDir: filepath.Join(cfg.DataDir, sandboxesDir), CacheDir: cfg.CacheDir, Recipes: images.recipe,
		DiskBytes: cfg.DiskMB << 20, MemoryWallBytes: memoryWall(cfg), Alone: time.Duration(cfg.OrphanTimeoutMS) * time.Millisecond, Platform: cfg.Platform, Network: network, Logger: log,
	})
	if err != nil {
		return nil, errors.Join(err, images.close())
	}
	m := &gvisorMachine{Runtime: r, cfg: cfg, images: images, log: log}
	images.again = m.Prepare
	return m, nil
}

// Prepare makes the default template and its snapshots.
func (m *gvisorMachine) Prepare(ctx context.Context) error {
	progress := func(line string) { m.log.Info(line) }
	if err := m.images.prepare(ctx, progress); err != nil {
		return err
	}
	limits := engineLimits(m.cfg).Default()
	def := m.images.def
	if _, err := m.Snapshots().Make(ctx, def.Snapshot(), limits, progress); err != nil {
		return err
	}
	for _, set := range def.Preloads {
		if !loadsAhead(m.cfg, set.Name) {
			continue
		}
		if _, err := m.Snapshots().Make(ctx, def.SnapshotWith(set.Name), limits, progress); err != nil && ctx.Err() == nil {
			m.log.Error("no sandbox with these libraries loaded ahead can be made: code that imports them starts slower", "set", set.Name, "error", err)
		}
	}
	m.images.prune(ctx, m.log)
	return nil
}

// Close lets go of the state directory, and of the images.
func (m *gvisorMachine) Close() error {
	m.images.stopHealing()
	return errors.Join(m.Runtime.Close(), m.images.close())
}
