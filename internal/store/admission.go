package store

import (
	"context"
)

const (
	tenantUsage = `SELECT (SELECT count(*) FROM sessions WHERE tenant = ?1 AND ended_at IS NULL),
			coalesce(sum(files), 0), coalesce(sum(bytes), 0),
			coalesce((SELECT bytes FROM tenant_output WHERE tenant = ?1), 0)
		FROM tenant_files WHERE tenant = ?1`

	noteSessionEnd = "INSERT INTO session_ends (session_id, why) VALUES (?, ?) ON CONFLICT (session_id) DO NOTHING"
	sessionEnd     = "SELECT coalesce((SELECT why FROM session_ends WHERE session_id = ?), '')"
)

// usage is what a tenant keeps.
type usage = struct {
	Sessions, Files, Bytes, Output int64
}

// TenantUsage counts a tenant's sessions that have not ended and its files, adds up
// the files' sizes, and those of code, output and kept answers.
func (db *DB) TenantUsage(ctx context.Context, tenant string) (usage, error) {
	return find(ctx, db, nil, func(row scanner) (u usage, err error) {
		err = row.Scan(&u.Sessions, &u.Files, &u.Bytes, &u.Output)
		return u, err
	}, tenantUsage, tenant)
}

// NoteSessionEnd keeps why a session ended. The first reason stays.
func (db *DB) NoteSessionEnd(ctx context.Context, id, why string) error {
	err := db.write(ctx, freesSpace, func(ctx context.Context, c *conn) error {
		_, err := c.exec(ctx, noteSessionEnd, id, why)
		return err
	})
	return wrap(err, "store: note the end of session %s", id)
}

// SessionEnd returns why a session ended; "" if nothing was noted.
func (db *DB) SessionEnd(ctx context.Context, id string) (string, error) {
	return find(ctx, db, nil, scanValue[string], sessionEnd, id)
}
