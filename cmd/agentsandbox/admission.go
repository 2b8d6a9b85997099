package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/agentsandbox/agentsandbox/internal/config"
	"github.com/agentsandbox/agentsandbox/internal/engine/quota"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
	"github.com/agentsandbox/agentsandbox/internal/pool"
)

// memoryWall is the limit for all sandboxes together, in bytes.
func memoryWall(cfg config.Config) int64 { return pool.Wall(cfg.HostMemoryMB << 20) }

// stockMemory is what warm sandboxes beyond the configured ones may reserve, in
// bytes. Who wants no warm sandboxes gets none.
func stockMemory(cfg config.Config) int64 {
	if cfg.PoolSize == 0 {
		return 0
	}
	return (cfg.HostMemoryMB << 20) / 100 * int64(cfg.PoolMemoryPercent)
}

func quotas(cfg config.Config) quota.Limits {
	return quota.Limits{Sessions: cfg.TenantMaxSessions, Files: cfg.TenantMaxFiles, Bytes: cfg.TenantMaxBytes, Output: cfg.TenantMaxOutputBytes}
}

// rates are what one key may ask for. Its requests take no more than half of the
// connections.
func rates(cfg config.Config, connections int) edge.Rates {
	requests := connections / 2
	if n := cfg.MaxRequestsPerKey; n > 0 {
		requests = min(n, requests)
	}
	return edge.Rates{PerSecond: cfg.RatePerSecond, Burst: cfg.RateBurst, Requests: requests, Executions: cfg.MaxExecutionsPerKey}
}

// admissionMetrics show how full the server is.
func admissionMetrics(p *pool.Pool, r machine, cfg config.Config) []prometheus.Collector {
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "agentsandbox", Name: name, Help: help}, value)
	}
	counter := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "agentsandbox", Name: name, Help: help}, value)
	}
	return []prometheus.Collector{
		gauge("memory_budget_bytes", "Memory that all sandboxes together may reserve.", func() float64 { return float64(p.Stats().Budget) }),
		gauge("memory_reserved_bytes", "Memory that live sandboxes and those being made reserve.", func() float64 { return float64(p.Stats().Reserved) }),
		gauge("memory_wall_bytes", "Limit of the control group over all sandboxes.", func() float64 { return float64(memoryWall(cfg)) }),
		gauge("memory_used_bytes", "Memory that all sandboxes use, without what is cached of files.", func() float64 {
			n, err := r.MemoryUse(0)
			if err != nil {
				return -1
			}
			return float64(n)
		}),
		counter("evictions_total", "Sandboxes that were ended because all together used up the memory.", func() float64 { return float64(p.Stats().Evictions) }),
		counter("claims_refused_total", "Requests for a sandbox that were refused for want of room.", func() float64 { return float64(p.Stats().Refusals) }),
	}
}
