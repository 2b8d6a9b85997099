package main

import (
	"crypto/x509"
	"fmt"
	"os"
	"time"

	"github.com/agentsandbox/agentsandbox/internal/config"
	"github.com/agentsandbox/agentsandbox/internal/egress/border"
	"github.com/agentsandbox/agentsandbox/internal/egress/firewall"
	"github.com/agentsandbox/agentsandbox/internal/engine/sessions"
	"github.com/agentsandbox/agentsandbox/internal/template"
)

// openNetwork makes what the networks of sandboxes end in.
func (d *daemon) openNetwork() error {
	server, err := firewall.ParseServer(d.cfg.EgressMode, d.cfg.EgressAllow, d.cfg.EgressOpen, d.cfg.EgressDeny)
	if err != nil {
		return err
	}
	templates, err := firewall.ParseTemplates(d.cfg.EgressTemplate, template.DefaultName)
	if err != nil {
		return err
	}
	shared := firewall.Config{Limits: egressLimits(d.cfg)}
	if shared.Upstreams, err = d.cfg.Resolvers(); err != nil {
		return err
	}
	if shared.CA, shared.Roots, err = egressCA(d.cfg); err != nil {
		return err
	}
	if d.network, err = border.New(border.Options{Server: server, Templates: templates, Firewall: shared, Logger: d.log}); err != nil {
		return err
	}
	d.onClose(d.network.Close)
	return nil
}

// hasNetwork says whether sandboxes have a network device.
func hasNetwork(cfg config.Config) bool { return cfg.EgressMode != config.EgressOff }

// egressLimits bound what one sandbox may take of the network.
func egressLimits(cfg config.Config) firewall.Limits {
	unlimited := func(n int64) int64 {
		if n == 0 {
			return -1
		}
		return n
	}
	return firewall.Limits{
		Connections: cfg.EgressMaxConnections, Bytes: unlimited(cfg.EgressMaxBytes),
		BytesPerSecond: unlimited(cfg.EgressBytesPerSecond), Queries: cfg.EgressMaxQueries,
	}
}

// portLimits bound the connections to ports of sessions.
func portLimits(cfg config.Config) sessions.PortLimits {
	return sessions.PortLimits{
		PerSession: cfg.PortMaxConnections, PerKey: cfg.PortMaxConnectionsPerKey, PerURL: cfg.PortMaxConnectionsPerURL,
		Idle: time.Duration(cfg.PortIdleMS) * time.Millisecond,
	}
}

// egressCA reads the authority with which TLS is opened for secrets, nil without
// one, and the authorities that the servers behind it are held to: those that
// sandboxes trust, or else this machine's.
func egressCA(cfg config.Config) (*firewall.CA, *x509.CertPool, error) {
	if cfg.EgressCACert == "" {
		return nil, nil, nil
	}
	cert, err := os.ReadFile(cfg.EgressCACert)
	if err != nil {
		return nil, nil, fmt.Errorf("egress_ca_cert: %w", err)
	}
	key, err := os.ReadFile(cfg.EgressCAKey)
	if err != nil {
		return nil, nil, fmt.Errorf("egress_ca_key: %w", err)
	}
	ca, err := firewall.LoadCA(cert, key)
	if err != nil || cfg.CABundle == "" {
		return ca, nil, err
	}
	bundle, err := os.ReadFile(cfg.CABundle)
	if err != nil {
		return nil, nil, fmt.Errorf("ca_bundle: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bundle) {
		return nil, nil, fmt.Errorf("ca_bundle: %s has no certificate", cfg.CABundle)
	}
	return ca, roots, nil
}
