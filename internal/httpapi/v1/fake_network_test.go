package v1

import (
	"context"
	"net"
	"slices"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

func (f *fake) SetNetwork(ctx context.Context, id string, policy agentsandbox.NetworkPolicy) (*agentsandbox.Session, error) {
	unlock, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := policy.Validate(); err != nil {
		return nil, err
	}
	s, err := f.session(id)
	if err != nil {
		return nil, err
	}
	s.Network = &policy
	return s, nil
}

func (f *fake) NetworkReport(ctx context.Context, id string) (*agentsandbox.NetworkReport, error) {
	unlock, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	s, err := f.session(id)
	if err != nil {
		return nil, err
	}
	return &agentsandbox.NetworkReport{
		Policy: *s.Network, Device: true, Connections: 3, Open: 1, BytesIn: 1 << 20, BytesOut: 2048, Queries: 2,
		Refusals: map[string]int64{"not_allowed": 1}, Names: map[string]int64{"api.example.org": 1, "other.example": 1},
		Log: []agentsandbox.NetworkEntry{
			{At: fakeTime, Count: 3, Kind: "tls", Name: "api.example.org", Address: "203.0.113.7", Port: 443, Verdict: "allowed", Reason: "allowed", Rule: "session allow *.example.org:443"},
			{At: fakeTime.Add(time.Second), Count: 1, Kind: "dns", Name: "other.example", Verdict: "refused", Reason: "not_allowed", Rule: "in no allow-list of the session"},
		},
	}, nil
}

func (f *fake) OpenPort(ctx context.Context, id string, port uint16, lifeMS int64) (*agentsandbox.OpenPort, error) {
	unlock, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := agentsandbox.ValidatePort(port, lifeMS); err != nil {
		return nil, err
	}
	if _, err := f.session(id); err != nil {
		return nil, err
	}
	opened := agentsandbox.OpenPort{Port: port, Path: "/p/TOKEN/", ExpiresAt: fakeTime.Add(time.Hour)}
	f.ports[id] = append(f.ports[id], opened)
	return &opened, nil
}

func (f *fake) OpenPorts(ctx context.Context, id string) ([]agentsandbox.OpenPort, error) {
	unlock, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := f.session(id); err != nil {
		return nil, err
	}
	return f.ports[id], nil
}

func (f *fake) ClosePort(ctx context.Context, id string, port uint16) error {
	unlock, err := f.enter(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := f.session(id); err != nil {
		return err
	}
	at := slices.IndexFunc(f.ports[id], func(p agentsandbox.OpenPort) bool { return p.Port == port })
	if at < 0 {
		return agentsandbox.Errorf(agentsandbox.CodePortNotFound, "Port %d of the session %s has no valid URL.", port, id)
	}
	f.ports[id] = slices.Delete(f.ports[id], at, at+1)
	return nil
}

// DialPort reaches dialled, if it is set.
func (f *fake) DialPort(ctx context.Context, id string, port uint16) (net.Conn, error) {
	unlock, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if f.dialled == nil {
		return nil, agentsandbox.Errorf(agentsandbox.CodePortNotReached, "Nobody listens on port %d of the session %s.", port, id)
	}
	return f.dialled(ctx)
}
