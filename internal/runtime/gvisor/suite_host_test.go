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
