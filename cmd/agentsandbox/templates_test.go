package main

import (
	"testing"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/config"
	"github.com/agentsandbox/agentsandbox/internal/pool"
	"github.com/agentsandbox/agentsandbox/internal/template"
)

// TestPreloadSetting checks what the setting "preload" switches: whether one-shot
// runs start with modules loaded. Which modules a session loads, it leaves alone.
func TestPreloadSetting(t *testing.T) {
	def := template.Default()
	bare, loaded := def.Snapshot(), def.SnapshotWith("data")
	for _, tc := range []struct {
		preload string
		stocks  []pool.Stock
		start   string
	}{
		{"data", []pool.Stock{{Snapshot: bare, Size: 3}, {Snapshot: loaded, Size: 2, Reserve: 128 << 20, Instead: bare}}, loaded},
		{"none", []pool.Stock{{Snapshot: bare, Size: 3}}, bare},
	} {
		cfg := config.Config{Preload: tc.preload, PoolSize: 3, PoolDataSize: 2, DefaultMemoryMB: 1024}
		got := stocks(cfg, def)
		if len(got) != len(tc.stocks) {
			t.Fatalf("%s: %+v", tc.preload, got)
		}
		for i, want := range tc.stocks {
			if got[i] != want {
				t.Errorf("%s: %+v, want %+v", tc.preload, got[i], want)
			}
		}
		tpl, err := engineTemplates(cfg, def).Template(template.DefaultName)
		if err != nil {
			t.Fatal(err)
		}
		l := engineLimits(cfg).Default()
		if got := tpl.SnapshotFor(agentsandbox.Python, "import scipy.stats", l, l); got != tc.start {
			t.Errorf("%s: a run starts from %q, want %q", tc.preload, got, tc.start)
		}
		if p := tpl.PreloadFor(agentsandbox.Python, "import numpy"); len(p.Modules) == 0 {
			t.Errorf("%s: a session loads nothing ahead", tc.preload)
		}
	}
}
