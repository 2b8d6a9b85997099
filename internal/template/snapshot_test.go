package template

import (
	"slices"
	"testing"

	"github.com/agentsandbox/agentsandbox/internal/preload"
)

func TestSnapshotsOfATemplate(t *testing.T) {
	def := Definition{Name: "mine", Preloads: []preload.Set{
		{Name: "data", Modules: []string{"numpy"}}, {Name: "web", Modules: []string{"flask", "jinja2"}},
	}}
	for name, want := range map[string][]string{
		def.Snapshot(): nil, def.SnapshotWith("data"): {"numpy"}, def.SnapshotWith("web"): {"flask", "jinja2"},
	} {
		if modules, ok := def.Modules(name); !ok || !slices.Equal(modules, want) {
			t.Errorf("%q: %q, %v", name, modules, ok)
		}
	}
	for _, name := range []string{"", "other", def.SnapshotWith(""), def.SnapshotWith("none"), "data"} {
		if modules, ok := def.Modules(name); ok {
			t.Errorf("%q is a snapshot of the template, with %q", name, modules)
		}
	}
	if name := def.SnapshotWith("data"); templateName.MatchString(name) {
		t.Errorf("a template can be called %q", name)
	}
}
