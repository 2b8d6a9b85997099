package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/roottest"
)

// TestReserve takes the reserve through its states, on a disk of 4 MiB.
func TestReserve(t *testing.T) {
	roottest.Need(t, "mounts a small file system")
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Fatalf("mounting a small tmpfs: %v; this test must run as root, with the right to mount", err)
	}
	defer func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	filler := filepath.Join(dir, "filler")
	fill := func(bytes int) error { return os.WriteFile(filler, make([]byte, bytes), 0o600) }
	want := func(what string, got, want bool) {
		t.Helper()
		if got != want {
			t.Fatalf("%s: %v, want %v", what, got, want)
		}
	}

	r := newReserve(dir, 1<<20, slog.New(slog.DiscardHandler))
	if err := r.hold(); err != nil {
		t.Fatal(err)
	}
	want("4 MiB fit beside the reserve", fill(4<<20) == nil, false)
	want("rows may be added while it is held", r.restore(), true)
	if err := r.hold(); err != nil {
		t.Fatalf("holding it again on a full disk: %v", err)
	}
	want("released", r.release(), true)
	want("released again", r.release(), false)
	want("half of it is room", fill(3<<20+1<<19) == nil, true)
	want("rows may be added while it is spent", r.restore(), false)
	want("a half reserve keeps room from others", fill(4<<20) == nil, true)
	want("rows may be added on a full disk", r.restore(), false)
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	want("rows may be added when there is room", r.restore(), true)
	want("4 MiB fit beside the new reserve", fill(4<<20) == nil, false)

	again := newReserve(dir, 1<<20, slog.New(slog.DiscardHandler))
	if err := again.hold(); err != nil {
		t.Fatalf("a restart on a full disk: %v", err)
	}
	want("rows may be added after it", again.restore(), true)
}

// TestReserveIsForEndingThings spends the reserve of a store: while it is not
// whole again, rows that would take it are refused, though they would fit.
func TestReserveIsForEndingThings(t *testing.T) {
	roottest.Need(t, "mounts a small file system")
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700,size=16m"); err != nil {
		t.Fatalf("mounting a small tmpfs: %v; this test must run as root, with the right to mount", err)
	}
	defer func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	db, err := Open(t.Context(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	f := agentsandbox.File{ID: "a", Tenant: "t", CreatedAt: time.Now()}
	if err := db.InsertFile(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	db.reserve.release()
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	f.ID = "b"
	if err := db.InsertFile(t.Context(), f); agentsandbox.CodeOf(err) != agentsandbox.CodeStorageFull {
		t.Errorf("a new row while the reserve is spent: %v, want storage_full", err)
	}
	if err := db.DeleteFile(t.Context(), "t", "a"); err != nil {
		t.Errorf("deleting while the reserve is spent: %v", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := db.InsertFile(t.Context(), f); err != nil {
		t.Errorf("a new row with room again: %v", err)
	}
}

// TestWriteIsNotInterrupted cancels a context in the middle of a write, which is
// made all the same, and says so.
func TestWriteIsNotInterrupted(t *testing.T) {
	db, err := Open(t.Context(), t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	f := agentsandbox.File{ID: "a", Tenant: "t", CreatedAt: time.Now()}
	ctx, cancel := context.WithCancel(t.Context())
	err = db.write(ctx, needsSpace, func(ctx context.Context, c *conn) error {
		cancel()
		_, err := c.exec(ctx, insertFile, fileArgs(f)...)
		return err
	})
	if err != nil {
		t.Errorf("a write whose context ended: %v", err)
	}
	if has, err := db.HasFile(t.Context(), "a"); err != nil || !has {
		t.Errorf("the row is there: %v, %v", has, err)
	}
}

// TestSnapshotSeesOneMoment adds a row between two queries of a snapshot, and
// cancels one, after which the connection is of use again.
func TestSnapshotSeesOneMoment(t *testing.T) {
	db, err := Open(t.Context(), t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	const count = "SELECT count(*) FROM files"
	err = db.snapshot(t.Context(), func(c *conn) error {
		before, err := rows(t.Context(), c, scanValue[int], count)
		if err != nil {
			return err
		}
		if err := db.InsertFile(t.Context(), agentsandbox.File{ID: "a", Tenant: "t", CreatedAt: time.Now()}); err != nil {
			return err
		}
		after, err := rows(t.Context(), c, scanValue[int], count)
		if err == nil && after[0] != before[0] {
			t.Errorf("%d rows, then %d", before[0], after[0])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 * db.readerCount {
		ctx, cancel := context.WithCancel(t.Context())
		err := db.snapshot(ctx, func(c *conn) error {
			cancel()
			_, err := rows(ctx, c, scanValue[int], count)
			return err
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("a cancelled snapshot: %v", err)
		}
		if page, err := db.Files(t.Context(), "t", agentsandbox.Page{Limit: 1}); err != nil || page.Total != 1 {
			t.Errorf("the next one: %d files, %v", page.Total, err)
		}
	}
}

// TestPragmasHoldOnEveryConnection asks all connections, not one of each pool.
func TestPragmasHoldOnEveryConnection(t *testing.T) {
	db, err := Open(t.Context(), t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	all := []*conn{db.writer, db.checkpointer}
	for range db.readerCount {
		all = append(all, <-db.readers)
	}
	for n, c := range all {
		for pragma, want := range map[string]string{
			"foreign_keys": "1", "journal_mode": "wal", "synchronous": "1", "busy_timeout": "5000", "trusted_schema": "0",
		} {
			got, err := rows(t.Context(), c, scanValue[string], "PRAGMA "+pragma)
			if err != nil || len(got) != 1 || got[0] != want {
				t.Errorf("connection %d: %s is %v, want %s; %v", n, pragma, got, want, err)
			}
		}
	}
	for _, c := range all[2:] {
		if _, err := c.exec(t.Context(), "DELETE FROM files"); err == nil {
			t.Error("a reader could write")
		}
		db.readers <- c
	}
}

// TestQueriesUseIndexes reads SQLite's plans: no query looks at all rows of a
// table, and none sorts.
func TestQueriesUseIndexes(t *testing.T) {
	db, err := Open(t.Context(), t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	newest := " ORDER BY created_at DESC, seq DESC LIMIT ? OFFSET ?"
	const after = " AND (created_at, seq) < (?, ?)"
	for _, query := range []string{
		keyByHash, revokeKey, revokeKeyOfTenant, touchKey,
		"SELECT " + keyColumns + " FROM api_keys WHERE tenant = ?" + newest,
		sessionByID, moveSession, bindSession, leftSessions,
		"SELECT " + sessionColumns + " FROM sessions WHERE tenant = ? AND status = 'live'" + newest,
		executionByID, needsLog, finishExecution, leftExecutions,
		"SELECT " + executionColumns + " FROM executions WHERE tenant = ?" + newest,
		"SELECT " + executionColumns + " FROM executions WHERE tenant = ? AND session_id = ?" + newest,
		"SELECT " + executionColumns + " FROM executions WHERE tenant = ? AND status = ?" + newest,
		"SELECT " + executionColumns + " FROM executions WHERE tenant = ? AND session_id = ? AND status = ?" + newest,
		"SELECT count(*) FROM files WHERE tenant = ?",
		fileByID, deleteFile, hasFile,
		"SELECT " + fileColumns + " FROM files WHERE tenant = ?" + newest,
		"SELECT " + fileColumns + " FROM files WHERE tenant = ?" + after + newest,
		"SELECT " + sessionColumns + " FROM sessions WHERE tenant = ? AND status = 'live'" + after + newest,
		"SELECT " + executionColumns + " FROM executions WHERE tenant = ? AND session_id = ?" + after + newest,
		"SELECT " + keyColumns + " FROM api_keys WHERE true" + after + newest,
		"SELECT " + auditColumns + " FROM audit WHERE true AND seq < ? ORDER BY seq DESC LIMIT ? OFFSET ?",
	} {
		type step struct{ detail string }
		plan, err := rows(t.Context(), db.writer, func(row scanner) (s step, err error) {
			var id, parent, unused int
			err = row.Scan(&id, &parent, &unused, &s.detail)
			return s, err
		}, "EXPLAIN QUERY PLAN "+query, make([]any, strings.Count(query, "?"))...)
		if err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		for _, s := range plan {
			scan := strings.HasPrefix(s.detail, "SCAN") && !strings.Contains(s.detail, "INDEX") &&
				!strings.Contains(s.detail, "json_each") && s.detail != "SCAN CONSTANT ROW"
			if scan || strings.Contains(s.detail, "TEMP B-TREE FOR ORDER BY") {
				t.Errorf("%s\n%s", query, s.detail)
			}
		}
	}
}

// TestSecretsAndPortsGoWithTheirSession: nothing reads them of a session that has
// ended, and so nothing has to keep them.
func TestSecretsAndPortsGoWithTheirSession(t *testing.T) {
	db, err := Open(t.Context(), t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	now := time.Now()
	s := agentsandbox.Session{
		ID: agentsandbox.NewID(agentsandbox.SessionPrefix), Tenant: "t", Status: agentsandbox.SessionLive, CreatedAt: now,
	}
	if err := db.InsertSession(t.Context(), s, []byte("sealed")); err != nil {
		t.Fatal(err)
	}
	if err := db.SetPorts(t.Context(), s.ID, []agentsandbox.OpenPort{{Port: 80, ID: "x", ExpiresAt: now}}); err != nil {
		t.Fatal(err)
	}
	kept := func() (n int64) {
		t.Helper()
		err := db.read(t.Context(), func(c *conn) error {
			found, err := rows(t.Context(), c, scanValue[int64], "SELECT (secrets <> x'') + (ports <> '[]') FROM sessions WHERE id = ?", s.ID)
			n = found[0]
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := kept(); n != 2 {
		t.Errorf("%d of secrets and ports are kept while the session lives", n)
	}
	if err := db.MoveSession(t.Context(), s.ID, agentsandbox.SessionLost, now); err != nil {
		t.Fatal(err)
	}
	if n := kept(); n != 0 {
		t.Errorf("%d of secrets and ports are kept after the end", n)
	}
}

// TestOutputFromBeforeThereWereLogs: rows of an earlier server have their output in
// columns, which count, are read, and are dropped and deleted with the others.
func TestOutputFromBeforeThereWereLogs(t *testing.T) {
	db, err := Open(t.Context(), t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	made := time.Now().UTC().Truncate(time.Microsecond)
	old := agentsandbox.Execution{ID: "exe_1", Tenant: "t", Code: "code", Status: agentsandbox.StatusRunning, CreatedAt: made}
	if err := db.InsertExecution(t.Context(), old, "", nil); err != nil {
		t.Fatal(err)
	}
	const endAsBefore = "UPDATE executions SET status = 'succeeded', ended_at = ?, stdout = x'00ff', stdout_bytes = 2, stderr = x'313233', stderr_bytes = 3"
	if _, err := db.writer.exec(t.Context(), endAsBefore, micros(made)); err != nil {
		t.Fatal(err)
	}
	read := func(want string, used int64) {
		t.Helper()
		e, log, err := db.Execution(t.Context(), "t", "exe_1")
		if got := fmt.Sprintf("%s %q %q %v", e.Code, e.Stdout, e.Stderr, e.OutputDropped); err != nil || got != want || log.Size != 0 || log.Inline != nil {
			t.Errorf("%s, want %s; log %+v, %v", got, want, log, err)
		}
		if u, err := db.TenantUsage(t.Context(), "t"); err != nil || u.Output != used {
			t.Errorf("%d bytes in use, want %d; %v", u.Output, used, err)
		}
		if needed, err := db.NeedsLog(t.Context(), "exe_1"); err != nil || needed {
			t.Errorf("a file is needed: %v, %v", needed, err)
		}
	}
	read(`code "\x00\xff" "123" false`, 9)
	if ids, err := db.DropOutput(t.Context(), "t", 8); err != nil || len(ids) != 1 {
		t.Errorf("%v, %v", ids, err)
	}
	read(` "" "" true`, 0)
	if ids, err := db.DeleteExecutions(t.Context(), made.Add(time.Second), 10); err != nil || len(ids) != 1 {
		t.Errorf("%v, %v", ids, err)
	}
}
