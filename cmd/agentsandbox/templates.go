package main

import (
	"github.com/agentsandbox/agentsandbox/internal/config"
	"github.com/agentsandbox/agentsandbox/internal/engine/templates"
	"github.com/agentsandbox/agentsandbox/internal/pool"
	"github.com/agentsandbox/agentsandbox/internal/template"
)

// loadsAhead tells whether a server makes snapshots with a set of modules loaded:
// the setting "preload" names the set.
func loadsAhead(cfg config.Config, set string) bool { return cfg.Preload == set }

// engineTemplates are the templates of a server as its engine knows them.
func engineTemplates(cfg config.Config, def template.Definition) templates.Map {
	t := templates.Template{Snapshot: def.Snapshot()}
	for _, set := range def.Preloads {
		p := templates.Preload{Set: set}
		if loadsAhead(cfg, set.Name) {
			p.Snapshot = def.SnapshotWith(set.Name)
		}
		t.Preloads = append(t.Preloads, p)
	}
	return templates.Map{def.Name: t}
}

// stocks are the snapshots of which a server keeps sandboxes warm.
func stocks(cfg config.Config, def template.Definition) []pool.Stock {
	all := []pool.Stock{{Snapshot: def.Snapshot(), Size: cfg.PoolSize}}
	for _, set := range def.Preloads {
		if loadsAhead(cfg, set.Name) {
			all = append(all, pool.Stock{
				Snapshot: def.SnapshotWith(set.Name), Size: cfg.PoolDataSize, Reserve: set.IdleBytes, Instead: def.Snapshot(),
			})
		}
	}
	return all
}
