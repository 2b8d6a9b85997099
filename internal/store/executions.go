package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/eventlog"
)

const (
	// What a list shows, and what a single record has beyond it.
	executionColumns = `id, tenant, session_id, ephemeral, language, status, return_code, signal,
		stdout_bytes, stderr_bytes, truncated, files_omitted, duration_ms, cpu_ms, memory_peak_bytes, session_status, error,
		endpoint, method, http_status, created_at, ended_at, meta`
	// Runs of earlier servers have stdout and stderr, those of this one a log.
	outputColumns = "code, stdout, stderr, log_bytes, log_stdout, log_stderr, log"

	insertExecution = "INSERT INTO executions (" + executionColumns + `, code, stdout, stderr, sandbox, plan)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, x'', x'', ?, ?)`

	finishExecution = `UPDATE executions SET status = ?, return_code = ?, signal = ?,
			stdout_bytes = ?, stderr_bytes = ?, truncated = ?, files_omitted = ?,
			duration_ms = ?, cpu_ms = ?, memory_peak_bytes = ?, session_status = ?, error = ?, http_status = ?, ended_at = ?,
			log_bytes = ?, log_stdout = ?, log_stderr = ?, log = ?, code = iif(?, '', code)
		WHERE id = ? AND ended_at IS NULL`

	insertRefusals       = "INSERT INTO execution_refusals (execution_id, refusals, others) VALUES (?, ?, ?)"
	refusalsOfExecutions = "SELECT execution_id, refusals, others FROM execution_refusals WHERE execution_id IN (SELECT value FROM json_each(?))"
	insertMetadata       = "INSERT INTO execution_metadata (execution_id, name, value) VALUES (?, ?, ?)"
	metadataOfExecutions = "SELECT execution_id, name, value FROM execution_metadata WHERE execution_id IN (SELECT value FROM json_each(?))"
	hasMetadata          = "EXISTS (SELECT 1 FROM execution_metadata m WHERE m.execution_id = executions.id AND m.name = ? AND m.value = ?)"

	insertOmission        = "INSERT INTO execution_omissions (execution_id, reason, count) VALUES (?, ?, ?)"
	omissionsOfExecutions = "SELECT execution_id, reason, count FROM execution_omissions WHERE execution_id IN (SELECT value FROM json_each(?))"

	// The rows of files take their tenant from the run, so that one of another
	// tenant cannot come about.
	insertFileOfRun = `INSERT INTO files (id, tenant, filename, media_type, size_bytes, sha256, session_id, execution_id, path, created_at)
		SELECT ?, tenant, ?, ?, ?, ?, ?, id, ?, ? FROM executions WHERE id = ?`

	needsLog = "SELECT EXISTS (SELECT 1 FROM executions WHERE id = ? AND (ended_at IS NULL OR log_bytes > length(log)))"

	executionByID = "SELECT " + executionColumns + ", " + outputColumns + " FROM executions WHERE id = ? AND tenant = ?"
)

// smallOutcomeBytes is how much output, without files, still counts as an
// outcome that may draw on the reserve of a full disk.
const smallOutcomeBytes = 64 << 10

// InsertExecution stores the record of a run, in which sandbox it is, and what a later
// server needs to attach to it; without output and files: those are written with its
// outcome. Codes: conflict (the id is stored already), invalid_request (meta that is not
// UTF-8), storage_full.
func (db *DB) InsertExecution(ctx context.Context, e agentsandbox.Execution, sandbox string, attachInfo []byte) error {
	if err := need("execution", e.ID, e.Tenant, e.CreatedAt); err != nil {
		return err
	}
	if e.Status.Terminal() != !e.EndedAt.IsZero() {
		return fmt.Errorf("store: execution %s is %s, and ended at %v", e.ID, e.Status, e.EndedAt)
	}
	if len(e.Files) > 0 {
		return fmt.Errorf("store: execution %s: files are written with its outcome", e.ID)
	}
	meta, err := object("request_meta", e.Meta)
	if err != nil {
		return err
	}
	if _, err := object("metadata", e.Metadata); err != nil {
		return err // it is not UTF-8
	}
	addMetadata := func(ctx context.Context, c *conn) error {
		for _, name := range slices.Sorted(maps.Keys(e.Metadata)) {
			if _, err := c.exec(ctx, insertMetadata, e.ID, name, e.Metadata[name]); err != nil {
				return err
			}
		}
		return nil
	}
	if len(e.Metadata) == 0 {
		addMetadata = nil
	}
	return db.insertWith(ctx, e.ID, addMetadata, insertExecution,
		e.ID, e.Tenant, e.SessionID, e.Ephemeral, string(e.Language), string(e.Status), e.ReturnCode, e.Signal,
		e.StdoutBytes, e.StderrBytes, e.Truncated, e.FilesOmitted, e.DurationMS, e.CPUMS, e.MemoryPeakBytes, string(e.SessionStatus), e.Error,
		e.Endpoint, e.Method, e.HTTPStatus, micros(e.CreatedAt), micros(e.EndedAt), meta,
		e.Code, sandbox, bytesOf(attachInfo))
}

// FinishExecution writes the outcome of a run, its event log and the rows of its
// files, in one transaction, if the run is still running, and tells whether it was;
// an id that is not there was not. The run is found by e.ID alone: its tenant, code
// and request stay as they were inserted, and its output is what the log has. What a
// file says of its tenant and run may be empty, but not different. With
// OutputDropped, neither code nor log is kept.
//
// Codes: conflict (a file's id is stored already), storage_full. On a full disk
// an outcome without files and with at most 64 KiB of output in its row is still
// written.
func (db *DB) FinishExecution(ctx context.Context, e agentsandbox.Execution, log eventlog.Sealed) (bool, error) {
	if err := checkOutcome(e); err != nil {
		return false, err
	}
	if e.OutputDropped {
		log, e.Truncated = eventlog.Sealed{}, e.Truncated || e.StdoutBytes+e.StderrBytes > 0
	}
	inRow := int64(len(e.Error))
	if log.Inline != nil {
		inRow += log.Stdout + log.Stderr
	}
	need := needsSpace
	if len(e.Files) == 0 && inRow <= smallOutcomeBytes {
		need = freesSpace
	}
	var finished bool
	err := db.write(ctx, need, func(ctx context.Context, c *conn) (err error) {
		if len(e.Files) == 0 && len(e.NetworkRefused) == 0 && len(e.OmittedReasons) == 0 && !e.OutputDropped {
			finished, err = writeOutcome(ctx, c, e, log)
			return err
		}
		return c.within(ctx, "BEGIN IMMEDIATE", func() error {
			if finished, err = writeOutcome(ctx, c, e, log); err != nil || !finished {
				return err
			}
			if e.OutputDropped {
				if _, err := c.exec(ctx, noteDropByID, e.ID); err != nil {
					return err
				}
			}
			if err := writeRefusals(ctx, c, e); err != nil {
				return err
			}
			for _, why := range slices.Sorted(maps.Keys(e.OmittedReasons)) {
				if _, err := c.exec(ctx, insertOmission, e.ID, string(why), e.OmittedReasons[why]); err != nil {
					return err
				}
			}
			return writeFiles(ctx, c, e)
		})
	})
	return finished && err == nil, wrap(err, "store: finish %s", e.ID)
}

func checkOutcome(e agentsandbox.Execution) error {
	switch {
	case e.Status == "" || !e.Status.Terminal():
		return fmt.Errorf("store: finishing %s needs a terminal status, not %q", e.ID, e.Status)
	case e.EndedAt.IsZero():
		return fmt.Errorf("store: finishing %s needs the time when it ended", e.ID)
	}
	for _, f := range e.Files {
		switch {
		case f.ID == "" || f.CreatedAt.IsZero():
			return fmt.Errorf("store: finishing %s: file %q needs an id and the time when it was made", e.ID, f.Filename)
		case f.ExecutionID != "" && f.ExecutionID != e.ID:
			return fmt.Errorf("store: finishing %s: file %s is of another run, %s", e.ID, f.ID, f.ExecutionID)
		case f.Tenant != "" && f.Tenant != e.Tenant:
			return fmt.Errorf("store: finishing %s: file %s is of another tenant", e.ID, f.ID)
		}
	}
	return nil
}

func writeOutcome(ctx context.Context, c *conn, e agentsandbox.Execution, log eventlog.Sealed) (bool, error) {
	query, args := finishExecution, []any{
		string(e.Status), e.ReturnCode, e.Signal,
		e.StdoutBytes, e.StderrBytes, e.Truncated, e.FilesOmitted,
		e.DurationMS, e.CPUMS, e.MemoryPeakBytes, string(e.SessionStatus), e.Error, e.HTTPStatus, micros(e.EndedAt),
		log.Size, log.Stdout, log.Stderr, bytesOf(log.Inline), e.OutputDropped, e.ID,
	}
	if e.Tenant != "" { // recovery knows ids only
		query += " AND tenant = ?"
		args = append(args, e.Tenant)
	}
	n, err := c.exec(ctx, query, args...)
	return n == 1, err
}

func writeRefusals(ctx context.Context, c *conn, e agentsandbox.Execution) error {
	if len(e.NetworkRefused) == 0 {
		return nil
	}
	text, err := json.Marshal(e.NetworkRefused)
	if err != nil {
		return err
	}
	_, err = c.exec(ctx, insertRefusals, e.ID, string(text), e.NetworkRefusedOmitted)
	return err
}

// addRefusals fills in what the network refused.
func addRefusals(ctx context.Context, c *conn, at map[string]*agentsandbox.Execution, ids string) error {
	found, err := rows(ctx, c, scanRefusals, refusalsOfExecutions, ids)
	if err != nil {
		return err
	}
	for _, r := range found {
		e := at[r.id]
		if err := json.Unmarshal([]byte(r.kinds), &e.NetworkRefused); err != nil {
			return fmt.Errorf("what the network refused to %s: %w", r.id, err)
		}
		e.NetworkRefusedOmitted = r.others
	}
	return nil
}

type refusalsRow struct {
	id, kinds string
	others    int64
}

func scanRefusals(row scanner) (r refusalsRow, err error) {
	err = row.Scan(&r.id, &r.kinds, &r.others)
	return r, err
}

func writeFiles(ctx context.Context, c *conn, e agentsandbox.Execution) error {
	for _, f := range e.Files {
		n, err := c.exec(ctx, insertFileOfRun,
			f.ID, f.Filename, f.MediaType, f.SizeBytes, f.SHA256, f.SessionID, f.Path, micros(f.CreatedAt), e.ID)
		if err == nil && n != 1 {
			err = fmt.Errorf("%d rows for file %s", n, f.ID)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Execution finds a record, with those of its files that still exist, in the order in
// which they were given, and its event log. A run of an earlier server has its output
// in the record, and no log. Codes: execution_not_found.
func (db *DB) Execution(ctx context.Context, tenant, id string) (e agentsandbox.Execution, log eventlog.Sealed, err error) {
	err = db.snapshot(ctx, func(c *conn) error {
		found, err := rows(ctx, c, scanExecutionWithOutput, executionByID, id, tenant)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return notFound(agentsandbox.CodeExecutionNotFound, "execution", agentsandbox.ExecutionPrefix, id)
		}
		executions := []agentsandbox.Execution{found[0].Execution}
		if err := addFiles(ctx, c, executions); err != nil {
			return err
		}
		e, log = executions[0], found[0].log
		return nil
	})
	return e, log, err
}

// NeedsLog tells whether the file of an event log, whose ever it is, is needed: the
// run goes on, or its row has a log and not the bytes of it.
func (db *DB) NeedsLog(ctx context.Context, id string) (bool, error) {
	return find(ctx, db, nil, scanValue[bool], needsLog, id)
}

// Executions lists the records of a tenant, newest first, without code and
// output. Codes: invalid_request.
func (db *DB) Executions(ctx context.Context, tenant string, filter agentsandbox.ExecutionFilter) (agentsandbox.ExecutionPage, error) {
	result := agentsandbox.ExecutionPage{Page: filter.Page}
	if err := filter.Validate(); err != nil {
		return result, err
	}
	where, args := "tenant = ?", []any{tenant}
	if filter.SessionID != "" {
		where, args = where+" AND session_id = ?", append(args, filter.SessionID)
	}
	if filter.Status != "" {
		where, args = where+" AND status = ?", append(args, string(filter.Status))
	}
	for _, name := range slices.Sorted(maps.Keys(filter.Metadata)) {
		where, args = where+" AND "+hasMetadata, append(args, name, filter.Metadata[name])
	}
	err := db.snapshot(ctx, func(c *conn) (err error) {
		executions := listing[agentsandbox.Execution]{"executions", executionColumns, scanExecution, where, args, byAge}
		result.Executions, result.Total, result.NextCursor, err = executions.page(ctx, c, filter.Page)
		if err == nil {
			err = endEarly(ctx, c, &result)
		}
		if err != nil {
			return err
		}
		return addFiles(ctx, c, result.Executions)
	})
	return result, err
}

// addFiles fills in the files, the omissions and the metadata of executions, in one
// query each.
func addFiles(ctx context.Context, c *conn, executions []agentsandbox.Execution) error {
	if len(executions) == 0 {
		return nil
	}
	ids := make([]string, len(executions))
	at := make(map[string]*agentsandbox.Execution, len(executions))
	for i := range executions {
		ids[i] = executions[i].ID
		at[ids[i]] = &executions[i]
	}
	text, err := array("ids", ids)
	if err != nil {
		return err
	}
	files, err := rows(ctx, c, scanFile, filesOfExecutions, text)
	if err != nil {
		return err
	}
	for _, f := range files {
		e, ok := at[f.ExecutionID]
		if !ok {
			return fmt.Errorf("file %s is of %s, which was not asked for", f.ID, f.ExecutionID)
		}
		e.Files = append(e.Files, f)
	}
	if err := addDrops(ctx, c, at, text); err != nil {
		return err
	}
	if err := addRefusals(ctx, c, at, text); err != nil {
		return err
	}
	omitted, err := rows(ctx, c, scanOmission, omissionsOfExecutions, text)
	if err != nil {
		return err
	}
	for _, o := range omitted {
		e := at[o.execution]
		if e.OmittedReasons == nil {
			e.OmittedReasons = map[agentsandbox.OmittedReason]int{}
		}
		e.OmittedReasons[o.reason] = o.count
	}
	pairs, err := rows(ctx, c, scanMetadata, metadataOfExecutions, text)
	if err != nil {
		return err
	}
	for _, p := range pairs {
		e := at[p[0]]
		if e.Metadata == nil {
			e.Metadata = map[string]string{}
		}
		e.Metadata[p[1]] = p[2]
	}
	return nil
}

// omission is how many files of a run were not kept for one reason.
type omission struct {
	execution string
	reason    agentsandbox.OmittedReason
	count     int
}

func scanOmission(row scanner) (o omission, err error) {
	err = row.Scan(&o.execution, &o.reason, &o.count)
	return o, err
}

// scanMetadata reads an execution's id, a name and a value.
func scanMetadata(row scanner) (p [3]string, err error) {
	err = row.Scan(&p[0], &p[1], &p[2])
	return p, err
}

// executionRow is the record being scanned, and what has to be translated.
type executionRow struct {
	agentsandbox.Execution
	meta           string
	created, ended sql.NullInt64
}

func (r *executionRow) columns() []any {
	e := &r.Execution
	return []any{
		&e.ID, &e.Tenant, &e.SessionID, &e.Ephemeral, &e.Language, &e.Status, &e.ReturnCode, &e.Signal,
		&e.StdoutBytes, &e.StderrBytes, &e.Truncated, &e.FilesOmitted, &e.DurationMS, &e.CPUMS,
		&e.MemoryPeakBytes, &e.SessionStatus, &e.Error,
		&e.Endpoint, &e.Method, &e.HTTPStatus, &r.created, &r.ended, &r.meta,
	}
}

func (r *executionRow) execution() (agentsandbox.Execution, error) {
	var err error
	r.Meta, err = fromObject(r.meta)
	r.CreatedAt, r.EndedAt = fromMicros(r.created), fromMicros(r.ended)
	return r.Execution, err
}

func scanExecution(row scanner) (agentsandbox.Execution, error) {
	var r executionRow
	if err := row.Scan(r.columns()...); err != nil {
		return r.Execution, err
	}
	return r.execution()
}

// executionOutput is a record with its output.
type executionOutput struct {
	agentsandbox.Execution
	log eventlog.Sealed
}

func scanExecutionWithOutput(row scanner) (o executionOutput, err error) {
	var r executionRow
	var inline []byte
	err = row.Scan(append(r.columns(), &r.Code, &r.Stdout, &r.Stderr, &o.log.Size, &o.log.Stdout, &o.log.Stderr, &inline)...)
	if err != nil {
		return o, err
	}
	if len(inline) > 0 {
		o.log.Inline = inline
	}
	o.Execution, err = r.execution()
	return o, err
}
