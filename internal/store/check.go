package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"
)

// DefaultCheckBytes is the size up to which every page of the database is checked
// before it is opened, which takes 1 s for each GiB: a server that was killed is
// to answer again within two. The pages of a larger one are checked once it is
// open, and until then by whoever reads them.
const DefaultCheckBytes = 256 << 20

// quickCheck reads every page. Damage is an error that says what to do.
func quickCheck(ctx context.Context, pool *sql.DB, path string) error {
	var verdict string
	err := pool.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&verdict)
	switch {
	case damaged(err):
		return damage(path, err.Error())
	case err != nil:
		return fmt.Errorf("store: %s cannot be read: %w", path, err)
	case verdict != "ok":
		return damage(path, strings.ReplaceAll(verdict, "\n", "; "))
	}
	return nil
}

// checkLater checks every page beside everything else, until Close. What it finds
// is logged: rows that can be read are served, and those that cannot are errors.
func (db *DB) checkLater(path string) {
	db.checking.Go(func() {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		db.checking.Go(func() {
			select {
			case <-db.closing:
				cancel()
			case <-ctx.Done():
			}
		})
		started := time.Now()
		pool, err := sql.Open(driverName, readOnlySource(path))
		if err == nil {
			err = errors.Join(quickCheck(ctx, pool, path), pool.Close())
		}
		switch {
		case ctx.Err() != nil:
		case err != nil:
			db.log.Error("the check of the database failed; what can be read of it is served", "error", err)
		default:
			db.log.Info("checked the database", "took_ms", time.Since(started).Milliseconds())
		}
	})
}
