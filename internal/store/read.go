package store

import (
	"context"
	"maps"
	"slices"

	"github.com/agentsandbox/agentsandbox"
)

// read runs do on a connection that only reads.
func (db *DB) read(ctx context.Context, do func(*conn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var c *conn
	select {
	case <-db.closing:
		return errClosed
	default:
	}
	select {
	case c = <-db.readers:
	case <-ctx.Done():
		return ctx.Err()
	case <-db.closing:
		return errClosed
	}
	defer func() { db.readers <- c }()
	return wrap(classify(db.dir, do(c)), "store: read")
}

// snapshot runs do on a connection that only reads, and all whose queries see
// one state of the database.
func (db *DB) snapshot(ctx context.Context, do func(*conn) error) error {
	return db.read(ctx, func(c *conn) error {
		return c.within(ctx, "BEGIN", func() error { return do(c) })
	})
}

// find reads one row. One that is not there is the error missing.
func find[T any](ctx context.Context, db *DB, missing error, scan func(scanner) (T, error), query string, args ...any) (T, error) {
	var item T
	err := db.read(ctx, func(c *conn) error {
		found, err := rows(ctx, c, scan, query, args...)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return missing
		}
		item = found[0]
		return nil
	})
	return item, err
}

// list reads one page, newest first, and how many rows there are in all; in a
// snapshot, the two agree. where follows WHERE; columns are what scan takes.
func list[T any](ctx context.Context, c *conn, scan func(scanner) (T, error), table, columns, where string, page agentsandbox.Page, args ...any) ([]T, int, error) {
	total, err := rows(ctx, c, scanValue[int], "SELECT count(*) FROM "+table+" WHERE "+where, args...)
	if err != nil {
		return nil, 0, err
	}
	items, err := rows(ctx, c, scan,
		"SELECT "+columns+" FROM "+table+" WHERE "+where+" ORDER BY created_at DESC, seq DESC LIMIT ? OFFSET ?",
		append(args, page.Limit, page.Offset)...)
	return items, total[0], err
}

// withMetadata narrows a condition to rows that have each of these pairs in
// their metadata.
func withMetadata(where string, args []any, metadata map[string]string) (string, []any) {
	for _, name := range slices.Sorted(maps.Keys(metadata)) {
		where += " AND EXISTS (SELECT 1 FROM json_each(metadata) WHERE key = ? AND atom = ?)"
		args = append(args, name, metadata[name])
	}
	return where, args
}
