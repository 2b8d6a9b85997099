// Package store keeps keys, sessions, executions and what is known of files in
// one SQLite database in the data directory.
//
// It owns the schema, the rule that a query sees one tenant's rows only, the
// order of lists, and the lock that lets one server at a time use a data
// directory. It knows nothing of HTTP, of sandboxes, or of where the contents
// of files are. Another implementation passes the same suite, storetest.
//
// # What is kept, and when it is safe
//
// The database is in WAL mode with synchronous=NORMAL: a row that a method has
// acknowledged outlives the death of the process, by SIGKILL too. A power
// failure or a crash of the kernel can take the rows since the last checkpoint
// (seconds, under load), always the newest ones, and never damages the
// database.
//
// The environment variables of a session may be secrets. They are stored in
// plain text, as runs need them, in a file that only the server's user can read,
// and are emptied when the session ends. Those of one execution are not stored.
//
// # How it fails
//
// Refusals are *agentsandbox.Error values: the not-found code of a kind,
// conflict for an id or a key that exists already, storage_full, unavailable
// when another program keeps the database locked. Anything else is an internal
// error. A write has happened exactly when its method returned nil: a context
// bounds the waiting for a turn to write, and does not interrupt a write.
//
// On a full disk, reads go on. Writes that end or remove something (deleting,
// revoking, moving a session, finishing an execution with little output) draw on
// a reserve that is set aside for them; all others fail with storage_full until
// there is room again.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"
)

// DatabaseName is the name of the database in the data directory. SQLite keeps
// two more files beside it, with the endings -wal and -shm, which belong to it.
const DatabaseName = "agentsandbox.db"

// DefaultReserveBytes is how much disk is set aside for writes that end or
// remove something. It must hold a whole WAL (1000 pages of 4 KiB), which then
// is used again from its start.
const DefaultReserveBytes = 8 << 20

// Options of Open.
type Options struct {
	// Log receives what an operator should know; nil: nothing is logged.
	Log *slog.Logger
	// ReserveBytes is set aside for a full disk; 0: DefaultReserveBytes.
	ReserveBytes int64
	// CheckBytes is the size up to which the database is checked whole before it
	// is opened; 0: DefaultCheckBytes.
	CheckBytes int64
}

// DB is a store in SQLite. It is safe for concurrent use.
type DB struct {
	dir     string
	log     *slog.Logger
	lock    *os.File
	reserve *reserve

	writePool *sql.DB
	writer    *conn         // the one connection that writes
	turn      chan struct{} // holds a token while somebody writes
	writes    int           // since the start; for who holds the turn
	audit     auditHead     // for who holds the turn

	checkpointer     *conn
	checkpointDue    chan struct{}
	checkpointsEnded chan struct{}
	working          bool // checkpoints was started

	checking sync.WaitGroup // checkLater

	readPool    *sql.DB
	readers     chan *conn // those that nobody uses
	readerCount int        // how many there are

	closing   chan struct{}
	closeOnce sync.Once
	closeErr  error
}

var errClosed = errors.New("store: closed")

// Open opens the database of a data directory, which it makes if it is missing,
// and brings its schema up to date. It fails, and changes nothing, if another
// server uses the directory, if the database is damaged, or if a newer program
// made it. On a full disk the error has code storage_full.
//
// The directory is locked until Close.
func Open(ctx context.Context, dir string, opts Options) (_ *DB, err error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.ReserveBytes == 0 {
		opts.ReserveBytes = DefaultReserveBytes
	}
	if opts.CheckBytes == 0 {
		opts.CheckBytes = DefaultCheckBytes
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, fmt.Errorf("store: data directory: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("store: the data directory cannot be made: %w", classify(dir, err))
	}
	lock, err := lockDirectory(ctx, dir)
	if err != nil {
		return nil, err
	}
	db := &DB{
		dir: dir, log: opts.Log, lock: lock,
		reserve:       newReserve(dir, opts.ReserveBytes, opts.Log),
		turn:          make(chan struct{}, 1),
		readers:       make(chan *conn, max(4, runtime.NumCPU())),
		checkpointDue: make(chan struct{}, 1), checkpointsEnded: make(chan struct{}),
		closing: make(chan struct{}),
	}
	defer func() {
		if err != nil {
			err = classify(dir, errors.Join(err, db.Close()))
		}
	}()
	path := filepath.Join(dir, DatabaseName)
	if err := create(ctx, path); err != nil {
		return nil, fmt.Errorf("store: the database cannot be made: %w", err)
	}
	checked, err := db.openWriter(ctx, path, opts.CheckBytes)
	if err != nil {
		return nil, err
	}
	if err := db.openReaders(ctx, path); err != nil {
		return nil, err
	}
	if err := db.reserve.hold(); err != nil {
		db.reserve.complain(err)
	}
	db.working = true
	go db.checkpoints(db.checkpointer)
	if !checked {
		db.checkLater(path)
	}
	return db, nil
}

func (db *DB) openWriter(ctx context.Context, path string, checkBytes int64) (checked bool, err error) {
	started := time.Now()
	version, checked, err := inspect(ctx, path, checkBytes)
	if err != nil {
		return checked, err
	}
	if took := time.Since(started); took > time.Second {
		db.log.Info("checked the database", "took_ms", took.Milliseconds())
	}
	pool, err := sql.Open(driverName, source(path))
	if err != nil {
		return checked, fmt.Errorf("store: %w", err)
	}
	db.writePool = pool
	if err := migrate(ctx, pool, path, version, db.log); err != nil {
		return checked, err
	}
	if db.writer, err = newConn(ctx, pool); err != nil {
		return checked, fmt.Errorf("store: %w", err)
	}
	if db.checkpointer, err = newConn(ctx, pool); err != nil {
		return checked, fmt.Errorf("store: %w", err)
	}
	return checked, nil
}

func (db *DB) openReaders(ctx context.Context, path string) error {
	pool, err := sql.Open(driverName, source(path, "query_only(1)"))
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	db.readPool = pool
	for range cap(db.readers) {
		c, err := newConn(ctx, pool)
		if err != nil {
			return fmt.Errorf("store: %w", err)
		}
		db.readers <- c
		db.readerCount++
	}
	return nil
}

// Close waits for what is under way, folds the WAL into the database and unlocks
// the data directory. Methods called later fail. It can be repeated, and then
// returns what it returned first.
func (db *DB) Close() error {
	db.closeOnce.Do(func() {
		close(db.closing)
		db.checking.Wait()
		db.turn <- struct{}{} // kept: nobody writes any more
		if db.working {
			<-db.checkpointsEnded
		}
		db.closeErr = db.close()
	})
	return db.closeErr
}

func (db *DB) close() error {
	var errs []error
	// The writer goes last: the last connection to leave removes the WAL, and a
	// reader, which may not write, could not.
	if db.readPool != nil {
		for range db.readerCount {
			errs = append(errs, (<-db.readers).close())
		}
		errs = append(errs, db.readPool.Close())
	}
	if db.writer != nil {
		errs = append(errs, db.writer.close())
	}
	if db.checkpointer != nil {
		errs = append(errs, db.checkpointer.close())
	}
	if db.writePool != nil {
		errs = append(errs, db.writePool.Close())
	}
	errs = append(errs, db.lock.Close())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("store: close: %w", err)
	}
	return nil
}
