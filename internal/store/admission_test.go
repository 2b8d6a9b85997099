package store

import (
	"context"
	"database/sql"
	"io/fs"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/pressly/goose/v3"
)

// TestFilesOfAnOlderSchemaAreCounted brings a database of the first version, with
// files in it, up to date.
func TestFilesOfAnOlderSchemaAreCounted(t *testing.T) {
	dir := t.TempDir()
	first, err := fs.ReadFile(migrationFiles, "migrations/00001_initial.sql")
	if err != nil {
		t.Fatal(err)
	}
	pool, err := sql.Open(driverName, source(filepath.Join(dir, DatabaseName)))
	if err != nil {
		t.Fatal(err)
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, pool, fstest.MapFS{"00001_initial.sql": {Data: first}},
		goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := provider.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, row := range []string{"('a', 't', 100)", "('b', 't', 20)", "('c', 'u', 3)"} {
		if _, err := pool.Exec(`INSERT INTO files (id, tenant, size_bytes, filename, media_type, sha256, session_id, path, created_at)
			SELECT column1, column2, column3, '', '', '', '', '', 1 FROM (VALUES ` + row + `)`); err != nil {
			t.Fatal(err)
		}
	}
	if err := pool.Close(); err != nil {
		t.Fatal(err)
	}

	db, err := Open(t.Context(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for tenant, want := range map[string]usage{"t": {Files: 2, Bytes: 120}, "u": {Files: 1, Bytes: 3}, "v": {}} {
		if got, err := db.TenantUsage(context.Background(), tenant); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", tenant, got, err, want)
		}
	}
}
