// Package templates is what sessions and runs know of templates: from which snapshots
// their sandboxes start, and what can be loaded ahead. How an image is built is not its
// business.
package templates

import (
	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/preload"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// Source has the templates of a server.
type Source interface {
	// Template returns a template by its name. One that the server does not have
	// is an *agentsandbox.Error of code invalid_request.
	Template(name string) (Template, error)
}

// Template is what sessions and runs know of a template.
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

// Map is a Source that has its templates by name.
type Map map[string]Template

// Template implements Source.
func (m Map) Template(name string) (Template, error) {
	t, ok := m[name]
	if !ok {
		return Template{}, agentsandbox.Invalid("template", "%q is not a template of this server.", name)
	}
	return t, nil
}

// PreloadFor finds the set that code has use of; the zero value if there is none.
func (t Template) PreloadFor(language agentsandbox.Language, code string) Preload {
	for _, p := range t.Preloads {
		if p.Helps(language, code) {
			return p
		}
	}
	return Preload{}
}

// SnapshotFor names the snapshot in which code starts soonest. Snapshots with a
// set loaded are used with the server's standard processors and disk only: for
// others, one would have to be made first, which takes longer than it saves.
func (t Template) SnapshotFor(language agentsandbox.Language, code string, limits, standard runtime.Limits) string {
	if limits.MilliCPUs != standard.MilliCPUs || limits.DiskBytes != standard.DiskBytes {
		return t.Snapshot
	}
	p := t.PreloadFor(language, code)
	if p.Snapshot == "" || limits.MemoryBytes > 0 && limits.MemoryBytes < p.MinMemoryBytes {
		return t.Snapshot
	}
	return p.Snapshot
}
