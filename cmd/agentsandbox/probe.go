package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/cmd/agentsandbox/cli"
	"github.com/agentsandbox/agentsandbox/internal/config"
	"github.com/agentsandbox/agentsandbox/internal/posture"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
	"github.com/agentsandbox/agentsandbox/internal/runtime/gvisor"
	"github.com/agentsandbox/agentsandbox/internal/template"
)

// probedNetwork is the mode of the network of the sandbox that is looked at.
const probedNetwork = "off"

// probe makes one sandbox with the limits that the settings give by default,
// looks at it from both sides, and removes every trace of it. A server may run
// meanwhile: nothing is shared with it but the cache directory.
func probe(ctx context.Context, cfg config.Config, log *slog.Logger) (rows []cli.ProbeRow, err error) {
	images, err := openImages(cfg, log)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, images.close()) }()
	if err := images.prepare(ctx, func(line string) { log.Info(line) }); err != nil {
		return nil, err
	}
	// Short, because the path of a socket is.
	state, err := os.MkdirTemp("", "asbx-probe")
	if err != nil {
		return nil, fmt.Errorf("a directory for the probe: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(state)) }()
	options := gvisor.Options{
		StateDir: filepath.Join(state, sandboxesDir), CacheDir: cfg.CacheDir, Images: images.find,
		DiskBytes: cfg.DiskMB << 20, Platform: cfg.Platform, Logger: log,
	}
	r, err := gvisor.New(options)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	limits := engineLimits(cfg).Default()
	if err := r.Prepare(ctx, template.DefaultName, runtime.Bare, limits, func(line string) { log.Info(line) }); err != nil {
		return nil, err
	}
	sb, err := r.Start(ctx, runtime.Spec{ID: agentsandbox.NewID(sandboxPrefix), Template: template.DefaultName, Limits: limits})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, sb.Destroy(context.WithoutCancel(ctx))) }()
	return look(ctx, sb, posture.Grant{
		MemoryBytes: limits.MemoryBytes, WallBytes: gvisor.MemoryWall(limits.MemoryBytes), MilliCPUs: limits.MilliCPUs, Tasks: limits.Tasks,
		CPUs: gvisor.CPUs(limits), DiskBytes: options.DiskBytes, Network: probedNetwork,
	})
}

func look(ctx context.Context, sb runtime.Sandbox, grant posture.Grant) ([]cli.ProbeRow, error) {
	var seen posture.Seen
	host, err := gvisor.HostFacts(sb)
	if err != nil {
		return nil, err
	}
	for _, f := range host {
		seen.Host = append(seen.Host, posture.Fact(f))
	}
	if seen.Inside, err = posture.Look(ctx, sb); err != nil {
		return nil, err
	}
	compared, err := posture.Compare(posture.List(), grant, seen)
	if err != nil {
		return nil, err
	}
	rows := make([]cli.ProbeRow, len(compared))
	for i, row := range compared {
		rows[i] = cli.ProbeRow(row)
	}
	return rows, nil
}
