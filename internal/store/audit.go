package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/agentsandbox/agentsandbox"
)

const (
	auditColumns = "seq, at, tenant, key_id, request_id, remote, action, object_id, outcome, detail, hash"

	insertAudit = "INSERT INTO audit (" + auditColumns + ") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
	lastAudit   = "SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1"
	allAudit    = "SELECT " + auditColumns + " FROM audit ORDER BY seq"
)

// auditHead is the last row of the audit log; for who holds the turn.
type auditHead struct {
	known bool
	seq   int64
	hash  [sha256.Size]byte
}

// AppendAudit adds a row at the end of the audit log; Seq and Hash are the
// store's to give. What failed needs room; what was done is noted on a full disk
// too. Codes: storage_full.
func (db *DB) AppendAudit(ctx context.Context, e agentsandbox.AuditEntry) error {
	if e.At.IsZero() || e.Action == "" || e.Outcome == "" {
		return errors.New("store: a row of the audit log needs a time, an action and an outcome")
	}
	room := needsSpace
	if e.Outcome == agentsandbox.AuditOK {
		room = freesSpace
	}
	err := db.write(ctx, room, func(ctx context.Context, c *conn) error {
		if !db.audit.known {
			heads, err := rows(ctx, c, scanAuditHead, lastAudit)
			if err != nil {
				return err
			}
			if len(heads) == 1 {
				db.audit = heads[0]
			}
			db.audit.known = true
		}
		next := e
		next.Seq = db.audit.seq + 1
		hash := next.Chain(db.audit.hash)
		_, err := c.exec(ctx, insertAudit, next.Seq, micros(next.At), next.Tenant, next.KeyID, next.RequestID, next.Remote,
			next.Action, next.ObjectID, next.Outcome, next.Detail, hash[:])
		if err != nil {
			return err
		}
		db.audit.seq, db.audit.hash = next.Seq, hash
		return nil
	})
	return wrap(err, "store: append to the audit log")
}

// AuditLog lists the audit log, newest first. Codes: invalid_request.
func (db *DB) AuditLog(ctx context.Context, page agentsandbox.Page) (agentsandbox.AuditPage, error) {
	result := agentsandbox.AuditPage{Page: page}
	if err := page.Validate(); err != nil {
		return result, err
	}
	err := db.snapshot(ctx, func(c *conn) (err error) {
		entries := listing[agentsandbox.AuditEntry]{"audit", auditColumns, scanAudit, "true", nil, ""}
		result.Entries, result.Total, result.NextCursor, err = entries.page(ctx, c, page)
		return err
	})
	return result, err
}

// VerifyAudit checks the audit log of a data directory, beside a running server
// too: it only reads. head, if not empty, is a hash that an earlier check has
// shown, and that must be among the rows.
func VerifyAudit(ctx context.Context, dir, head string) (report agentsandbox.AuditReport, err error) {
	path, err := filepath.Abs(filepath.Join(dir, DatabaseName))
	if err != nil {
		return report, fmt.Errorf("store: %w", err)
	}
	_, err = inspectHeader(path)
	if errors.Is(err, fs.ErrNotExist) {
		return report, fmt.Errorf("store: there is no %s: give the data directory of the server with --data-dir", path)
	}
	if err != nil {
		return report, err
	}
	pool, err := sql.Open(driverName, readOnlySource(path))
	if err != nil {
		return report, fmt.Errorf("store: %w", err)
	}
	defer func() { err = errors.Join(err, pool.Close()) }()
	found, err := pool.QueryContext(ctx, allAudit)
	if err != nil {
		return report, fmt.Errorf("store: the audit log of %s cannot be read: %w", path, err)
	}
	defer func() { err = errors.Join(err, found.Close()) }()
	hash := agentsandbox.AuditGenesis
	headSeen := head == "" || head == agentsandbox.AuditHash(hash)
	for found.Next() {
		e, err := scanAudit(found)
		if err != nil {
			return report, fmt.Errorf("store: row %d of the audit log cannot be read: %w", report.Rows+1, err)
		}
		want := report.Rows + 1
		next := e.Chain(hash)
		switch {
		case e.Seq != want:
			report.Broken, report.Reason = want, fmt.Sprintf("it is missing: row %d stands where row %d should", e.Seq, want)
		case e.Hash != agentsandbox.AuditHash(next):
			report.Broken, report.Reason = want, "it is not what was written: its hash does not fit it and the row before"
		default:
			hash = next
			report.Rows = want
			report.Head = e.Hash
			headSeen = headSeen || e.Hash == head
			continue
		}
		return report, nil
	}
	if err := found.Err(); err != nil {
		return report, fmt.Errorf("store: the audit log of %s cannot be read: %w", path, err)
	}
	report.Head = agentsandbox.AuditHash(hash)
	if !headSeen {
		report.Broken, report.Reason = report.Rows+1, fmt.Sprintf("no row has the hash %s: rows were cut off at the end, or all were written anew", head)
	}
	return report, nil
}

func scanAuditHead(row scanner) (auditHead, error) {
	var h auditHead
	var hash []byte
	err := row.Scan(&h.seq, &hash)
	copy(h.hash[:], hash)
	return h, err
}

func scanAudit(row scanner) (agentsandbox.AuditEntry, error) {
	var e agentsandbox.AuditEntry
	var at sql.NullInt64
	var hash []byte
	err := row.Scan(&e.Seq, &at, &e.Tenant, &e.KeyID, &e.RequestID, &e.Remote, &e.Action, &e.ObjectID, &e.Outcome, &e.Detail, &hash)
	e.At = fromMicros(at)
	e.Hash = fmt.Sprintf("%x", hash)
	return e, err
}
