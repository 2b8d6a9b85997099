package store_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/store"
	"github.com/agentsandbox/agentsandbox/internal/store/storetest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDirVariable); dir != "" {
		if err := writeUntilKilled(context.Background(), dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestSuite(t *testing.T) {
	storetest.Suite(t, func(t *testing.T) storetest.Store { return open(t, t.TempDir()) })
}

// open opens a store that is closed with the test.
func open(t *testing.T, dir string) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, db) })
	return db
}

func shut(t *testing.T, db *store.DB) {
	t.Helper()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func file(n int) agentsandbox.File {
	return agentsandbox.File{
		ID: agentsandbox.NewID(agentsandbox.FilePrefix), Tenant: "t", Filename: fmt.Sprintf("%d.csv", n), CreatedAt: time.Unix(int64(n), 0),
	}
}

func total(t *testing.T, db *store.DB) int {
	t.Helper()
	page, err := db.Files(t.Context(), "t", agentsandbox.Page{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	return page.Total
}

func TestRowsOutliveClose(t *testing.T) {
	// A directory whose name means something in a URI.
	dir := filepath.Join(t.TempDir(), "a b?mode=memory#%41&ü", "data")
	db := open(t, dir)
	f := file(1)
	if err := db.InsertFile(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	shut(t, db)
	if _, err := os.Stat(filepath.Join(dir, store.DatabaseName+"-wal")); !os.IsNotExist(err) {
		t.Errorf("the write-ahead log after Close: %v", err)
	}
	if got := total(t, open(t, dir)); got != 1 {
		t.Fatalf("%d files after reopening, want 1", got)
	}
}

func TestClose(t *testing.T) {
	db := open(t, t.TempDir())
	shut(t, db)
	shut(t, db)
	if err := db.InsertFile(t.Context(), file(1)); err == nil {
		t.Error("a write after Close succeeded")
	}
	if _, err := db.Files(t.Context(), "t", agentsandbox.Page{Limit: 1}); err == nil {
		t.Error("a list after Close succeeded")
	}
	if _, err := db.HasFile(t.Context(), "x"); err == nil {
		t.Error("a look-up after Close succeeded")
	}
}

// TestCloseWhileInUse closes a store under load: each call succeeds or says that
// the store is closed, and what succeeded is there.
func TestCloseWhileInUse(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	const users = 8
	written := make(chan int, users)
	first := make(chan struct{}, users)
	for range users {
		go func() {
			n := 0
			for ; ; n++ {
				if db.InsertFile(context.Background(), file(n)) != nil {
					break
				}
				if n == 0 {
					first <- struct{}{}
				}
				_, _ = db.Files(context.Background(), "t", agentsandbox.Page{Limit: 1})
			}
			written <- n
		}()
	}
	for range users {
		<-first
	}
	shut(t, db)
	want := 0
	for range users {
		want += <-written
	}
	if got := total(t, open(t, dir)); got != want {
		t.Fatalf("%d files, and %d were acknowledged", got, want)
	}
}

func TestFilesAreTheOwnersOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	db := open(t, dir)
	if err := db.InsertFile(t.Context(), file(1)); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", entry.Name(), info.Mode())
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the data directory: %v, %v", info.Mode(), err)
	}
}
