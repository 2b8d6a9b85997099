package main

import (
	"context"

	"github.com/agentsandbox/agentsandbox/cmd/agentsandbox/cli"
	"github.com/agentsandbox/agentsandbox/internal/config"
	"github.com/agentsandbox/agentsandbox/internal/runtime/gvisor"
	"github.com/agentsandbox/agentsandbox/internal/runtime/gvisor/hostcheck"
)

// left lists what servers have on this machine.
func left(ctx context.Context, end bool) ([]cli.Left, error) {
	found, err := gvisor.FindLeft(ctx, end)
	all := make([]cli.Left, len(found))
	for i, l := range found {
		all[i] = cli.Left{Name: l.Name, StateDir: l.StateDir, Owner: string(l.Owner), Sandboxes: l.Sandboxes, Ended: l.Ended}
	}
	return all, err
}

// check looks at this machine for doctor.
func check(ctx context.Context, cfg config.Config) (cli.Report, error) {
	var report cli.Report
	for _, f := range hostcheck.Check(ctx, hostcheck.Options{CacheDir: cfg.CacheDir, StateDir: cfg.DataDir}) {
		report.Findings = append(report.Findings, cli.Finding(f))
	}
	for _, p := range gvisor.Protections(cfg.Platform) {
		report.Protections = append(report.Protections, cli.Finding{Name: p.Name, OK: true, Detail: p.Detail})
	}
	return report, nil
}
