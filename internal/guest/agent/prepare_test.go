package agent

import (
	"errors"
	"strings"
	"testing"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

func TestPrepareSaysWhyNoInterpreterWaits(t *testing.T) {
	c := client(t, newAgent(t, func(o *Options) { o.Env = append(o.Env, "PYTHONHOME=/nowhere") }))
	if err := c.PrepareSnapshot(deadline(t), nil); !errors.Is(err, runtime.ErrNotStarted) || !strings.Contains(err.Error(), "encodings") {
		t.Errorf("PrepareSnapshot: %v", err)
	}
	c = client(t, newAgent(t, func(o *Options) { o.Python = "/nowhere/python3" }))
	if err := c.PrepareSnapshot(deadline(t), nil); !errors.Is(err, runtime.ErrNotStarted) || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("PrepareSnapshot: %v", err)
	}
}
