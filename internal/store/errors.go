package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	"modernc.org/sqlite"

	"github.com/agentsandbox/agentsandbox"
)

// Result codes of SQLite: https://www.sqlite.org/rescode.html.
const (
	sqliteBusy       = 5
	sqliteCorrupt    = 11
	sqliteFull       = 13
	sqliteCantOpen   = 14
	sqliteNotADB     = 26
	sqliteIOWrite    = 778
	sqliteIOFsync    = 1034
	sqliteIOTruncate = 1546
	sqliteIOShmOpen  = 4618
	sqliteIOShmSize  = 4874
	sqliteIOShmMap   = 5386
	sqlitePrimaryKey = 1555
	sqliteUnique     = 2067

	// primaryCode masks the primary code out of an extended one.
	primaryCode = 0xff
)

// busyRetrySeconds is the hint that goes with a locked database.
const busyRetrySeconds = 1

// classify turns what SQLite and the kernel say into a refusal, where it is one
// that a caller can act on. dir is the data directory.
func classify(dir string, err error) error {
	if err == nil {
		return nil
	}
	var refusal *agentsandbox.Error
	if errors.As(err, &refusal) {
		return err
	}
	if noSpace(err) {
		return diskFull(err)
	}
	var failure *sqlite.Error
	if !errors.As(err, &failure) {
		return err
	}
	switch code := failure.Code(); {
	case code&primaryCode == sqliteFull:
		return diskFull(err)
	case code == sqliteUnique, code == sqlitePrimaryKey:
		return &agentsandbox.Error{
			Code:    agentsandbox.CodeConflict,
			Message: "A record with this id or key value exists already; use another one.",
			Err:     err,
		}
	case code&primaryCode == sqliteBusy:
		busy := agentsandbox.Errorf(agentsandbox.CodeUnavailable, "Another program keeps the database locked; try again later.")
		busy.RetryAfterSeconds, busy.Err = busyRetrySeconds, err
		return busy
	case mayBeFull(code) && probeFull(dir):
		return diskFull(err)
	}
	return err
}

// mayBeFull tells whether SQLite may mean a full disk. It says SQLITE_FULL only
// for ENOSPC of a plain write: not for a quota, not for its shared memory file,
// and not where the file system notices only when it syncs.
func mayBeFull(code int) bool {
	switch code {
	case sqliteIOWrite, sqliteIOFsync, sqliteIOTruncate, sqliteIOShmOpen, sqliteIOShmSize, sqliteIOShmMap:
		return true
	}
	return code&primaryCode == sqliteCantOpen
}

// probeFull tries whether the data directory has room for a small file.
func probeFull(dir string) bool {
	path := filepath.Join(dir, "probe")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return noSpace(err)
	}
	defer os.Remove(path)
	_, err = f.Write(make([]byte, 64<<10))
	return noSpace(errors.Join(err, f.Sync(), f.Close()))
}

func noSpace(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

func diskFull(cause error) error {
	return &agentsandbox.Error{
		Code:    agentsandbox.CodeStorageFull,
		Message: "The server's data directory is full: delete files that are not needed, or have the operator make room.",
		Err:     cause,
	}
}

// damaged tells whether SQLite cannot make sense of the database.
func damaged(err error) bool {
	var failure *sqlite.Error
	if !errors.As(err, &failure) {
		return false
	}
	code := failure.Code() & primaryCode
	return code == sqliteCorrupt || code == sqliteNotADB
}

// notFound is the refusal for a row that is not there, or is another tenant's.
func notFound(code agentsandbox.Code, kind, prefix, id string) error {
	return agentsandbox.Errorf(code, "No %s %s exists.", kind, quoteID(prefix, id))
}

// maxQuotedID bounds how much of a made-up id an error repeats.
const maxQuotedID = 64

// quoteID shows an id in an error: what a caller made up is quoted and bounded.
func quoteID(prefix, id string) string {
	if agentsandbox.ValidID(prefix, id) {
		return id
	}
	if len(id) > maxQuotedID {
		return fmt.Sprintf("%q…", id[:maxQuotedID])
	}
	return fmt.Sprintf("%q", id)
}
