package engine

import (
	"maps"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// The least that a sandbox can be given and still start an interpreter.
const (
	minMemoryMB = 64
	minCPUs     = 0.1
)

// checkLimits refuses what a request asks for beyond the server's caps. Zero
// means that it does not ask.
func (e *Engine) checkLimits(timeoutMS, memoryMB int64, cpus float64) error {
	switch l := e.limits; {
	case timeoutMS > l.MaxTimeout.Milliseconds():
		return agentsandbox.Invalid("timeout_ms", "must be at most %d on this server, not %d.", l.MaxTimeout.Milliseconds(), timeoutMS)
	case memoryMB != 0 && (memoryMB < minMemoryMB || memoryMB > l.MaxMemoryMB):
		return agentsandbox.Invalid("memory_mb", "must be from %d to %d on this server, not %d.", minMemoryMB, l.MaxMemoryMB, memoryMB)
	case cpus != 0 && (cpus < minCPUs || cpus > l.MaxCPUs):
		return agentsandbox.Invalid("cpus", "must be from %g to %g on this server, not %g.", minCPUs, l.MaxCPUs, cpus)
	}
	return nil
}

// sandboxLimits fills in the server's defaults.
func (e *Engine) sandboxLimits(memoryMB int64, cpus float64) runtime.Limits {
	if memoryMB == 0 {
		memoryMB = e.limits.DefaultMemoryMB
	}
	if cpus == 0 {
		cpus = e.limits.DefaultCPUs
	}
	return e.limits.sandbox(memoryMB, cpus)
}

// timeout is the first of the limits that is set: the run's, the session's, the
// server's default.
func (e *Engine) timeout(ofRun, ofSession int64) time.Duration {
	for _, ms := range []int64{ofRun, ofSession} {
		if ms > 0 {
			return time.Duration(ms) * time.Millisecond
		}
	}
	return e.limits.DefaultTimeout
}

// mergeEnv adds the variables of one run to those of its session.
func mergeEnv(ofSession, ofRun map[string]string) map[string]string {
	if len(ofRun) == 0 {
		return ofSession
	}
	env := make(map[string]string, len(ofSession)+len(ofRun))
	maps.Copy(env, ofSession)
	maps.Copy(env, ofRun)
	return env
}
