package main

import (
	"context"

	"github.com/agentsandbox/agentsandbox/cmd/agentsandbox/cli"
	"github.com/agentsandbox/agentsandbox/internal/config"
	"github.com/agentsandbox/agentsandbox/internal/runtime/gvisor"
	"github.com/agentsandbox/agentsandbox/internal/runtime/gvisor/hostcheck"
)

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
