package store

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

const (
	oldFiles    = "SELECT id FROM files WHERE created_at < ? ORDER BY created_at, seq LIMIT ?"
	deleteFiles = "DELETE FROM files WHERE id IN (SELECT value FROM json_each(?))"

	// As many as have the given bytes of output, at least one: their pages are
	// freed one by one, while others wait for their turn to write.
	oldExecutions = `SELECT id FROM (
			SELECT id, sum(size) OVER (ORDER BY ended_at, seq ROWS UNBOUNDED PRECEDING) - size AS before FROM (
				SELECT id, ended_at, seq, length(stdout) + length(stderr) + length(log) AS size
				FROM executions WHERE ended_at < ? ORDER BY ended_at, seq LIMIT ?))
		WHERE before < ?`
	// A file may be kept for longer than the record of the run that made it.
	orphanFiles      = "UPDATE files SET execution_id = NULL WHERE execution_id IN (SELECT value FROM json_each(?))"
	deleteMetadata   = "DELETE FROM execution_metadata WHERE execution_id IN (SELECT value FROM json_each(?))"
	deleteRefusals   = "DELETE FROM execution_refusals WHERE execution_id IN (SELECT value FROM json_each(?))"
	deleteOmissions  = "DELETE FROM execution_omissions WHERE execution_id IN (SELECT value FROM json_each(?))"
	deleteExecutions = "DELETE FROM executions WHERE id IN (SELECT value FROM json_each(?))"
	deleteSessions   = "DELETE FROM sessions WHERE seq IN (SELECT seq FROM sessions WHERE ended_at < ? ORDER BY ended_at LIMIT ?)"

	touchSession = "UPDATE sessions SET last_used_at = max(coalesce(last_used_at, 0), ?) WHERE id = ?"
	keepSession  = "UPDATE sessions SET last_used_at = ?, idle_timeout_ms = ? WHERE id = ? AND ended_at IS NULL"
)

// deletedOutputBytes is how much output one call of DeleteExecutions removes, a
// little more when the last record is large.
const deletedOutputBytes = 16 << 20

// OldFiles lists the ids of at most limit files of every tenant from before a
// time, oldest first.
func (db *DB) OldFiles(ctx context.Context, before time.Time, limit int) ([]string, error) {
	var ids []string
	err := db.read(ctx, func(c *conn) (err error) {
		ids, err = rows(ctx, c, scanValue[string], oldFiles, micros(before), limit)
		return err
	})
	return ids, err
}

// DeleteFiles forgets files, whose ever they are, in one transaction; an id that
// is not there is passed over.
func (db *DB) DeleteFiles(ctx context.Context, ids []string) error {
	text, err := array("ids", ids)
	if err != nil {
		return err
	}
	_, err = db.remove(ctx, deleteFiles, text)
	return err
}

// DeleteExecutions forgets at most limit records of runs that ended before a
// time, fewer when they have much output, and returns their ids, of whose event logs
// the caller removes the files; none when there are no more. Files that the runs made
// stay, as files of no run.
func (db *DB) DeleteExecutions(ctx context.Context, before time.Time, limit int) ([]string, error) {
	var ids []string
	err := db.write(ctx, freesSpace, func(ctx context.Context, c *conn) error {
		return c.within(ctx, "BEGIN IMMEDIATE", func() error {
			var err error
			ids, err = rows(ctx, c, scanValue[string], oldExecutions, micros(before), limit, deletedOutputBytes)
			if err != nil || len(ids) == 0 {
				return err
			}
			text, err := array("ids", ids)
			if err != nil {
				return err
			}
			if _, err := c.exec(ctx, orphanFiles, text); err != nil {
				return err
			}
			if _, err := c.exec(ctx, deleteMetadata, text); err != nil {
				return err
			}
			if _, err := c.exec(ctx, deleteRefusals, text); err != nil {
				return err
			}
			if _, err := c.exec(ctx, deleteOmissions, text); err != nil {
				return err
			}
			_, err = c.exec(ctx, deleteExecutions, text)
			return err
		})
	})
	if err != nil {
		return nil, wrap(err, "store: delete old executions")
	}
	return ids, nil
}

// DeleteSessions forgets at most limit sessions that ended before a time, and
// returns how many.
func (db *DB) DeleteSessions(ctx context.Context, before time.Time, limit int) (int, error) {
	return db.remove(ctx, deleteSessions, micros(before), limit)
}

// TouchSessions records when sessions, by id, were last used, in one
// transaction. A time never goes back, and an id that is not there is passed
// over. Codes: storage_full.
func (db *DB) TouchSessions(ctx context.Context, used map[string]time.Time) error {
	if len(used) == 0 {
		return nil
	}
	err := db.write(ctx, needsSpace, func(ctx context.Context, c *conn) error {
		return c.within(ctx, "BEGIN IMMEDIATE", func() error {
			for _, id := range slices.Sorted(maps.Keys(used)) {
				if _, err := c.exec(ctx, touchSession, micros(used[id]), id); err != nil {
					return err
				}
			}
			return nil
		})
	})
	return wrap(err, "store: record the last use of sessions")
}

// KeepSession records a use of a session that has not ended and, from then on,
// how long it may be idle. Codes: session_not_found, storage_full.
func (db *DB) KeepSession(ctx context.Context, id string, used time.Time, idleTimeoutMS int64) error {
	return db.write(ctx, needsSpace, func(ctx context.Context, c *conn) error {
		n, err := c.exec(ctx, keepSession, micros(used), idleTimeoutMS, id)
		if err == nil && n == 0 {
			err = notFound(agentsandbox.CodeSessionNotFound, "session", agentsandbox.SessionPrefix, id)
		}
		return wrap(err, "store: keep session %s", id)
	})
}

// remove runs one statement that removes rows, and returns how many.
func (db *DB) remove(ctx context.Context, query string, args ...any) (int, error) {
	var removed int64
	err := db.write(ctx, freesSpace, func(ctx context.Context, c *conn) (err error) {
		removed, err = c.exec(ctx, query, args...)
		return err
	})
	if err != nil {
		return 0, wrap(err, "store: remove old rows")
	}
	return int(removed), nil
}
