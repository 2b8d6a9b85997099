package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

const (
	keyColumns = "id, tenant, name, hint, scopes, created_at, expires_at, last_used_at, revoked_at"

	insertKey = "INSERT INTO api_keys (" + keyColumns + ", hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
	keyByHash = "SELECT " + keyColumns + " FROM api_keys WHERE hash = ?"
	// The first revocation stays; one row is touched whether it is the first.
	revokeKey         = "UPDATE api_keys SET revoked_at = coalesce(revoked_at, ?) WHERE id = ?"
	revokeKeyOfTenant = revokeKey + " AND tenant = ?"
	touchKey          = "UPDATE api_keys SET last_used_at = max(coalesce(last_used_at, 0), ?) WHERE id = ?"
)

// InsertKey stores a key by the SHA-256 of its value. Codes: conflict (the id or
// the value is stored already), storage_full.
func (db *DB) InsertKey(ctx context.Context, key agentsandbox.Key, hash [32]byte) error {
	if err := need("key", key.ID, key.Tenant, key.CreatedAt); err != nil {
		return err
	}
	scopes, err := array("scopes", key.Scopes)
	if err != nil {
		return err
	}
	return db.insert(ctx, key.ID, insertKey,
		key.ID, key.Tenant, key.Name, key.Hint, scopes, micros(key.CreatedAt),
		micros(key.ExpiresAt), micros(key.LastUsedAt), micros(key.RevokedAt), hash[:])
}

// KeyByHash finds a key, revoked and expired ones included. Codes: key_not_found.
func (db *DB) KeyByHash(ctx context.Context, hash [32]byte) (agentsandbox.Key, error) {
	missing := agentsandbox.Errorf(agentsandbox.CodeKeyNotFound, "No such API key exists.")
	return find(ctx, db, missing, scanKey, keyByHash, hash[:])
}

// Keys lists the keys of a tenant, or of all when tenant is empty, revoked and
// expired ones included, newest first. Codes: invalid_request.
func (db *DB) Keys(ctx context.Context, tenant string, page agentsandbox.Page) (agentsandbox.KeyPage, error) {
	result := agentsandbox.KeyPage{Page: page}
	if err := page.Validate(); err != nil {
		return result, err
	}
	where, args := "tenant = ?", []any{tenant}
	if tenant == "" {
		where, args = "true", nil
	}
	err := db.snapshot(ctx, func(c *conn) (err error) {
		keys := listing[agentsandbox.Key]{"api_keys", keyColumns, scanKey, where, args, byAge}
		result.Keys, result.Total, result.NextCursor, err = keys.page(ctx, c, page)
		return err
	})
	return result, err
}

// RevokeKey records when a key was revoked; the first time stays. An empty
// tenant stands for any. Codes: key_not_found.
func (db *DB) RevokeKey(ctx context.Context, tenant, id string, at time.Time) error {
	if at.IsZero() {
		return fmt.Errorf("store: revoking %s needs a time", id)
	}
	query, args := revokeKeyOfTenant, []any{micros(at), id, tenant}
	if tenant == "" {
		query, args = revokeKey, args[:2]
	}
	return db.write(ctx, freesSpace, func(ctx context.Context, c *conn) error {
		n, err := c.exec(ctx, query, args...)
		if err == nil && n == 0 {
			err = notFound(agentsandbox.CodeKeyNotFound, "API key", agentsandbox.KeyPrefix, id)
		}
		return wrap(err, "store: revoke %s", id)
	})
}

// TouchKeys records when keys, by id, were last used, in one transaction. A time
// never goes back, and an id that is not there is passed over. Codes:
// storage_full.
func (db *DB) TouchKeys(ctx context.Context, used map[string]time.Time) error {
	if len(used) == 0 {
		return nil
	}
	err := db.write(ctx, needsSpace, func(ctx context.Context, c *conn) error {
		return c.within(ctx, "BEGIN IMMEDIATE", func() error {
			for _, id := range slices.Sorted(maps.Keys(used)) {
				if used[id].IsZero() {
					continue
				}
				if _, err := c.exec(ctx, touchKey, micros(used[id]), id); err != nil {
					return err
				}
			}
			return nil
		})
	})
	return wrap(err, "store: record the last use of keys")
}

func scanKey(row scanner) (agentsandbox.Key, error) {
	var k agentsandbox.Key
	var scopes string
	var created, expires, used, revoked sql.NullInt64
	if err := row.Scan(&k.ID, &k.Tenant, &k.Name, &k.Hint, &scopes, &created, &expires, &used, &revoked); err != nil {
		return k, err
	}
	if err := json.Unmarshal([]byte(scopes), &k.Scopes); err != nil {
		return k, fmt.Errorf("store: the scopes of %s: %w", k.ID, err)
	}
	k.CreatedAt, k.ExpiresAt = fromMicros(created), fromMicros(expires)
	k.LastUsedAt, k.RevokedAt = fromMicros(used), fromMicros(revoked)
	return k, nil
}
