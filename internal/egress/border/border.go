// Package border joins the two halves of the sandboxes' network: the links, in
// which their packets end (egress), and the gates, which decide what becomes of
// their connections (egress/firewall).
//
// It owns which gate is whose: each sandbox with a device gets one that refuses
// everything, until [Border.Apply] puts a policy in force. It must not know
// sessions, stores or HTTP: what it is asked about are sandboxes, by id. A
// sandbox without a device is no failure: it reaches nothing, whatever it asks.
package border

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/egress"
	"github.com/agentsandbox/agentsandbox/internal/egress/firewall"
)

// ErrNoDevice says that a sandbox was made without a network device, and can get
// none any more.
var ErrNoDevice = errors.New("the sandbox has no network device")

// Options configure a Border.
type Options struct {
	// Server is what the operator allows at most.
	Server firewall.Server
	// Templates narrow that for the sandboxes of each.
	Templates map[string]*agentsandbox.NetworkPolicy
	// Firewall is what all gates share; its Log and Observer are set here.
	Firewall firewall.Config
	Logger   *slog.Logger
}

// Border is the network of all sandboxes of a server.
type Border struct {
	server firewall.Server
	// templates are what the server allows to those that are narrowed.
	templates map[string]firewall.Server
	fw        *firewall.Firewall
	gateway   *egress.Gateway
	closed    *firewall.Policy // refuses everything
	counts    *counts

	mu    sync.Mutex
	gates map[string]*gate
}

// gate forgets itself when its link closes.
type gate struct {
	*firewall.Gate
	forget func()
}

// Close implements io.Closer, for the link.
func (g *gate) Close() error {
	g.forget()
	return g.Gate.Close()
}

var (
	_ egress.Handler = (*gate)(nil)
	_ io.Closer      = (*gate)(nil)
)

// New makes a border without sandboxes.
func New(o Options) (*Border, error) {
	b := &Border{server: o.Server, templates: map[string]firewall.Server{}, gates: map[string]*gate{}, counts: newCounts()}
	var err error
	for name, policy := range o.Templates {
		if b.templates[name], err = o.Server.Narrowed(policy); err != nil {
			return nil, fmt.Errorf("egress_template: what the template %s may reach: %w", name, err)
		}
	}
	if b.closed, err = firewall.Narrow(firewall.Server{Mode: agentsandbox.NetworkOff}); err != nil {
		return nil, err
	}
	o.Firewall.Log, o.Firewall.Observer = o.Logger, b.counts
	b.fw = firewall.New(o.Firewall)
	b.gateway = egress.New(egress.Options{Handler: b.handler, Logger: o.Logger})
	return b, nil
}

// Network is where sandboxes get their links. A server whose mode is off has one
// too, for sandboxes from before.
func (b *Border) Network() *egress.Gateway { return b.gateway }

// Close closes every link.
func (b *Border) Close() error { return b.gateway.Close() }

// handler makes the gate of a sandbox that gets a link.
func (b *Border) handler(id string) egress.Handler {
	g := &gate{Gate: b.fw.Gate(id, b.closed, nil)}
	g.forget = func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.gates[id] == g {
			delete(b.gates, id)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.gates[id] = g
	return g
}

func (b *Border) gate(id string) *gate {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.gates[id]
}

// HasDevice tells whether a sandbox has a network device.
func (b *Border) HasDevice(id string) bool { return b.gate(id) != nil }

// of is what the server allows to a template; "" for none.
func (b *Border) of(template string) firewall.Server {
	if narrowed, ok := b.templates[template]; ok {
		return narrowed
	}
	return b.server
}

// Server is what the server allows to sandboxes of a template, or at all when that
// is "", but for what it denies.
func (b *Border) Server(template string) agentsandbox.NetworkPolicy { return b.of(template).Policy() }

// Check refuses a policy that asks for more than the server allows to a template:
// an *agentsandbox.Error of code invalid_request that names the entry.
func (b *Border) Check(template string, p *agentsandbox.NetworkPolicy) error {
	return b.of(template).Check(p)
}

// Apply puts a policy in force, nil for the template's own, and cuts what it does
// not allow; secrets are those of the sandbox, with their placeholders. Of a
// sandbox without a device it fails with ErrNoDevice, unless the policy is off.
// A policy that is more than the server allows by now reaches nothing, and is an
// error.
func (b *Border) Apply(id, template string, p *agentsandbox.NetworkPolicy, secrets []agentsandbox.BoundSecret) error {
	policy, err := firewall.Narrow(b.of(template), p)
	g := b.gate(id)
	if err != nil {
		if g != nil {
			g.SetPolicy(b.closed)
		}
		return err
	}
	if g == nil {
		if policy.Mode() == agentsandbox.NetworkOff {
			return nil
		}
		return fmt.Errorf("sandbox %s: %w", id, ErrNoDevice)
	}
	bound := make([]firewall.Secret, len(secrets))
	for i, s := range secrets {
		if bound[i], err = firewall.NewSecret(s.Secret, s.Placeholder); err != nil {
			g.SetPolicy(b.closed)
			return err
		}
	}
	g.SetSecrets(bound)
	g.SetPolicy(policy)
	return nil
}

// Report returns the totals and the log of a sandbox's network; that of one
// without a device is empty.
func (b *Border) Report(id string) agentsandbox.NetworkReport {
	g := b.gate(id)
	if g == nil {
		return agentsandbox.NetworkReport{}
	}
	s := g.Stats()
	r := agentsandbox.NetworkReport{
		Device: true, Connections: s.Connections, Open: s.Open, BytesIn: s.BytesIn, BytesOut: s.BytesOut,
		Queries: s.Queries, Names: s.Names, NamesLeftOut: s.NamesLeftOut, Refusals: map[string]int64{},
	}
	for reason, n := range s.Refusals {
		r.Refusals[string(reason)] = n
	}
	entries, gone := g.Log()
	r.LogLeftOut = gone
	r.Log = make([]agentsandbox.NetworkEntry, len(entries))
	for i, e := range entries {
		r.Log[i] = entry(e)
	}
	return r
}

// Dial opens a connection to a port of a sandbox.
func (b *Border) Dial(ctx context.Context, id string, port uint16) (net.Conn, error) {
	l := b.gateway.Link(id)
	if l == nil {
		return nil, fmt.Errorf("sandbox %s: %w", id, ErrNoDevice)
	}
	return l.Dial(ctx, port)
}
