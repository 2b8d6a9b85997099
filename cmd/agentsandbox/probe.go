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
	"github.com/agentsandbox/agentsandbox/internal/egress/border"
	"github.com/agentsandbox/agentsandbox/internal/egress/firewall"
	"github.com/agentsandbox/agentsandbox/internal/posture"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
	"github.com/agentsandbox/agentsandbox/internal/runtime/gvisor"
)

// probedNetworks are the modes of the network of the sandboxes that are looked
// at: without a device, and with what a server gives by default. The settings do
// not count: what an operator opens is no promise that can be checked.
var probedNetworks = []string{config.EgressOff, config.EgressPublic}

// probe makes a sandbox for each mode of the network, with the limits that the
// settings give by default, looks at it from both sides, and removes every trace
// of it. A server may run meanwhile: nothing is shared with it but the cache
// directory.
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
	server, err := firewall.ParseServer(config.EgressPublic, nil, nil, nil)
	if err != nil {
		return nil, err
	}
	network, err := border.New(border.Options{Server: server, Logger: log})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, network.Close()) }()
	options := gvisor.Options{
		StateDir: filepath.Join(state, sandboxesDir), CacheDir: cfg.CacheDir, Recipes: images.recipe,
		DiskBytes: cfg.DiskMB << 20, Platform: cfg.Platform, Network: network.Network(), Logger: log,
	}
	r, err := gvisor.New(options)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	limits := engineLimits(cfg).Default()
	snapshot := images.def.Snapshot()
	if _, err := r.Snapshots().Make(ctx, snapshot, limits, func(line string) { log.Info(line) }); err != nil {
		return nil, err
	}
	for _, mode := range probedNetworks {
		seen, err := probeOne(ctx, r, snapshot, network, posture.Grant{
			MemoryBytes: limits.MemoryBytes, WallBytes: gvisor.MemoryWall(limits.MemoryBytes), MilliCPUs: limits.MilliCPUs, Tasks: limits.Tasks,
			CPUs: gvisor.CPUs(limits), DiskBytes: options.DiskBytes, Network: mode,
		}, limits)
		if err != nil {
			return nil, fmt.Errorf("a sandbox with the network %s: %w", mode, err)
		}
		rows = append(rows, seen...)
	}
	return rows, nil
}

// probeOne looks at a sandbox with one mode of the network.
func probeOne(ctx context.Context, r *gvisor.Runtime, snapshot string, network *border.Border, grant posture.Grant, limits runtime.Limits) (rows []cli.ProbeRow, err error) {
	sb, err := r.Start(ctx, runtime.Spec{
		ID: agentsandbox.NewID(sandboxPrefix), Snapshot: snapshot, Limits: limits, Network: grant.Network != config.EgressOff,
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, sb.Destroy(context.WithoutCancel(ctx))) }()
	if err := network.Apply(sb.ID(), "", &agentsandbox.NetworkPolicy{Mode: agentsandbox.NetworkMode(grant.Network)}, nil); err != nil {
		return nil, err
	}
	return look(ctx, sb, grant)
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
		rows[i] = cli.ProbeRow{Network: grant.Network, Side: row.Side, Name: row.Name, Value: row.Value, Expected: row.Expected, OK: row.OK}
	}
	return rows, nil
}
