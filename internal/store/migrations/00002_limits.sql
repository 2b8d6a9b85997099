-- +goose NO TRANSACTION
-- +goose Up

-- What a run used and what became of its session, and the limits of a session.
-- The tables are made anew, that of executions because what can be large must stay
-- last: a list then reads no overflow page. The keys of files name the table,
-- and find the new one; they must not be looked at meanwhile. Run again after an
-- interruption, this does the same.

PRAGMA foreign_keys = OFF;

BEGIN IMMEDIATE;

CREATE TABLE executions_2 (
    seq               INTEGER PRIMARY KEY,
    id                TEXT    NOT NULL UNIQUE,
    tenant            TEXT    NOT NULL CHECK (tenant <> ''),
    session_id        TEXT    NOT NULL,
    ephemeral         INTEGER NOT NULL,
    language          TEXT    NOT NULL,
    status            TEXT    NOT NULL,
    return_code       INTEGER NOT NULL,
    signal            TEXT    NOT NULL,
    stdout_bytes      INTEGER NOT NULL,
    stderr_bytes      INTEGER NOT NULL,
    truncated         INTEGER NOT NULL,
    files_omitted     INTEGER NOT NULL,
    duration_ms       INTEGER NOT NULL,
    cpu_ms            INTEGER NOT NULL,
    memory_peak_bytes INTEGER NOT NULL,
    session_status    TEXT    NOT NULL,
    error             TEXT    NOT NULL,
    endpoint          TEXT    NOT NULL,
    method            TEXT    NOT NULL,
    http_status       INTEGER NOT NULL,
    created_at        INTEGER NOT NULL,
    ended_at          INTEGER,
    meta              TEXT    NOT NULL, -- JSON object
    code              TEXT    NOT NULL,
    stdout            BLOB    NOT NULL,
    stderr            BLOB    NOT NULL,
    CHECK ((status <> 'running') = (ended_at IS NOT NULL))
) STRICT;

INSERT INTO executions_2
SELECT seq, id, tenant, session_id, ephemeral, language, status, return_code, signal,
       stdout_bytes, stderr_bytes, truncated, files_omitted, duration_ms, cpu_ms, 0, '', error,
       endpoint, method, http_status, created_at, ended_at, meta, code, stdout, stderr
FROM executions;

DROP TABLE executions;
ALTER TABLE executions_2 RENAME TO executions;

CREATE INDEX executions_by_tenant ON executions (tenant, created_at);
CREATE INDEX executions_by_session ON executions (tenant, session_id, created_at);
CREATE INDEX executions_by_status ON executions (tenant, status, created_at);
CREATE INDEX executions_running ON executions (seq, id) WHERE ended_at IS NULL;

CREATE TABLE sessions_2 (
    seq          INTEGER PRIMARY KEY,
    id           TEXT    NOT NULL UNIQUE,
    tenant       TEXT    NOT NULL CHECK (tenant <> ''),
    status       TEXT    NOT NULL,
    template     TEXT    NOT NULL,
    env          TEXT    NOT NULL, -- JSON object; emptied when the session ends
    metadata     TEXT    NOT NULL, -- JSON object
    timeout_ms   INTEGER NOT NULL,
    memory_mb    INTEGER NOT NULL,
    cpus         REAL    NOT NULL,
    processes    INTEGER NOT NULL,
    open_files   INTEGER NOT NULL,
    output_bytes INTEGER NOT NULL,
    disk_mb      INTEGER NOT NULL,
    inodes       INTEGER NOT NULL,
    created_at   INTEGER NOT NULL,
    ended_at     INTEGER,
    CHECK ((status IN ('deleted', 'lost')) = (ended_at IS NOT NULL))
) STRICT;

INSERT INTO sessions_2
SELECT seq, id, tenant, status, template, env, metadata, timeout_ms, memory_mb, cpus, 0, 0, 0, 0, 0, created_at, ended_at
FROM sessions;

DROP TABLE sessions;
ALTER TABLE sessions_2 RENAME TO sessions;

CREATE INDEX sessions_live ON sessions (tenant, created_at) WHERE status = 'live';
CREATE INDEX sessions_unfinished ON sessions (seq, id) WHERE ended_at IS NULL;

COMMIT;

PRAGMA foreign_keys = ON;
