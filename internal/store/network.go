package store

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/agentsandbox/agentsandbox"
)

const (
	setNetwork = "UPDATE sessions SET network = ? WHERE id = ? AND ended_at IS NULL"
	setPorts   = "UPDATE sessions SET ports = ? WHERE id = ? AND ended_at IS NULL"
)

// SetNetwork replaces the policy of a session that has not ended. Codes:
// session_not_found, storage_full.
func (db *DB) SetNetwork(ctx context.Context, id string, policy *agentsandbox.NetworkPolicy) error {
	network, err := networkColumn(policy)
	if err != nil {
		return err
	}
	return db.setOfSession(ctx, setNetwork, network, id)
}

// SetPorts replaces the open ports of a session that has not ended. Codes:
// session_not_found, storage_full.
func (db *DB) SetPorts(ctx context.Context, id string, open []agentsandbox.OpenPort) error {
	ports, err := portsColumn(open)
	if err != nil {
		return err
	}
	return db.setOfSession(ctx, setPorts, ports, id)
}

func (db *DB) setOfSession(ctx context.Context, statement, value, id string) error {
	err := db.write(ctx, needsSpace, func(ctx context.Context, c *conn) error {
		n, err := c.exec(ctx, statement, value, id)
		if err == nil && n == 0 {
			err = notFound(agentsandbox.CodeSessionNotFound, "session", agentsandbox.SessionPrefix, id)
		}
		return err
	})
	return wrap(err, "store: network of session %s", id)
}

func networkColumn(policy *agentsandbox.NetworkPolicy) (string, error) {
	if policy == nil {
		return "", nil
	}
	b, err := json.Marshal(policy)
	if err != nil {
		return "", fmt.Errorf("store: network: %w", err)
	}
	return string(b), nil
}

func fromNetworkColumn(text string) (*agentsandbox.NetworkPolicy, error) {
	if text == "" {
		return nil, nil
	}
	policy := &agentsandbox.NetworkPolicy{}
	if err := json.Unmarshal([]byte(text), policy); err != nil {
		return nil, fmt.Errorf("store: a stored network policy: %w", err)
	}
	return policy, nil
}

func portsColumn(open []agentsandbox.OpenPort) (string, error) {
	if len(open) == 0 {
		return "[]", nil
	}
	b, err := json.Marshal(open)
	if err != nil {
		return "", fmt.Errorf("store: ports: %w", err)
	}
	return string(b), nil
}

func fromPortsColumn(text string) (open []agentsandbox.OpenPort, err error) {
	if text == "[]" {
		return nil, nil
	}
	if err := json.Unmarshal([]byte(text), &open); err != nil {
		return nil, fmt.Errorf("store: stored ports: %w", err)
	}
	return open, nil
}
