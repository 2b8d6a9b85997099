package sessions

import (
	"cmp"
	"context"
	"errors"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/engine/limits"
	"github.com/agentsandbox/agentsandbox/internal/engine/supply"
)

// CreateSession implements agentsandbox.SessionService.
func (r *Registry) CreateSession(ctx context.Context, req agentsandbox.SessionRequest) (*agentsandbox.Session, error) {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, err
	}
	if err := req.Validate(); err != nil {
		return nil, err
	}
	if err := r.limits.Check(limits.Requested{
		TimeoutMS: req.TimeoutMS, MemoryMB: req.MemoryMB, CPUs: req.CPUs, Run: req.RunLimits, Disk: req.DiskLimits,
	}); err != nil {
		return nil, err
	}
	if err := r.checkLifetimes(req.IdleTimeoutMS, req.MaxLifetimeMS); err != nil {
		return nil, err
	}
	if err := r.network.Check(cmp.Or(req.Template, r.defaultTemplate), req.Network); err != nil {
		return nil, err
	}
	ctx, done, err := r.work.Begin(ctx, "createSession")
	if err != nil {
		return nil, err
	}
	defer done()
	defer r.files.Pin(req.FileIDs)()
	files, err := r.files.Find(ctx, p.Tenant, req.FileIDs)
	if err != nil {
		return nil, err
	}
	info := agentsandbox.Session{
		ID: agentsandbox.NewID(agentsandbox.SessionPrefix), Tenant: p.Tenant, Status: agentsandbox.SessionCreating,
		Template: cmp.Or(req.Template, r.defaultTemplate), Env: req.Env, Metadata: req.Metadata,
		TimeoutMS: cmp.Or(req.TimeoutMS, r.limits.DefaultTimeout.Milliseconds()),
		MemoryMB:  cmp.Or(req.MemoryMB, r.limits.DefaultMemoryMB),
		CPUs:      cmp.Or(req.CPUs, r.limits.DefaultCPUs),
		CreatedAt: r.now(), Network: req.Network,
		CollectIgnored: *cmp.Or(req.CollectIgnored, &r.limits.Collect.Ignored),
	}
	secrets, sealedSecrets, err := r.bindSecrets(info.ID, req.Secrets)
	if err != nil {
		return nil, err
	}
	info.Secrets = withoutValues(secrets)
	info.RunLimits, info.DiskLimits = r.limits.Session(req.RunLimits, req.DiskLimits)
	r.setLifetimes(&info, req)
	insert := func(ctx context.Context) error { return r.store.InsertSession(ctx, info, sealedSecrets) }
	if err := r.quotas.AddSession(ctx, p.Tenant, insert); err != nil {
		return nil, err
	}
	if err := r.bringUp(ctx, supply.OwnerOf(p), &info, secrets, files); err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
		defer cancel()
		if merr := r.store.MoveSession(undo, info.ID, agentsandbox.SessionDeleted, r.now()); merr != nil {
			r.log.Error("a session that failed to start could not be marked deleted", "session", info.ID, "error", merr)
		}
		return nil, err
	}
	info.Network = r.supply.Policy(info.Template, info.Network)
	return &info, nil
}

// bringUp gives a session its sandbox and makes it live. After an error nothing
// of it is left but its row.
func (r *Registry) bringUp(ctx context.Context, owner supply.Owner, info *agentsandbox.Session, secrets []agentsandbox.BoundSecret, files []agentsandbox.File) error {
	template, err := r.templates.Template(info.Template)
	if err != nil {
		return err
	}
	sb, err := r.supply.Claim(ctx, supply.Request{
		Owner: owner, Template: info.Template, Snapshot: template.Snapshot, Limits: r.limits.Sandbox(info.MemoryMB, info.CPUs, info.DiskMB),
		Policy: info.Network, Secrets: secrets,
	})
	if err != nil {
		return err
	}
	live := false
	defer func() {
		if !live {
			r.supply.DestroyLater(sb)
		}
	}()
	if err := r.files.Inject(ctx, sb, files); err != nil {
		return err
	}
	if err := r.store.BindSession(ctx, info.ID, sb.ID()); err != nil {
		return err
	}
	err = r.store.MoveSession(ctx, info.ID, agentsandbox.SessionLive, r.now())
	if refused := (*agentsandbox.SessionMoveError)(nil); errors.As(err, &refused) {
		return agentsandbox.Errorf(agentsandbox.CodeConflict, "The session %s was ended while it was being created.", info.ID)
	}
	if err != nil {
		return err
	}
	info.Status = agentsandbox.SessionLive
	added := r.add(*info, sb, secrets, nil)
	r.watchers.Go(func() { r.watch(added) })
	live = true
	return nil
}
