package sessions

import (
	"context"
	"errors"

	"github.com/agentsandbox/agentsandbox"
)

// SetNetwork implements agentsandbox.SessionService.
func (r *Registry) SetNetwork(ctx context.Context, id string, policy agentsandbox.NetworkPolicy) (*agentsandbox.Session, error) {
	err := r.inSession(ctx, id, "setNetwork", func(ctx context.Context, s *session) error {
		if err := r.network.Check(s.info.Template, &policy); err != nil {
			return err
		}
		return r.replaceNetwork(ctx, s, policy)
	})
	if err != nil {
		return nil, err
	}
	return r.Session(ctx, id)
}

func (r *Registry) replaceNetwork(ctx context.Context, s *session, policy agentsandbox.NetworkPolicy) error {
	if !r.network.HasDevice(s.sandbox.ID()) && !r.supply.Isolated(s.info.Template, &policy) {
		return noDevice(s)
	}
	s.networking.Lock()
	defer s.networking.Unlock()
	r.mu.Lock()
	before := s.info.Network
	r.mu.Unlock()
	// In force first: whoever is told that the policy holds must find that it does.
	err := r.network.Apply(s.sandbox.ID(), s.info.Template, &policy, s.secrets)
	if err == nil {
		err = r.store.SetNetwork(ctx, s.info.ID, &policy)
	}
	if err != nil {
		return errors.Join(err, r.network.Apply(s.sandbox.ID(), s.info.Template, before, s.secrets))
	}
	r.mu.Lock()
	s.info.Network = &policy
	r.mu.Unlock()
	if r.supply.Isolated(s.info.Template, &policy) {
		r.endConns(errNetworkOff, func(c *portConn) bool { return c.visit.session == s })
	}
	return nil
}

func noDevice(s *session) error {
	return agentsandbox.Errorf(agentsandbox.CodeConflict, "The session %s was made without a network device, and can get none. Create a new one.", s.info.ID)
}

// NetworkReport implements agentsandbox.SessionService.
func (r *Registry) NetworkReport(ctx context.Context, id string) (*agentsandbox.NetworkReport, error) {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, err
	}
	s, err := r.live(ctx, p.Tenant, id)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	asked := s.info.Network
	r.mu.Unlock()
	report := r.network.Report(s.sandbox.ID())
	report.Policy = *r.supply.Policy(s.info.Template, asked)
	return &report, nil
}
