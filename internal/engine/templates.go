package engine

import (
	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/preload"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// Template is what the engine knows of a template.
type Template struct {
	// Snapshot names what its sandboxes start from with nothing loaded ahead.
	Snapshot string
	// Preloads are what its interpreters can have loaded before code comes.
	Preloads []Preload
}

// Preload is a set of modules, and what it is loaded in.
type Preload struct {
	preload.Set
	// Snapshot names what sandboxes start from with the set loaded; empty: there is
	// none, and only sandboxes that run more than once load the set.
	Snapshot string
}

// TemplateMap is Templates by name.
type TemplateMap map[string]Template

// Template implements Templates.
func (m TemplateMap) Template(name string) (Template, error) {
	t, ok := m[name]
	if !ok {
		return Template{}, agentsandbox.Invalid("template", "%q is not a template of this server.", name)
	}
	return t, nil
}

// preloadFor finds the set that code has use of; the zero value if there is none.
func (t Template) preloadFor(language agentsandbox.Language, code string) Preload {
	for _, p := range t.Preloads {
		if p.Helps(language, code) {
			return p
		}
	}
	return Preload{}
}

// snapshotFor names the snapshot in which code starts soonest. Snapshots with a
// set loaded are used with the server's standard processors and disk only: for
// others, one would have to be made first, which takes longer than it saves.
func (t Template) snapshotFor(language agentsandbox.Language, code string, limits, standard runtime.Limits) string {
	if limits.MilliCPUs != standard.MilliCPUs || limits.DiskBytes != standard.DiskBytes {
		return t.Snapshot
	}
	p := t.preloadFor(language, code)
	if p.Snapshot == "" || limits.MemoryBytes > 0 && limits.MemoryBytes < p.MinMemoryBytes {
		return t.Snapshot
	}
	return p.Snapshot
}
