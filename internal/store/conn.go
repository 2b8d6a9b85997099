package store

import (
	"context"
	"database/sql"
	"errors"
)

// conn is one connection with its prepared statements, used by one caller at a
// time. Transactions are begun by hand, so that the statements stay prepared and no
// context ends one of them (docs/decisions/0026).
type conn struct {
	raw        *sql.Conn
	statements map[string]*sql.Stmt // by text; the texts are few and fixed
}

func newConn(ctx context.Context, pool *sql.DB) (*conn, error) {
	raw, err := pool.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return &conn{raw: raw, statements: map[string]*sql.Stmt{}}, nil
}

func (c *conn) prepared(ctx context.Context, query string) (*sql.Stmt, error) {
	if stmt, ok := c.statements[query]; ok {
		return stmt, nil
	}
	stmt, err := c.raw.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	c.statements[query] = stmt
	return stmt, nil
}

// exec runs a statement and returns how many rows it touched.
func (c *conn) exec(ctx context.Context, query string, args ...any) (int64, error) {
	stmt, err := c.prepared(ctx, query)
	if err != nil {
		return 0, err
	}
	result, err := stmt.ExecContext(ctx, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// within runs do in a transaction that begin starts, and commits it if do
// returned nil.
func (c *conn) within(ctx context.Context, begin string, do func() error) error {
	// Beginning and ending take no time; interrupted, they would leave open
	// whether there is a transaction.
	ctx = context.WithoutCancel(ctx)
	if _, err := c.exec(ctx, begin); err != nil {
		return err
	}
	err := do()
	if err == nil {
		_, err = c.exec(ctx, "COMMIT")
	}
	if err == nil {
		return nil
	}
	// A full disk has SQLite roll back by itself, and then there is nothing to
	// roll back. Were there still something, the next begin would say so.
	_, _ = c.exec(ctx, "ROLLBACK")
	return err
}

func (c *conn) close() error {
	var errs []error
	for _, stmt := range c.statements {
		errs = append(errs, stmt.Close())
	}
	return errors.Join(append(errs, c.raw.Close())...)
}

// scanner is a row of a result.
type scanner interface{ Scan(columns ...any) error }

// rows reads all rows of a query.
func rows[T any](ctx context.Context, c *conn, scan func(scanner) (T, error), query string, args ...any) (_ []T, err error) {
	stmt, err := c.prepared(ctx, query)
	if err != nil {
		return nil, err
	}
	found, err := stmt.QueryContext(ctx, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, found.Close()) }()
	var all []T
	for found.Next() {
		item, err := scan(found)
		if err != nil {
			return nil, err
		}
		all = append(all, item)
	}
	return all, found.Err()
}

// scanValue reads a row of one column.
func scanValue[T any](row scanner) (value T, err error) {
	err = row.Scan(&value)
	return value, err
}
