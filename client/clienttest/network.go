package clienttest

import (
	"context"
	"io"
	"net"
	"slices"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

// EchoPort is the port of every session on which something listens: it sends
// back what it gets.
const EchoPort = 7

// SetNetwork remembers the policy.
func (s *Service) SetNetwork(_ context.Context, id string, policy agentsandbox.NetworkPolicy) (*agentsandbox.Session, error) {
	if err := policy.Validate(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	session, err := s.session(id)
	if err != nil {
		return nil, err
	}
	session.Network = &policy
	shown := *session
	return &shown, nil
}

// NetworkReport tells of one connection and one refusal.
func (s *Service) NetworkReport(_ context.Context, id string) (*agentsandbox.NetworkReport, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	session, err := s.session(id)
	if err != nil {
		return nil, err
	}
	policy := agentsandbox.NetworkPolicy{Mode: agentsandbox.NetworkPublic}
	if session.Network != nil {
		policy = *session.Network
	}
	return &agentsandbox.NetworkReport{
		Policy: policy, Device: true, Connections: 1, Open: 1, BytesIn: 2048, BytesOut: 10, Queries: 1, LogLeftOut: 3,
		Refusals: map[string]int64{"range": 2}, Names: map[string]int64{"example.org": 1}, NamesLeftOut: 4,
		Log: []agentsandbox.NetworkEntry{
			{At: Epoch, Count: 1, Kind: "dns", Name: "example.org", Verdict: "allowed", Reason: "allowed", Rule: "public"},
			{At: Epoch, Count: 2, Kind: "tcp", Address: "10.0.0.1", Port: 80, Verdict: "refused", Reason: "range", Rule: "private address"},
		},
	}, nil
}

// OpenPort remembers an open port.
func (s *Service) OpenPort(_ context.Context, id string, port uint16, lifeMS int64) (*agentsandbox.OpenPort, error) {
	if err := agentsandbox.ValidatePort(port, lifeMS); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.session(id); err != nil {
		return nil, err
	}
	if lifeMS == 0 {
		lifeMS = agentsandbox.DefaultPortLife
	}
	opened := agentsandbox.OpenPort{Port: port, Path: "/p/TOKEN/", ExpiresAt: Epoch.Add(time.Duration(lifeMS) * time.Millisecond)}
	if s.ports == nil {
		s.ports = map[string][]agentsandbox.OpenPort{}
	}
	s.ports[id] = append(s.ports[id], opened)
	return &opened, nil
}

// OpenPorts lists what OpenPort remembers.
func (s *Service) OpenPorts(_ context.Context, id string) ([]agentsandbox.OpenPort, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.session(id); err != nil {
		return nil, err
	}
	return slices.Clone(s.ports[id]), nil
}

// ClosePort forgets an open port.
func (s *Service) ClosePort(_ context.Context, id string, port uint16) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.session(id); err != nil {
		return err
	}
	at := slices.IndexFunc(s.ports[id], func(p agentsandbox.OpenPort) bool { return p.Port == port })
	if at < 0 {
		return agentsandbox.Errorf(agentsandbox.CodePortNotFound, "Port %d of the session %s has no valid URL.", port, id)
	}
	s.ports[id] = slices.Delete(s.ports[id], at, at+1)
	return nil
}

// DialPort reaches EchoPort.
func (s *Service) DialPort(_ context.Context, id string, port uint16) (net.Conn, error) {
	s.mu.Lock()
	_, err := s.session(id)
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if port != EchoPort {
		return nil, agentsandbox.Errorf(agentsandbox.CodePortNotReached, "Nobody listens on port %d of the session %s.", port, id)
	}
	outside, inside := net.Pipe()
	go func() {
		_, _ = io.Copy(inside, inside)
		_ = inside.Close()
	}()
	return outside, nil
}

func withoutValues(secrets []agentsandbox.Secret) []agentsandbox.Secret {
	shown := slices.Clone(secrets)
	for i := range shown {
		shown[i].Value = agentsandbox.SecretValue{}
	}
	return shown
}
