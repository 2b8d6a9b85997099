package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/agentsandbox/agentsandbox/internal/idempotency"
)

const (
	requestColumns = "seq, tenant, key_id, key, method, path, digest, object_id, status, header, body, created_at"

	findRequest   = "SELECT " + requestColumns + " FROM idempotent_requests WHERE tenant = ? AND key_id = ? AND key = ?"
	claimRequest  = "INSERT INTO idempotent_requests (tenant, key_id, key, method, path, digest, object_id, status, header, body, created_at) VALUES (?, ?, ?, ?, ?, ?, '', 0, '{}', NULL, ?) RETURNING seq"
	bindRequest   = "UPDATE idempotent_requests SET object_id = ? WHERE seq = ?"
	answerRequest = "UPDATE idempotent_requests SET digest = ?, status = ?, header = ?, body = ? WHERE seq = ?"
	dropRequest   = "DELETE FROM idempotent_requests WHERE seq = ?"
	dropUnbound   = "DELETE FROM idempotent_requests WHERE seq = ? AND object_id = ''"
	dropRequests  = "DELETE FROM idempotent_requests WHERE seq IN (SELECT seq FROM idempotent_requests WHERE created_at < ? ORDER BY created_at LIMIT ?)"
)

// ClaimRequest stores a request by its Idempotency-Key, or returns the one that
// is stored already and tells so. One from before oldest is replaced. Codes:
// storage_full.
func (db *DB) ClaimRequest(ctx context.Context, r idempotency.Claim, oldest time.Time) (claim idempotency.Claim, found bool, err error) {
	if err := need("request", r.Request.Key, r.Tenant, r.CreatedAt); err != nil {
		return r, false, err
	}
	err = db.write(ctx, needsSpace, func(ctx context.Context, c *conn) error {
		return c.within(ctx, "BEGIN IMMEDIATE", func() error {
			known, err := rows(ctx, c, scanRequest, findRequest, r.Tenant, r.KeyID, r.Request.Key)
			if err != nil {
				return err
			}
			if len(known) == 1 {
				claim, found = known[0], true
				if !claim.CreatedAt.Before(oldest) {
					return nil
				}
				if _, err := c.exec(ctx, dropRequest, claim.Seq); err != nil {
					return err
				}
			}
			seqs, err := rows(ctx, c, scanValue[int64], claimRequest,
				r.Tenant, r.KeyID, r.Request.Key, r.Request.Method, r.Request.Path, r.Request.Digest, micros(r.CreatedAt))
			if err != nil {
				return err
			}
			claim, found = r, false
			claim.Seq = seqs[0]
			return nil
		})
	})
	return claim, found && err == nil, wrap(err, "store: claim a request")
}

// KeepAnswer stores the answer to a request, and the digest of its body. Codes:
// storage_full.
func (db *DB) KeepAnswer(ctx context.Context, seq int64, digest string, a idempotency.Answer) error {
	if a.Status == 0 {
		return fmt.Errorf("store: the answer to request %d needs a status", seq)
	}
	header, err := object("header", a.Header)
	if err != nil {
		return err
	}
	err = db.write(ctx, needsSpace, func(ctx context.Context, c *conn) error {
		_, err := c.exec(ctx, answerRequest, digest, a.Status, header, a.Body, seq)
		return err
	})
	return wrap(err, "store: keep the answer to request %d", seq)
}

// DropRequest forgets a request, so that it can be made anew. One that has made an
// object stays: doing it again would be a second effect.
func (db *DB) DropRequest(ctx context.Context, seq int64) error {
	err := db.write(ctx, freesSpace, func(ctx context.Context, c *conn) error {
		_, err := c.exec(ctx, dropUnbound, seq)
		return err
	})
	return wrap(err, "store: drop request %d", seq)
}

// DropRequests forgets at most limit requests from before a time, oldest first,
// and returns how many.
func (db *DB) DropRequests(ctx context.Context, before time.Time, limit int) (int, error) {
	return db.remove(ctx, dropRequests, micros(before), limit)
}

// bind notes that the request that ctx serves has made an object. It runs in the
// transaction that makes it.
func bind(ctx context.Context, c *conn, object string) error {
	seq, ok := idempotency.ClaimFrom(ctx)
	if !ok {
		return nil
	}
	_, err := c.exec(ctx, bindRequest, object, seq)
	return err
}

func scanRequest(row scanner) (idempotency.Claim, error) {
	var r idempotency.Claim
	var a idempotency.Answer
	var header string
	var created sql.NullInt64
	err := row.Scan(&r.Seq, &r.Tenant, &r.KeyID, &r.Request.Key, &r.Request.Method, &r.Request.Path, &r.Request.Digest,
		&r.ObjectID, &a.Status, &header, &a.Body, &created)
	if err != nil {
		return r, err
	}
	r.CreatedAt = fromMicros(created)
	if a.Status == 0 {
		return r, nil
	}
	a.Header, err = fromObject(header)
	r.Answer = &a
	return r, err
}
