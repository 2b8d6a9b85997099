package store

import (
	"context"

	"github.com/agentsandbox/agentsandbox"
)

const (
	bindSession    = "UPDATE sessions SET sandbox = ? WHERE id = ? AND ended_at IS NULL"
	leftSessions   = "SELECT tenant, id, status, sandbox, secrets, ports FROM sessions WHERE ended_at IS NULL ORDER BY seq"
	leftExecutions = "SELECT tenant, id, sandbox, plan FROM executions WHERE ended_at IS NULL ORDER BY seq"
)

// LeftSession is a session that has not ended, and what a later server needs to go on
// with it: the sandbox, empty if it has none yet, its secrets, sealed, and its open
// ports. It is an alias, so that whoever asks for it need
// not import this package.
type LeftSession = struct {
	Tenant, ID    string
	Status        agentsandbox.SessionStatus
	Sandbox       string
	SealedSecrets []byte
	Ports         []agentsandbox.OpenPort
}

// LeftExecution is a run that has not ended, its sandbox, and what was noted to attach
// to it. It is an alias, like LeftSession.
type LeftExecution = struct {
	Tenant, ID, Sandbox string
	AttachInfo          []byte
}

// BindSession notes the sandbox of a session that has not ended. Codes:
// session_not_found, storage_full.
func (db *DB) BindSession(ctx context.Context, id, sandbox string) error {
	err := db.write(ctx, needsSpace, func(ctx context.Context, c *conn) error {
		n, err := c.exec(ctx, bindSession, sandbox, id)
		if err == nil && n == 0 {
			err = notFound(agentsandbox.CodeSessionNotFound, "session", agentsandbox.SessionPrefix, id)
		}
		return err
	})
	return wrap(err, "store: bind session %s", id)
}

// LeftSessions lists every tenant's sessions that are creating, live or deleting,
// oldest first.
func (db *DB) LeftSessions(ctx context.Context) (all []LeftSession, err error) {
	err = db.read(ctx, func(c *conn) (err error) {
		all, err = rows(ctx, c, scanLeftSession, leftSessions)
		return err
	})
	return all, err
}

// LeftExecutions lists every tenant's runs that have not ended, oldest first.
func (db *DB) LeftExecutions(ctx context.Context) (all []LeftExecution, err error) {
	err = db.read(ctx, func(c *conn) (err error) {
		all, err = rows(ctx, c, scanLeftExecution, leftExecutions)
		return err
	})
	return all, err
}

func scanLeftSession(row scanner) (l LeftSession, err error) {
	var ports string
	if err := row.Scan(&l.Tenant, &l.ID, &l.Status, &l.Sandbox, &l.SealedSecrets, &ports); err != nil {
		return l, err
	}
	if len(l.SealedSecrets) == 0 {
		l.SealedSecrets = nil
	}
	l.Ports, err = fromPortsColumn(ports)
	return l, err
}

func scanLeftExecution(row scanner) (l LeftExecution, err error) {
	return l, row.Scan(&l.Tenant, &l.ID, &l.Sandbox, &l.AttachInfo)
}
