-- +goose Up

-- "AgS1": tells this database from any other SQLite file.
PRAGMA application_id = 1097290545;

-- Every table has a sequence, the order in which rows were written: lists are
-- ordered by (created_at DESC, seq DESC), which no two rows share. Times are
-- microseconds since 1970 UTC; NULL says that the moment has not come.

CREATE TABLE api_keys (
    seq          INTEGER PRIMARY KEY,
    id           TEXT    NOT NULL UNIQUE,
    hash         BLOB    NOT NULL UNIQUE CHECK (length(hash) = 32),
    tenant       TEXT    NOT NULL CHECK (tenant <> ''),
    name         TEXT    NOT NULL,
    hint         TEXT    NOT NULL,
    scopes       TEXT    NOT NULL, -- JSON array
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    last_used_at INTEGER,
    revoked_at   INTEGER
) STRICT;

CREATE INDEX api_keys_by_age ON api_keys (created_at);
CREATE INDEX api_keys_by_tenant ON api_keys (tenant, created_at);

CREATE TABLE sessions (
    seq        INTEGER PRIMARY KEY,
    id         TEXT    NOT NULL UNIQUE,
    tenant     TEXT    NOT NULL CHECK (tenant <> ''),
    status     TEXT    NOT NULL,
    template   TEXT    NOT NULL,
    env        TEXT    NOT NULL, -- JSON object; emptied when the session ends
    metadata   TEXT    NOT NULL, -- JSON object
    timeout_ms INTEGER NOT NULL,
    memory_mb  INTEGER NOT NULL,
    cpus       REAL    NOT NULL,
    created_at INTEGER NOT NULL,
    ended_at   INTEGER,
    CHECK ((status IN ('deleted', 'lost')) = (ended_at IS NOT NULL))
) STRICT;

CREATE INDEX sessions_live ON sessions (tenant, created_at) WHERE status = 'live';
CREATE INDEX sessions_unfinished ON sessions (seq, id) WHERE ended_at IS NULL;

-- session_id names no row of sessions when the session was made for one run.
-- What can be large stands last: a list then reads no overflow page.
CREATE TABLE executions (
    seq           INTEGER PRIMARY KEY,
    id            TEXT    NOT NULL UNIQUE,
    tenant        TEXT    NOT NULL CHECK (tenant <> ''),
    session_id    TEXT    NOT NULL,
    ephemeral     INTEGER NOT NULL,
    language      TEXT    NOT NULL,
    status        TEXT    NOT NULL,
    return_code   INTEGER NOT NULL,
    signal        TEXT    NOT NULL,
    stdout_bytes  INTEGER NOT NULL,
    stderr_bytes  INTEGER NOT NULL,
    truncated     INTEGER NOT NULL,
    files_omitted INTEGER NOT NULL,
    duration_ms   INTEGER NOT NULL,
    cpu_ms        INTEGER NOT NULL,
    error         TEXT    NOT NULL,
    endpoint      TEXT    NOT NULL,
    method        TEXT    NOT NULL,
    http_status   INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    ended_at      INTEGER,
    meta          TEXT    NOT NULL, -- JSON object
    code          TEXT    NOT NULL,
    stdout        BLOB    NOT NULL,
    stderr        BLOB    NOT NULL,
    CHECK ((status <> 'running') = (ended_at IS NOT NULL))
) STRICT;

CREATE INDEX executions_by_tenant ON executions (tenant, created_at);
CREATE INDEX executions_by_session ON executions (tenant, session_id, created_at);
CREATE INDEX executions_by_status ON executions (tenant, status, created_at);
CREATE INDEX executions_running ON executions (seq, id) WHERE ended_at IS NULL;

CREATE TABLE files (
    seq          INTEGER PRIMARY KEY,
    id           TEXT    NOT NULL UNIQUE,
    tenant       TEXT    NOT NULL CHECK (tenant <> ''),
    filename     TEXT    NOT NULL, -- the bytes of the name, UTF-8 or not
    media_type   TEXT    NOT NULL,
    size_bytes   INTEGER NOT NULL,
    sha256       TEXT    NOT NULL,
    session_id   TEXT    NOT NULL,
    execution_id TEXT    REFERENCES executions (id), -- NULL: uploaded
    path         TEXT    NOT NULL,
    created_at   INTEGER NOT NULL
) STRICT;

CREATE INDEX files_by_tenant ON files (tenant, created_at);
CREATE INDEX files_by_execution ON files (execution_id) WHERE execution_id IS NOT NULL;
