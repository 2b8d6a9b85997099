package engine

import (
	"context"
	"errors"
	"net"

	"github.com/agentsandbox/agentsandbox"
)

// offline is the network of an engine that was given none.
type offline struct{}

var errOffline = errors.New("this server has no network for sandboxes")

func (offline) Server(string) agentsandbox.NetworkPolicy {
	return agentsandbox.NetworkPolicy{Mode: agentsandbox.NetworkOff}
}

func (offline) Check(_ string, p *agentsandbox.NetworkPolicy) error {
	if p != nil && p.Mode != "" && p.Mode != agentsandbox.NetworkOff {
		return agentsandbox.Invalid("network.mode", "%s is more than is allowed here: the most is off.", p.Mode)
	}
	return nil
}

func (offline) Apply(string, string, *agentsandbox.NetworkPolicy, []agentsandbox.BoundSecret) error {
	return nil
}
func (offline) HasDevice(string) bool                    { return false }
func (offline) Report(string) agentsandbox.NetworkReport { return agentsandbox.NetworkReport{} }
func (offline) Refusals(string) func() ([]agentsandbox.NetworkRefusal, int64) {
	return nil
}
func (offline) Dial(context.Context, string, uint16) (net.Conn, error) {
	return nil, errOffline
}
