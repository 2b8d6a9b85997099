package store_test

import (
	"bytes"
	"context"
	"database/sql"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/store"
)

// refusal opens a store that must not open, and checks that the error says why
// and that every file of the directory is what it was.
func refusal(t *testing.T, dir string, says ...string) {
	t.Helper()
	before := contents(t, dir)
	db, err := store.Open(t.Context(), dir, store.Options{})
	if err == nil {
		shut(t, db)
		t.Fatal("it opened")
	}
	for _, word := range says {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error does not say %q: %v", word, err)
		}
	}
	after := contents(t, dir)
	for name, was := range before {
		if is, ok := after[name]; !ok || !bytes.Equal(is, was) {
			t.Errorf("%s was changed or removed", name)
		}
	}
}

func contents(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if strings.HasSuffix(entry.Name(), "-shm") {
			continue // an index of the WAL in shared memory, made anew at will
		}
		if all[entry.Name()], err = os.ReadFile(filepath.Join(dir, entry.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// stored makes a data directory with some pages of rows, and closes it.
func stored(t *testing.T) (dir, database string) {
	t.Helper()
	dir = t.TempDir()
	db := open(t, dir)
	for n := range 500 {
		if err := db.InsertFile(t.Context(), file(n)); err != nil {
			t.Fatal(err)
		}
	}
	shut(t, db)
	return dir, filepath.Join(dir, store.DatabaseName)
}

func TestRefusesSecondServer(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	refusal(t, dir, "another server uses the data directory", dir)
	shut(t, db)
	open(t, dir)
}

// TestWaitsForTheLockOfADeadServer: a process that a killed server was about to
// make holds its files for a moment.
func TestWaitsForTheLockOfADeadServer(t *testing.T) {
	dir := t.TempDir()
	shut(t, open(t, dir))
	// Another open file with the lock is what such a process has.
	held, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(held.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	opened := make(chan error, 1)
	go func() {
		db, err := store.Open(context.Background(), dir, store.Options{})
		if err == nil {
			err = db.Close()
		}
		opened <- err
	}()
	select {
	case err := <-opened:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-opened; err != nil {
		t.Error(err)
	}
}

func TestRefusesDamage(t *testing.T) {
	for name, harm := range map[string]func([]byte) []byte{
		"empty":             func([]byte) []byte { return nil },
		"cut in the header": func(b []byte) []byte { return b[:60] },
		"cut in half":       func(b []byte) []byte { return b[:len(b)/2/4096*4096] },
		"not a database":    func(b []byte) []byte { return bytes.Repeat([]byte("text\n"), len(b)/5) },
		"a page of noise": func(b []byte) []byte {
			// The last page holds rows: nothing reads it at start but the check.
			copy(b[len(b)-4096:], bytes.Repeat([]byte{0xa5}, 4096))
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, database := stored(t)
			b, err := os.ReadFile(database)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(database, harm(b), 0o600); err != nil {
				t.Fatal(err)
			}
			refusal(t, dir, "damaged", database, "backup")
		})
	}
}

// TestChecksALargeDatabaseOnceItIsOpen: a start does not wait for the check of
// one, and what the check finds is logged.
func TestChecksALargeDatabaseOnceItIsOpen(t *testing.T) {
	for name, test := range map[string]struct {
		harm func([]byte)
		want string
	}{
		"whole":           {func([]byte) {}, "level=INFO msg=\"checked the database\""},
		"a page of noise": {func(b []byte) { copy(b[len(b)-4096:], bytes.Repeat([]byte{0xa5}, 4096)) }, "restore it from a backup"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, database := stored(t)
			b, err := os.ReadFile(database)
			if err != nil {
				t.Fatal(err)
			}
			test.harm(b)
			if err := os.WriteFile(database, b, 0o600); err != nil {
				t.Fatal(err)
			}
			said := &logged{lines: make(chan string, 100)}
			db, err := store.Open(t.Context(), dir, store.Options{CheckBytes: 1, Log: slog.New(slog.NewTextHandler(said, nil))})
			if err != nil {
				t.Fatal(err)
			}
			for line := ""; !strings.Contains(line, test.want); {
				select {
				case line = <-said.lines:
				case <-time.After(time.Minute):
					t.Fatalf("the log does not say %q", test.want)
				}
			}
			shut(t, db)
		})
	}
}

// logged hands out the lines that are written to it.
type logged struct{ lines chan string }

func (l *logged) Write(line []byte) (int, error) {
	l.lines <- string(line)
	return len(line), nil
}

// TestRefusesDamageAndKeepsTheLog damages what a killed server left: the rows in
// its write-ahead log may be all that can be saved, so they stay where they are.
func TestRefusesDamageAndKeepsTheLog(t *testing.T) {
	dir := t.TempDir()
	killWriter(t, dir, 1000)
	database := filepath.Join(dir, store.DatabaseName)
	if info, err := os.Stat(database + "-wal"); err != nil || info.Size() == 0 {
		t.Fatalf("the killed server left no write-ahead log: %v", err)
	}
	b, err := os.ReadFile(database)
	if err != nil {
		t.Fatal(err)
	}
	const page = 4096
	copy(b[page:], bytes.Repeat([]byte{0xa5}, len(b)-page))
	if err := os.WriteFile(database, b, 0o600); err != nil {
		t.Fatal(err)
	}
	refusal(t, dir, "damaged")
	refusal(t, dir, "damaged") // the first look changed nothing for the second
}

func TestRefusesLogWithoutDatabase(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, store.DatabaseName+"-wal"), []byte("rows"), 0o600); err != nil {
		t.Fatal(err)
	}
	refusal(t, dir, "missing", "write-ahead log", "backup")
}

func edit(t *testing.T, database string, statements ...string) {
	t.Helper()
	raw, err := sql.Open("sqlite", database)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	for _, s := range statements {
		if _, err := raw.ExecContext(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRefusesNewerSchema(t *testing.T) {
	dir, database := stored(t)
	edit(t, database, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (4711, 1)")
	refusal(t, dir, "schema version 4711", "newer agentsandbox", "another data directory")
}

func TestRefusesDatabaseOfAnotherProgram(t *testing.T) {
	dir := t.TempDir()
	edit(t, filepath.Join(dir, store.DatabaseName), "CREATE TABLE things (id INTEGER)", "INSERT INTO things VALUES (1)")
	refusal(t, dir, "another program", "--data-dir")
}

// TestHalfMadeDatabase leaves what a process leaves that died while it made the
// first database.
func TestHalfMadeDatabase(t *testing.T) {
	dir := t.TempDir()
	for _, suffix := range []string{".new", ".new-wal", ".new-shm"} {
		if err := os.WriteFile(filepath.Join(dir, store.DatabaseName+suffix), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	open(t, dir)
	leftovers, err := filepath.Glob(filepath.Join(dir, "*.new*"))
	if err != nil || len(leftovers) != 0 {
		t.Errorf("left over: %v, %v", leftovers, err)
	}
}
