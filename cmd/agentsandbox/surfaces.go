package main

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/ports"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/v1"
)

// surfaces puts the APIs of the server on one edge. Another one is a line more
// here: what a key may ask for is counted over all of them.
func (d *daemon) surfaces(registry *prometheus.Registry) (http.Handler, error) {
	open, err := ports.New(ports.Options{
		Dial: d.engine.DialToken, Host: d.cfg.PortsHost, PublicURL: d.cfg.PublicURL, Manner: v1.Manner(),
	})
	if err != nil {
		return nil, err
	}
	api, err := v1.New(v1.Options{
		Service: service{d.engine, d.keys, d.audit}, Ready: d.pool.Ready,
		Output: d.engine.Output, PortURL: open.URL, CodeBytes: d.cfg.MaxCodeBytes, Version: version,
	})
	if err != nil {
		return nil, err
	}
	return edge.New(edge.Options{
		Authenticate: d.keys.Authenticate,
		Idempotency:  d.requests,
		Audit:        d.audit.Append,
		AuditReady:   d.audit.Ready,
		Registry:     registry,
		Limits: edge.Limits{
			BodyBytes: d.cfg.MaxBodyBytes, UploadBytes: d.cfg.MaxUploadBytes, MemoryBytes: d.cfg.RequestMemoryMB << 20,
		},
		Rates:  rates(d.cfg, d.connections.Most()),
		Logger: d.log,
	}, open.Surface(), api)
}
