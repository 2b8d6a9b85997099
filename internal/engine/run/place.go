package run

import (
	"context"
	"errors"
	"maps"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/engine/limits"
	"github.com/agentsandbox/agentsandbox/internal/engine/sessions"
	"github.com/agentsandbox/agentsandbox/internal/engine/supply"
	"github.com/agentsandbox/agentsandbox/internal/engine/work"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// placement is where a run takes place: a session, or a sandbox of its own.
type placement struct {
	visit   *sessions.Visit // nil: the sandbox is the run's own
	sandbox runtime.Sandbox
	env     map[string]string
	bounds  limits.Bounds
	// network is what a sandbox of the run's own may reach.
	network *agentsandbox.NetworkPolicy
	// release ends the visit, or the sandbox. It can be repeated.
	release func()
}

// place finds the sandbox of a run. The context is the run's from here on: it ends with
// its session, too. The caller releases the placement.
func (s *Supervisor) place(ctx context.Context, a *admitted) (context.Context, *Run, error) {
	rec := agentsandbox.Execution{
		ID: agentsandbox.NewID(agentsandbox.ExecutionPrefix), Tenant: a.principal.Tenant,
		SessionID: a.SessionID, Ephemeral: a.SessionID == "",
		Language: a.Language, Code: a.Code, Status: agentsandbox.StatusRunning,
		Endpoint: a.Endpoint, Method: a.Method, Meta: a.Meta, Metadata: a.Metadata,
	}
	var where *placement
	var err error
	if rec.Ephemeral {
		rec.SessionID = agentsandbox.NewID(agentsandbox.SessionPrefix)
		where, err = s.placeAlone(ctx, a, rec.ID)
	} else {
		ctx, where, err = s.placeInSession(ctx, a)
	}
	if err != nil {
		return nil, nil, err
	}
	log, err := s.logs.Create(rec.ID, where.bounds.Output)
	if err != nil {
		where.release()
		return nil, nil, err
	}
	rec.CreatedAt = s.now()
	return ctx, &Run{placement: where, s: s, record: rec, files: a.files, log: log, over: make(chan struct{})}, nil
}

func (s *Supervisor) placeInSession(ctx context.Context, a *admitted) (context.Context, *placement, error) {
	ctx, v, err := s.sessions.Visit(ctx, a.principal.Tenant, a.SessionID, "execute")
	if err != nil {
		return nil, nil, err
	}
	return ctx, &placement{
		visit: v, sandbox: v.Sandbox(), release: v.Leave,
		env:    mergeEnv(mergeEnv(s.env, v.Env()), a.Env),
		bounds: s.limits.Bounds(a.ExecuteRequest, v.Info()),
	}, nil
}

func (s *Supervisor) placeAlone(ctx context.Context, a *admitted, id string) (*placement, error) {
	template, err := s.templates.Template(s.template)
	if err != nil {
		return nil, err
	}
	l := s.limits.Sandbox(a.MemoryMB, a.CPUs, a.DiskMB)
	sb, err := s.supply.Claim(ctx, supply.Request{
		Owner: supply.OwnerOf(a.principal), Template: s.template,
		Snapshot: template.SnapshotFor(a.Language, a.Code, l, s.limits.Default()), Limits: l, Policy: a.Network,
	})
	if err != nil {
		return nil, err
	}
	s.egress.WatchRun(sb.ID(), a.principal.Tenant, id)
	return &placement{
		sandbox: sb, release: func() { s.supply.DestroyLater(sb) },
		env: mergeEnv(s.env, a.Env), network: a.Network,
		bounds: s.limits.Bounds(a.ExecuteRequest, agentsandbox.Session{
			DiskLimits: a.DiskLimits, CollectIgnored: s.limits.Collect.Ignored,
		}),
	}, nil
}

// endCause is why the run has to end; nil: it need not.
func (p *placement) endCause(ctx context.Context) error {
	if p.visit != nil {
		if cause := p.visit.EndCause(); cause != nil {
			return cause
		}
	}
	return context.Cause(ctx)
}

// explain maps an error to the reason that the session ended.
func (p *placement) explain(err error) error {
	if p.visit == nil {
		return err
	}
	return p.visit.ExplainEnd(err)
}

// sessionStatus is what became of the session of the run; empty if it has none.
func (p *placement) sessionStatus() agentsandbox.SessionStatus {
	if p.visit == nil {
		return ""
	}
	return p.visit.Status()
}

// survivesShutdown tells whether a run that has begun is left to the next server: one in
// a session, and one that is followed already, so that no request waits for it.
func (r *Run) survivesShutdown(ctx context.Context) bool {
	return (r.visit != nil && r.handle != nil || r.resumed) && errors.Is(r.endCause(ctx), work.ErrLeaving)
}

// mergeEnv adds variables to others, which they replace.
func mergeEnv(base, added map[string]string) map[string]string {
	if len(added) == 0 {
		return base
	}
	env := make(map[string]string, len(base)+len(added))
	maps.Copy(env, base)
	maps.Copy(env, added)
	return env
}
