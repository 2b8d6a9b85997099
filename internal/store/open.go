package store

import (
	"context"
	"database/sql"
	"embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/pressly/goose/v3"
	"golang.org/x/sys/unix"
)

const (
	driverName = "sqlite"

	// applicationID is what the first migration writes into the header.
	applicationID = 1097290545

	// lockName is the file whose lock says that a server uses the directory.
	lockName = "lock"

	// newSuffix marks a database that is being made.
	newSuffix = ".new"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// pragmas hold on every connection. The driver runs busy_timeout first.
var pragmas = []string{
	"busy_timeout(5000)", // another program, such as a backup, may hold a lock
	"journal_mode(wal)",
	"synchronous(normal)",
	"foreign_keys(1)",
	"cache_size(-8000)", // KiB
	"temp_store(memory)",
	fmt.Sprintf("wal_autocheckpoint(%d)", inlineCheckpoint),
	"journal_size_limit(16777216)", // what the WAL shrinks to after a rush
	"trusted_schema(0)",
}

// source is what the driver opens: the file, with pragmas for each connection.
func source(path string, more ...string) string {
	return uri(path, url.Values{"_pragma": append(append([]string{}, pragmas...), more...)})
}

// readOnlySource cannot change the database, nor fold its WAL into it.
func readOnlySource(path string) string {
	return uri(path, url.Values{"mode": {"ro"}, "_pragma": {"busy_timeout(5000)", "trusted_schema(0)"}})
}

func uri(path string, query url.Values) string {
	return (&url.URL{Scheme: "file", Path: path, RawQuery: query.Encode()}).String()
}

// lockPatience is how long the lock may be held by somebody else before that is
// taken for another server. A server that is killed while it starts a program
// leaves, until that program runs, a copy of itself that holds all of its files:
// on a busy machine, for longer than the next start takes to come here.
const lockPatience = 3 * time.Second

// lockDirectory takes the lock of a data directory. The kernel drops it when the
// process ends, however it ends; no program that it executes inherits it.
func lockDirectory(ctx context.Context, dir string) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("store: the lock of the data directory: %w", classify(dir, err))
	}
	err = waitForLock(ctx, func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
	if err == nil {
		return f, nil
	}
	_ = f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("store: another server uses the data directory %s: stop it, or choose another directory with --data-dir", dir)
	}
	return nil, fmt.Errorf("store: the lock %s: %w", path, err)
}

// waitForLock tries again while somebody else has the lock.
func waitForLock(ctx context.Context, try func() error) error {
	const pause = 10 * time.Millisecond
	patience := time.After(lockPatience)
	for {
		err := try()
		if err != nil && !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return err
		}
		if err == nil {
			return nil
		}
		select {
		case <-time.After(pause):
		case <-patience:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// create makes the database if there is none. It is made under another name and
// renamed when it is whole, so that a database that is found empty or half
// written is always a damaged one, never one that was just being made.
func create(ctx context.Context, path string) (err error) {
	switch _, err := os.Lstat(path); {
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if _, err := os.Lstat(path + "-wal"); err == nil {
		return fmt.Errorf("%s is missing, but its write-ahead log %s-wal is there: restore the database from a backup, or move the log away to start with an empty one", path, filepath.Base(path))
	}
	temp := path + newSuffix
	defer func() {
		if err != nil {
			err = errors.Join(err, removeDatabase(temp))
		}
	}()
	if err := removeDatabase(temp); err != nil {
		return err
	}
	// SQLite gives the WAL the mode of the database.
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	pool, err := sql.Open(driverName, source(temp))
	if err != nil {
		return err
	}
	pool.SetMaxOpenConns(1)
	err = errors.Join(applyMigrations(ctx, pool), pool.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	return syncDirectory(filepath.Dir(path))
}

func removeDatabase(path string) error {
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// inspect refuses a database that is damaged, is not ours, or was made by a newer
// program, and changes nothing in it. It returns the version of its schema, and
// whether every page was looked at, which is so up to a size of atMost.
func inspect(ctx context.Context, path string, atMost int64) (version int64, whole bool, err error) {
	size, err := inspectHeader(path)
	if err != nil {
		return 0, false, err
	}
	known, err := knownVersion()
	if err != nil {
		return 0, false, err
	}
	pool, err := sql.Open(driverName, readOnlySource(path))
	if err != nil {
		return 0, false, fmt.Errorf("store: %w", err)
	}
	pool.SetMaxOpenConns(1)
	defer func() { err = errors.Join(err, pool.Close()) }()
	if whole = size <= atMost; whole {
		if err := quickCheck(ctx, pool, path); err != nil {
			return 0, whole, err
		}
	}
	err = pool.QueryRowContext(ctx, "SELECT max(version_id) FROM goose_db_version").Scan(&version)
	switch {
	case damaged(err):
		return 0, whole, damage(path, err.Error())
	case err != nil:
		return 0, whole, fmt.Errorf("store: %s cannot be read: %w", path, err)
	case version > known:
		return 0, whole, fmt.Errorf("store: the database %s has schema version %d, and this program knows versions up to %d: use the newer agentsandbox that made it, or another data directory", path, version, known)
	}
	return version, whole, nil
}

// inspectHeader looks at the file without SQLite, which takes an empty file for
// a new database, and would change the journal mode of one that is not ours.
func inspectHeader(path string) (size int64, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return 0, fmt.Errorf("store: the database: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("store: the database: %w", err)
	}
	var header [100]byte // layout: https://www.sqlite.org/fileformat2.html#the_database_header
	if _, err := io.ReadFull(f, header[:]); err != nil {
		return 0, damage(path, fmt.Sprintf("it has only %d bytes", info.Size()))
	}
	if string(header[:16]) != "SQLite format 3\x00" {
		return 0, damage(path, "it does not start as a SQLite database")
	}
	if binary.BigEndian.Uint32(header[68:]) != applicationID {
		return 0, fmt.Errorf("store: %s is a SQLite database of another program: choose another data directory with --data-dir", path)
	}
	// Pages can be missing from the file only while they are in the WAL.
	if _, err := os.Lstat(path + "-wal"); errors.Is(err, fs.ErrNotExist) {
		pageSize := int64(binary.BigEndian.Uint16(header[16:]))
		if pageSize == 1 {
			pageSize = 1 << 16
		}
		if want := pageSize * int64(binary.BigEndian.Uint32(header[28:])); info.Size() < want {
			return 0, damage(path, fmt.Sprintf("it has %d bytes of %d", info.Size(), want))
		}
	}
	return info.Size(), nil
}

func damage(path, what string) error {
	return fmt.Errorf("store: the database %s is damaged (%s): restore it from a backup, or move it away with its -wal and -shm files to start with an empty one", path, what)
}

// migrate brings the schema up to date from the version that inspect found.
func migrate(ctx context.Context, pool *sql.DB, path string, found int64, log *slog.Logger) error {
	known, err := knownVersion()
	if err != nil || found == known {
		return err
	}
	if err := applyMigrations(ctx, pool); err != nil {
		return fmt.Errorf("store: the schema of %s cannot be brought from version %d to %d: %w", path, found, known, err)
	}
	log.Info("migrated the database", "from_version", found, "to_version", known)
	return nil
}

func applyMigrations(ctx context.Context, pool *sql.DB) error {
	provider, err := newProvider(pool)
	if err != nil {
		return err
	}
	_, err = provider.Up(ctx)
	return err
}

// newProvider keeps clear of the global registry and logger of goose.
func newProvider(pool *sql.DB) (*goose.Provider, error) {
	files, err := fs.Sub(migrationFiles, "migrations")
	if err != nil {
		return nil, fmt.Errorf("store: migrations: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, pool, files,
		goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return nil, fmt.Errorf("store: migrations: %w", err)
	}
	return provider, nil
}

// knownVersion is the newest version among the migrations of this program.
func knownVersion() (int64, error) {
	names, err := fs.Glob(migrationFiles, "migrations/*.sql")
	if err != nil || len(names) == 0 {
		return 0, fmt.Errorf("store: no migrations: %w", err)
	}
	var newest int64
	for _, name := range names {
		version, err := goose.NumericComponent(name)
		if err != nil {
			return 0, fmt.Errorf("store: migration %s: %w", name, err)
		}
		newest = max(newest, version)
	}
	return newest, nil
}
