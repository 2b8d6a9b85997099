package cgroup

import (
	"fmt"
	"testing"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

func TestLimitsAreReadAsTheyWereSet(t *testing.T) {
	for version, files := range map[int]map[string]string{1: filesV1, 2: filesV2} {
		t.Run(fmt.Sprintf("version %d", version), func(t *testing.T) {
			g, _ := fakeGroup(t, version, files)
			for _, want := range []runtime.Limits{
				{}, {MemoryBytes: 256 << 20, MilliCPUs: 1500, Tasks: 77}, {MemoryBytes: 1 << 30}, {MilliCPUs: 100}, {Tasks: 3},
			} {
				if err := g.SetLimits(want); err != nil {
					t.Fatal(err)
				}
				if got, err := g.Limits(); err != nil || got != want {
					t.Errorf("got %+v, %v, want %+v", got, err, want)
				}
			}
		})
	}
	g, _ := fakeGroup(t, 2, map[string]string{"pids.max": "7\n", "memory.max": "much\n", "cpu.max": "1\n"})
	if l, err := g.Limits(); err == nil {
		t.Errorf("a text that is no number became %+v", l)
	}
}
