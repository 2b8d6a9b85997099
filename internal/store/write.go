package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/idempotency"
)

// effect says what a write does to the room on the disk.
type effect int

const (
	// needsSpace: the write adds rows; it is refused while the disk is full.
	needsSpace effect = iota
	// freesSpace: the write ends or removes something, and may use the reserve.
	freesSpace
)

// write runs a change when its turn comes. ctx bounds the waiting; the change
// itself is not interrupted, so that an error never leaves open whether it
// happened. change can be run twice.
func (db *DB) write(ctx context.Context, e effect, change func(context.Context, *conn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case db.turn <- struct{}{}:
		defer func() { <-db.turn }()
	case <-ctx.Done():
		return ctx.Err()
	case <-db.closing:
		return errClosed
	}
	select {
	case <-db.closing: // both were ready, and the other was picked
		return errClosed
	default:
	}
	ctx = context.WithoutCancel(ctx)
	defer db.wrote()
	if e == needsSpace && !db.reserve.restore() {
		return diskFull(nil)
	}
	err := change(ctx, db.writer)
	if err == nil || e != freesSpace {
		return classify(db.dir, err)
	}
	if agentsandbox.CodeOf(classify(db.dir, err)) == agentsandbox.CodeStorageFull && db.reserve.release() {
		err = change(ctx, db.writer)
	}
	return classify(db.dir, err)
}

// insert runs one statement that adds a row. what is its id: it names the row in
// an error, and to the request that made it, if that one has an Idempotency-Key.
func (db *DB) insert(ctx context.Context, what, query string, args ...any) error {
	return db.insertWith(ctx, what, nil, query, args...)
}

// insertWith is insert, and more that happens in the same transaction; nil for
// nothing more.
func (db *DB) insertWith(ctx context.Context, what string, more func(context.Context, *conn) error, query string, args ...any) error {
	err := db.write(ctx, needsSpace, func(ctx context.Context, c *conn) error {
		if _, claimed := idempotency.ClaimFrom(ctx); !claimed && more == nil {
			_, err := c.exec(ctx, query, args...)
			return err
		}
		return c.within(ctx, "BEGIN IMMEDIATE", func() error {
			if _, err := c.exec(ctx, query, args...); err != nil {
				return err
			}
			if more != nil {
				if err := more(ctx, c); err != nil {
					return err
				}
			}
			return bind(ctx, c, what)
		})
	})
	return wrap(err, "store: insert %s", what)
}

// wrap says what was being done, except for refusals, which speak for
// themselves.
func wrap(err error, format string, args ...any) error {
	var refusal *agentsandbox.Error
	if err == nil || errors.As(err, &refusal) || errors.Is(err, errClosed) {
		return err
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}
