package templates

import (
	"testing"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/preload"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

func TestSnapshotFor(t *testing.T) {
	template := Template{Snapshot: "bare", Preloads: []Preload{
		{Set: preload.Set{Modules: []string{"torch"}, Packages: []string{"torch"}}},
		{Set: preload.Set{Modules: []string{"numpy"}, Packages: []string{"numpy", "scipy"}, MinMemoryBytes: 256}, Snapshot: "loaded"},
	}}
	standard := runtime.Limits{MemoryBytes: 1024, MilliCPUs: 1000, DiskBytes: 4096}
	with := func(change func(*runtime.Limits)) runtime.Limits {
		l := standard
		change(&l)
		return l
	}
	for name, tc := range map[string]struct {
		language agentsandbox.Language
		code     string
		limits   runtime.Limits
		want     string
	}{
		"an import of the set":      {agentsandbox.Python, "import scipy", standard, "loaded"},
		"another import":            {agentsandbox.Python, "import json", standard, "bare"},
		"another language":          {agentsandbox.Bash, "import scipy", standard, "bare"},
		"a set without a snapshot":  {agentsandbox.Python, "import torch", standard, "bare"},
		"another amount of memory":  {agentsandbox.Python, "import scipy", with(func(l *runtime.Limits) { l.MemoryBytes = 256 }), "loaded"},
		"no limit of memory":        {agentsandbox.Python, "import scipy", with(func(l *runtime.Limits) { l.MemoryBytes = 0 }), "loaded"},
		"too little memory":         {agentsandbox.Python, "import scipy", with(func(l *runtime.Limits) { l.MemoryBytes = 255 }), "bare"},
		"other processors":          {agentsandbox.Python, "import scipy", with(func(l *runtime.Limits) { l.MilliCPUs = 2000 }), "bare"},
		"another size of the disk":  {agentsandbox.Python, "import scipy", with(func(l *runtime.Limits) { l.DiskBytes = 8192 }), "bare"},
		"another number of threads": {agentsandbox.Python, "import scipy", with(func(l *runtime.Limits) { l.Tasks = 7 }), "loaded"},
	} {
		if got := template.SnapshotFor(tc.language, tc.code, tc.limits, standard); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}
