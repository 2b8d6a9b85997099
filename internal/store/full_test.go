package store_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/eventlog"
	"github.com/agentsandbox/agentsandbox/internal/roottest"
	"github.com/agentsandbox/agentsandbox/internal/store"
)

// smallDisk mounts a file system of a size such as 32m, of which nothing is left
// when the test ends.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	roottest.Need(t, "mounts a small file system")
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700,size="+size); err != nil {
		t.Fatalf("mounting a small tmpfs: %v; this test must run as root, with the right to mount", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill takes all room that is left, and returns the file that takes it.
func fill(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, size := range []int{1 << 20, 4096, 1} {
		for {
			if _, err := f.Write(make([]byte, size)); errors.Is(err, unix.ENOSPC) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
	return path
}

func wantFull(t *testing.T, err error) {
	t.Helper()
	if agentsandbox.CodeOf(err) != agentsandbox.CodeStorageFull {
		t.Fatalf("%v, want storage_full", err)
	}
}

// insertUntilFull adds files until the store refuses one; the WAL may have room
// of its own for some.
func insertUntilFull(t *testing.T, db *store.DB) (ids []string) {
	t.Helper()
	for n := range 100_000 {
		f := file(n)
		if err := db.InsertFile(t.Context(), f); err != nil {
			wantFull(t, err)
			return ids
		}
		ids = append(ids, f.ID)
	}
	t.Fatal("a full disk took 100000 rows")
	return nil
}

func TestFullDisk(t *testing.T) {
	dir := smallDisk(t, "64m")
	db := open(t, dir)
	session := agentsandbox.Session{
		ID: agentsandbox.NewID(agentsandbox.SessionPrefix), Tenant: "t", Status: agentsandbox.SessionLive, CreatedAt: time.Now(),
	}
	if err := db.InsertSession(t.Context(), session, nil); err != nil {
		t.Fatal(err)
	}
	run := agentsandbox.Execution{
		ID: agentsandbox.NewID(agentsandbox.ExecutionPrefix), Tenant: "t", Status: agentsandbox.StatusRunning, CreatedAt: time.Now(),
	}
	other := run
	other.ID = agentsandbox.NewID(agentsandbox.ExecutionPrefix)
	for _, x := range []agentsandbox.Execution{run, other} {
		if err := db.InsertExecution(t.Context(), x, "", nil); err != nil {
			t.Fatal(err)
		}
	}
	var ids []string
	for n := range 2000 {
		f := file(n)
		if err := db.InsertFile(t.Context(), f); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, f.ID)
	}
	filler := fill(t, dir)
	ids = append(ids, insertUntilFull(t, db)...)

	// Large outcomes are refused, and the run goes on being one that runs.
	run.Status, run.EndedAt = agentsandbox.StatusSucceeded, time.Now()
	large := eventlog.Sealed{Size: 20 << 20, Stdout: 20 << 20, Inline: bytes.Repeat([]byte("x"), 20<<20)}
	_, err := db.FinishExecution(t.Context(), run, large)
	wantFull(t, err)

	// Reads, ends and deletes work, all of them.
	small := eventlog.Sealed{Size: 64 << 10, Stdout: 64 << 10, Inline: make([]byte, 64<<10)}
	if finished, err := db.FinishExecution(t.Context(), run, small); err != nil || !finished {
		t.Fatalf("a small outcome: %v, %v", finished, err)
	}
	// Output that is in a file takes no room in the row.
	other.Status, other.EndedAt = run.Status, run.EndedAt
	inFile := eventlog.Sealed{Size: 20 << 20, Stdout: 20 << 20}
	if finished, err := db.FinishExecution(t.Context(), other, inFile); err != nil || !finished {
		t.Fatalf("an outcome whose log is in a file: %v, %v", finished, err)
	}
	if err := db.MoveSession(t.Context(), session.ID, agentsandbox.SessionDeleted, time.Now()); err != nil {
		t.Fatalf("ending a session: %v", err)
	}
	late := 0
	for _, id := range ids {
		if _, err := db.File(t.Context(), "t", id); err != nil {
			t.Fatal(err)
		}
		if err := db.DeleteFile(t.Context(), "t", id); err != nil {
			t.Fatal(err)
		}
		// The WAL may have room for a row when it starts again from its
		// beginning; otherwise what deleting may use, nothing else may.
		if err := db.InsertFile(t.Context(), file(0)); err == nil {
			late++
		} else {
			wantFull(t, err)
		}
	}
	if got := total(t, db); got != late {
		t.Fatalf("%d files left, want %d", got, late)
	}

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := db.InsertFile(t.Context(), file(1)); err != nil {
		t.Fatalf("with room again: %v", err)
	}
}

// TestOpenOnFullDisk starts a server on a disk that filled up while it was down.
func TestOpenOnFullDisk(t *testing.T) {
	dir := smallDisk(t, "32m")
	db := open(t, dir)
	f := file(1)
	if err := db.InsertFile(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	shut(t, db)
	filler := fill(t, dir)
	_, err := store.Open(t.Context(), dir, store.Options{})
	wantFull(t, err)

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if got := total(t, open(t, dir)); got != 1 {
		t.Fatalf("%d files, want 1", got)
	}
}

func TestFirstOpenOnFullDisk(t *testing.T) {
	dir := smallDisk(t, "1m")
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	filler := fill(t, dir)
	_, err := store.Open(t.Context(), data, store.Options{ReserveBytes: 1 << 16})
	wantFull(t, err)
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	open(t, data)
}
