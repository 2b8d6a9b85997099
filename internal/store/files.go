package store

import (
	"context"
	"database/sql"

	"github.com/agentsandbox/agentsandbox"
)

const (
	fileColumns = "id, tenant, filename, media_type, size_bytes, sha256, session_id, coalesce(execution_id, ''), path, created_at"

	insertFile = `INSERT INTO files (id, tenant, filename, media_type, size_bytes, sha256, session_id, execution_id, path, created_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, nullif(?, ''), ?, ?)`
	fileByID   = "SELECT " + fileColumns + " FROM files WHERE id = ? AND tenant = ?"
	deleteFile = "DELETE FROM files WHERE id = ? AND tenant = ?"
	hasFile    = "SELECT EXISTS (SELECT 1 FROM files WHERE id = ?)"

	// The page's executions come as one JSON array: one query for all of them.
	filesOfExecutions = "SELECT " + fileColumns + " FROM files WHERE execution_id IN (SELECT value FROM json_each(?)) ORDER BY seq"
)

// InsertFile stores what is known of a file. Codes: conflict (the id is stored
// already), storage_full.
func (db *DB) InsertFile(ctx context.Context, f agentsandbox.File) error {
	if err := need("file", f.ID, f.Tenant, f.CreatedAt); err != nil {
		return err
	}
	return db.insert(ctx, f.ID, insertFile, fileArgs(f)...)
}

func fileArgs(f agentsandbox.File) []any {
	return []any{
		f.ID, f.Tenant, f.Filename, f.MediaType, f.SizeBytes, f.SHA256,
		f.SessionID, f.ExecutionID, f.Path, micros(f.CreatedAt),
	}
}

// File finds a file. Codes: file_not_found.
func (db *DB) File(ctx context.Context, tenant, id string) (agentsandbox.File, error) {
	return find(ctx, db, fileNotFound(id), scanFile, fileByID, id, tenant)
}

// Files lists the files of a tenant, newest first. Codes: invalid_request.
func (db *DB) Files(ctx context.Context, tenant string, page agentsandbox.Page) (agentsandbox.FilePage, error) {
	result := agentsandbox.FilePage{Page: page}
	if err := page.Validate(); err != nil {
		return result, err
	}
	err := db.snapshot(ctx, func(c *conn) (err error) {
		files := listing[agentsandbox.File]{"files", fileColumns, scanFile, "tenant = ?", []any{tenant}, byAge}
		result.Files, result.Total, result.NextCursor, err = files.page(ctx, c, page)
		return err
	})
	return result, err
}

// DeleteFile forgets a file; of callers at once, one does, and the others get
// file_not_found.
func (db *DB) DeleteFile(ctx context.Context, tenant, id string) error {
	return db.write(ctx, freesSpace, func(ctx context.Context, c *conn) error {
		n, err := c.exec(ctx, deleteFile, id, tenant)
		if err == nil && n == 0 {
			err = fileNotFound(id)
		}
		return wrap(err, "store: delete %s", id)
	})
}

// HasFile tells whether any tenant has a file of that id.
func (db *DB) HasFile(ctx context.Context, id string) (bool, error) {
	return find(ctx, db, nil, scanValue[bool], hasFile, id)
}

func fileNotFound(id string) error {
	return notFound(agentsandbox.CodeFileNotFound, "file", agentsandbox.FilePrefix, id)
}

func scanFile(row scanner) (agentsandbox.File, error) {
	var f agentsandbox.File
	var created sql.NullInt64
	err := row.Scan(&f.ID, &f.Tenant, &f.Filename, &f.MediaType, &f.SizeBytes, &f.SHA256,
		&f.SessionID, &f.ExecutionID, &f.Path, &created)
	f.CreatedAt = fromMicros(created)
	return f, err
}
