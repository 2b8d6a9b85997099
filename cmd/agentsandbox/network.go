package main

import (
	"github.com/agentsandbox/agentsandbox/internal/config"
	"github.com/agentsandbox/agentsandbox/internal/egress"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// openNetwork makes what the networks of sandboxes end in; nil where they have
// none.
func (d *daemon) openNetwork() runtime.Network {
	if !hasNetwork(d.cfg) {
		return nil
	}
	d.network = egress.New(egress.Options{
		Handler: func(string) egress.Handler { return egress.RefuseAll{} },
		Logger:  d.log,
	})
	d.onClose(d.network.Close)
	return d.network
}

// hasNetwork says whether sandboxes have a network device.
func hasNetwork(cfg config.Config) bool { return cfg.EgressMode != config.EgressOff }
