package gvisor

import (
	"testing"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
	"github.com/agentsandbox/agentsandbox/internal/runtime/runtimetest"
)

func TestSuite(t *testing.T) {
	runtimetest.Suite(t, func(t *testing.T) runtime.Sandbox {
		return newHost(t).start(testLimits)
	})
}

func TestSurvivalSuite(t *testing.T) {
	var h *host
	runtimetest.SurvivalSuite(t, func(t *testing.T) runtime.Sandbox {
		h = newHost(t)
		return h.start(testLimits)
	}, func(t *testing.T, sb runtime.Sandbox) runtime.Sandbox {
		sb.Release()
		found, err := h.Recover(t.Context(), []string{sb.ID()})
		must(t, err)
		if len(found.Adopted) != 1 || len(found.Destroyed) > 0 {
			t.Fatalf("recovered %+v\n%s", found, h.log)
		}
		return found.Adopted[0]
	})
}

func TestSnapshotSuite(t *testing.T) {
	runtimetest.SnapshotSuite(t, func(t *testing.T) runtimetest.Machine {
		return openHost(t, func(o *Options) { o.CacheDir = t.TempDir() })
	}, bareSnapshot)
}
