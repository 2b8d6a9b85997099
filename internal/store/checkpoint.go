package store

import (
	"context"
	"fmt"
)

const (
	// checkpointWrites is after how many writes the WAL is folded into the
	// database; a small write is about 10 pages.
	checkpointWrites = 100

	// longWAL is how many pages the WAL may have before writers wait for it to be
	// folded whole, so that it starts again from its beginning.
	longWAL = 1000

	// inlineCheckpoint is how many pages the WAL may have before the writer that
	// exceeds it folds it itself: when writes are large, or come faster than
	// the background work gets its turn.
	inlineCheckpoint = 4000
)

// wrote counts a write, and asks for a checkpoint when it is time for one. It is
// called by who holds the turn.
func (db *DB) wrote() {
	db.writes++
	if db.writes%checkpointWrites != 0 {
		return
	}
	select {
	case db.checkpointDue <- struct{}{}:
	default: // one is due already
	}
}

// checkpoints folds the WAL into the database beside the writers, which would
// otherwise wait for the disk: one in a hundred for milliseconds. It ends when
// the store is closed.
func (db *DB) checkpoints(c *conn) {
	defer close(db.checkpointsEnded)
	for {
		select {
		case <-db.closing:
			return
		case <-db.checkpointDue:
		}
		if err := db.checkpoint(context.Background(), c); err != nil {
			// Nothing is lost: the WAL has it all, and the next one tries again.
			db.log.Warn("the write-ahead log could not be folded into the database", "error", err)
		}
	}
}

func (db *DB) checkpoint(ctx context.Context, c *conn) error {
	state, err := foldWAL(ctx, c)
	if err != nil || state.folded == state.pages || state.pages < longWAL {
		return err
	}
	// Writers were faster. With none of them about, the rest is little.
	select {
	case db.turn <- struct{}{}:
		defer func() { <-db.turn }()
	case <-db.closing:
		return nil
	}
	_, err = foldWAL(ctx, c)
	return err
}

// walState is how many pages the WAL has, and how many of them the database has
// as well.
type walState struct{ pages, folded int }

// foldWAL copies what it can without waiting for anybody.
func foldWAL(ctx context.Context, c *conn) (walState, error) {
	states, err := rows(ctx, c, func(row scanner) (s walState, err error) {
		var busy int
		err = row.Scan(&busy, &s.pages, &s.folded)
		return s, err
	}, "PRAGMA wal_checkpoint(PASSIVE)")
	if err != nil {
		return walState{}, err
	}
	if len(states) != 1 {
		return walState{}, fmt.Errorf("store: %d rows from a checkpoint", len(states))
	}
	return states[0], nil
}
