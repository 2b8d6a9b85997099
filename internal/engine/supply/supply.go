// Package supply hands out sandboxes with their network policy in force, and ends
// them. It knows neither runs nor sessions. What cannot be had is an error for the
// caller; what cannot be ended is logged, and stays on the runtime's records for the
// next start.
package supply

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/engine/work"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

const (
	destroyTimeout = 30 * time.Second
	destroyTries   = 3
)

// Pool hands out sandboxes that nobody used before.
type Pool interface {
	// Claim returns a sandbox of a snapshot with those limits in force; the caller
	// destroys it. Where the snapshot cannot be had, it may be one of another in
	// which the same code runs. It waits for one, in turn with others. Limits that
	// the server has no room for at all are an *agentsandbox.Error of code
	// invalid_request; a server that cannot make sandboxes, or has too many who
	// wait, one of code unavailable.
	Claim(ctx context.Context, owner Owner, snapshot string, limits runtime.Limits) (runtime.Sandbox, error)
	// ClaimIsolated is Claim of a sandbox without a network device.
	ClaimIsolated(ctx context.Context, owner Owner, snapshot string, limits runtime.Limits) (runtime.Sandbox, error)
}

// Owner is for whom a sandbox is claimed: a tenant, and the key that asks. Tenants
// take turns, whatever the number of their keys, and so do the keys of a tenant. It is
// an alias, so that a pool need not import this package.
type Owner = struct {
	Group, Name string
}

// OwnerOf is for whom a principal claims.
func OwnerOf(p agentsandbox.Principal) Owner { return Owner{Group: p.Tenant, Name: p.KeyID} }

// Network decides what sandboxes may reach.
type Network interface {
	// Server is what sandboxes of a template may reach of which nothing else is
	// asked; of the template "", what the server allows at all.
	Server(template string) agentsandbox.NetworkPolicy
	// Apply puts a policy in force, nil for the template's, and cuts what it does not
	// allow. Of a sandbox without a device it fails, unless the policy is off. After
	// an error nothing is reached any more.
	Apply(sandbox, template string, policy *agentsandbox.NetworkPolicy, secrets []agentsandbox.BoundSecret) error
}

// EgressAudit tells the audit log what sandboxes do with their network.
type EgressAudit interface {
	// Flush writes what is left to say of a sandbox. It can be repeated.
	Flush(sandbox string)
}

// Supply hands out sandboxes and ends them.
type Supply struct {
	pool    Pool
	network Network
	egress  EgressAudit
	work    *work.Group
	log     *slog.Logger
}

// New returns a supply from a pool.
func New(pool Pool, network Network, egress EgressAudit, group *work.Group, log *slog.Logger) *Supply {
	return &Supply{pool: pool, network: network, egress: egress, work: group, log: log}
}

// Request is what a sandbox is claimed for.
type Request struct {
	Owner Owner
	// Template is the one whose policy holds, and Snapshot one of the template's.
	Template string
	Snapshot string
	Limits   runtime.Limits
	Policy   *agentsandbox.NetworkPolicy // nil: the template's
	Secrets  []agentsandbox.BoundSecret
}

// Claim takes a sandbox with its policy in force. The caller destroys it.
func (s *Supply) Claim(ctx context.Context, r Request) (runtime.Sandbox, error) {
	claim := s.pool.Claim
	if s.Isolated(r.Template, r.Policy) && s.network.Server("").Mode != agentsandbox.NetworkOff {
		claim = s.pool.ClaimIsolated
	}
	sb, err := claim(ctx, r.Owner, r.Snapshot, r.Limits)
	if err != nil {
		return nil, err
	}
	if err := s.network.Apply(sb.ID(), r.Template, r.Policy, r.Secrets); err != nil {
		s.DestroyLater(sb)
		return nil, err
	}
	return sb, nil
}

// Policy is what a requested policy comes to in a template, for people.
func (s *Supply) Policy(template string, requested *agentsandbox.NetworkPolicy) *agentsandbox.NetworkPolicy {
	p := s.network.Server(template)
	if requested == nil {
		return &p
	}
	if requested.Mode != "" {
		p.Mode, p.Allow = requested.Mode, slices.Clone(requested.Allow)
	}
	p.Deny = slices.Clone(requested.Deny)
	return &p
}

// Isolated tells whether a sandbox for a policy needs no device at all.
func (s *Supply) Isolated(template string, requested *agentsandbox.NetworkPolicy) bool {
	return s.Policy(template, requested).Mode == agentsandbox.NetworkOff
}

// Destroy ends a sandbox, whatever became of the request. What cannot be destroyed
// is logged, and stays on the runtime's records, for the next start to recover.
func (s *Supply) Destroy(sb runtime.Sandbox) {
	defer s.egress.Flush(sb.ID())
	for range destroyTries {
		ctx, cancel := context.WithTimeout(context.Background(), destroyTimeout)
		err := sb.Destroy(ctx)
		cancel()
		if err == nil {
			return
		}
		s.log.Error("a sandbox could not be destroyed", "sandbox", sb.ID(), "error", err)
	}
}

// DestroyLater ends a sandbox beside the request that used it. The caller is
// registered work.
func (s *Supply) DestroyLater(sb runtime.Sandbox) {
	s.work.Go("clean-up", func() { s.Destroy(sb) })
}

// Release lets go of a sandbox that lives on for the next server.
func (s *Supply) Release(sb runtime.Sandbox) {
	s.egress.Flush(sb.ID())
	sb.Release()
}

// Evicted says why the pool ended a sandbox before anybody asked for that, in
// sentences for people; "" if it did not.
func Evicted(sb runtime.Sandbox) string {
	if s, ok := sb.(interface{ Evicted() string }); ok {
		return s.Evicted()
	}
	return ""
}
