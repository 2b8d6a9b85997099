package store

import (
	"context"

	"github.com/agentsandbox/agentsandbox"
)

const (
	bindSession    = "UPDATE sessions SET sandbox = ? WHERE id = ? AND ended_at IS NULL"
	leftSessions   = "SELECT tenant, id, status, sandbox, x'' FROM sessions WHERE ended_at IS NULL ORDER BY seq"
	leftExecutions = "SELECT tenant, id, status, sandbox, plan FROM executions WHERE ended_at IS NULL ORDER BY seq"
)

// Left is a row that has not ended, and where it was at work. It is an alias, so
// that whoever asks for it need not import this package.
type Left = struct {
	Tenant, ID, Status, Sandbox string
	Plan                        []byte
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
func (db *DB) LeftSessions(ctx context.Context) ([]Left, error) { return db.left(ctx, leftSessions) }

// LeftExecutions lists every tenant's runs that have not ended, oldest first.
func (db *DB) LeftExecutions(ctx context.Context) ([]Left, error) {
	return db.left(ctx, leftExecutions)
}

func (db *DB) left(ctx context.Context, query string) ([]Left, error) {
	var all []Left
	err := db.read(ctx, func(c *conn) (err error) {
		all, err = rows(ctx, c, scanLeft, query)
		return err
	})
	return all, err
}

func scanLeft(row scanner) (l Left, err error) {
	err = row.Scan(&l.Tenant, &l.ID, &l.Status, &l.Sandbox, &l.Plan)
	return l, err
}
