package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

const (
	sessionColumns = "id, tenant, status, template, env, metadata, timeout_ms, memory_mb, cpus, " +
		"processes, open_files, output_bytes, disk_mb, inodes, created_at, ended_at, idle_timeout_ms, max_lifetime_ms, last_used_at, network, collect_ignored"

	insertSession = "INSERT INTO sessions (" + sessionColumns + ", secrets) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
	sessionStatus = "SELECT status FROM sessions WHERE id = ?"
	sessionByID   = "SELECT " + sessionColumns + " FROM sessions WHERE id = ? AND tenant = ?"

	// A session has ended exactly while ended_at is set; its environment, which
	// may hold secrets, and its secrets, are of no use then.
	moveSession = `UPDATE sessions SET status = ?1, ended_at = ?2, env = CASE WHEN ?3 THEN '{}' ELSE env END,
			secrets = CASE WHEN ?3 THEN x'' ELSE secrets END, ports = CASE WHEN ?3 THEN '[]' ELSE ports END
		WHERE id = ?4 AND status IN (SELECT value FROM json_each(?5))`
)

// InsertSession stores a session, and its secrets, sealed, until it ends. Codes: conflict (the id is stored already),
// invalid_request (env or metadata that is not UTF-8), storage_full.
func (db *DB) InsertSession(ctx context.Context, s agentsandbox.Session, sealedSecrets []byte) error {
	if err := need("session", s.ID, s.Tenant, s.CreatedAt); err != nil {
		return err
	}
	if s.Status.Ended() != !s.EndedAt.IsZero() {
		return fmt.Errorf("store: session %s is %s, and ended at %v", s.ID, s.Status, s.EndedAt)
	}
	env, err := object("env_vars", s.Env)
	if err != nil {
		return err
	}
	metadata, err := object("metadata", s.Metadata)
	if err != nil {
		return err
	}
	network, err := networkColumn(s.Network)
	if err != nil {
		return err
	}
	return db.insert(ctx, s.ID, insertSession,
		s.ID, s.Tenant, string(s.Status), s.Template, env, metadata,
		s.TimeoutMS, s.MemoryMB, s.CPUs,
		s.Processes, s.OpenFiles, s.OutputBytes, s.DiskMB, s.Inodes, micros(s.CreatedAt), micros(s.EndedAt),
		s.IdleTimeoutMS, s.MaxLifetimeMS, micros(s.LastUsedAt), network, s.CollectIgnored, bytesOf(sealedSecrets))
}

// Session finds a session in any state. Codes: session_not_found.
func (db *DB) Session(ctx context.Context, tenant, id string) (agentsandbox.Session, error) {
	missing := notFound(agentsandbox.CodeSessionNotFound, "session", agentsandbox.SessionPrefix, id)
	return find(ctx, db, missing, scanSession, sessionByID, id, tenant)
}

// Sessions lists the live sessions of a tenant, newest first. Codes:
// invalid_request.
func (db *DB) Sessions(ctx context.Context, tenant string, filter agentsandbox.SessionFilter) (agentsandbox.SessionPage, error) {
	result := agentsandbox.SessionPage{Page: filter.Page}
	if err := filter.Validate(); err != nil {
		return result, err
	}
	where, args := withMetadata("tenant = ? AND status = 'live'", []any{tenant}, filter.Metadata)
	err := db.snapshot(ctx, func(c *conn) (err error) {
		sessions := listing[agentsandbox.Session]{"sessions", sessionColumns, scanSession, where, args, byAge}
		result.Sessions, result.Total, result.NextCursor, err = sessions.page(ctx, c, filter.Page)
		return err
	})
	return result, err
}

// MoveSession changes the status of a session, if the table of moves allows that from
// the one that it has, in one statement: of callers at once, one moves it. Otherwise
// the error is an [agentsandbox.SessionMoveError]. A status that nothing follows sets
// EndedAt to at and empties Env.
func (db *DB) MoveSession(ctx context.Context, id string, to agentsandbox.SessionStatus, at time.Time) error {
	var end sql.NullInt64
	if to.Ended() {
		if at.IsZero() {
			return fmt.Errorf("store: session %s: moving to %s needs a time", id, to)
		}
		end = micros(at)
	}
	from, err := array("from", to.Previous())
	if err != nil {
		return err
	}
	refused := &agentsandbox.SessionMoveError{ID: id, To: to}
	err = db.write(ctx, freesSpace, func(ctx context.Context, c *conn) error {
		n, err := c.exec(ctx, moveSession, string(to), end, end.Valid, id, from)
		if n == 1 || err != nil {
			return err
		}
		was, err := rows(ctx, c, scanStatus, sessionStatus, id)
		if err != nil {
			return err
		}
		if len(was) > 0 {
			refused.From = was[0]
		}
		return refused
	})
	return wrap(err, "store: move session %s to %s", id, to)
}

func scanStatus(row scanner) (s agentsandbox.SessionStatus, err error) {
	return s, row.Scan(&s)
}

func scanSession(row scanner) (agentsandbox.Session, error) {
	var s agentsandbox.Session
	var env, metadata, network string
	var created, ended, used sql.NullInt64
	err := row.Scan(&s.ID, &s.Tenant, &s.Status, &s.Template, &env, &metadata,
		&s.TimeoutMS, &s.MemoryMB, &s.CPUs,
		&s.Processes, &s.OpenFiles, &s.OutputBytes, &s.DiskMB, &s.Inodes, &created, &ended,
		&s.IdleTimeoutMS, &s.MaxLifetimeMS, &used, &network, &s.CollectIgnored)
	if err != nil {
		return s, err
	}
	if s.Env, err = fromObject(env); err != nil {
		return s, err
	}
	if s.Metadata, err = fromObject(metadata); err != nil {
		return s, err
	}
	if s.Network, err = fromNetworkColumn(network); err != nil {
		return s, err
	}
	s.CreatedAt, s.EndedAt, s.LastUsedAt = fromMicros(created), fromMicros(ended), fromMicros(used)
	return s, nil
}
