-- +goose Up

-- 'expired' becomes one more way in which a session has ended. A CHECK can be
-- changed in place like this when no row breaks the new one:
-- https://www.sqlite.org/lang_altertable.html#otheralter. The statements below
-- that add columns make every connection read the schema again.
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(sql, '(''deleted'', ''lost'')', '(''deleted'', ''lost'', ''expired'')')
    WHERE type = 'table' AND name = 'sessions';
PRAGMA writable_schema = RESET;

-- 0 milliseconds: never, for sessions from before there was expiry.
ALTER TABLE sessions ADD COLUMN idle_timeout_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN max_lifetime_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN last_used_at INTEGER;

-- A table of its own: as the last column of executions it would stand behind the
-- output, and every list would read that.
CREATE TABLE execution_metadata (
    execution_id TEXT NOT NULL REFERENCES executions (id),
    name         TEXT NOT NULL,
    value        TEXT NOT NULL,
    PRIMARY KEY (execution_id, name)
) STRICT, WITHOUT ROWID;

-- What retention removes is found by age, whose tenant it ever is.
CREATE INDEX sessions_ended ON sessions (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX executions_ended ON executions (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX files_by_age ON files (created_at);

-- Requests with an Idempotency-Key, each with its answer once it has one.
CREATE TABLE idempotent_requests (
    seq         INTEGER PRIMARY KEY,
    tenant      TEXT    NOT NULL CHECK (tenant <> ''),
    key_id      TEXT    NOT NULL, -- the API key that sent it
    key         TEXT    NOT NULL, -- the Idempotency-Key
    method      TEXT    NOT NULL,
    path        TEXT    NOT NULL, -- with its query
    digest      TEXT    NOT NULL, -- of the body; '' while it is not known
    object_id   TEXT    NOT NULL, -- what the request made; '' for nothing yet
    status      INTEGER NOT NULL, -- 0: not answered
    header      TEXT    NOT NULL, -- JSON object
    body        BLOB,             -- NULL: made again from object_id
    created_at  INTEGER NOT NULL,
    UNIQUE (tenant, key_id, key)
) STRICT;

CREATE INDEX idempotent_requests_by_age ON idempotent_requests (created_at);

-- Who did what. Rows are added and never changed: each hash covers the row and
-- the hash of the row before. AUTOINCREMENT: a number is never used again.
CREATE TABLE audit (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    at         INTEGER NOT NULL,
    tenant     TEXT    NOT NULL,
    key_id     TEXT    NOT NULL, -- '' for the server itself
    request_id TEXT    NOT NULL,
    remote     TEXT    NOT NULL,
    action     TEXT    NOT NULL,
    object_id  TEXT    NOT NULL,
    outcome    TEXT    NOT NULL,
    detail     TEXT    NOT NULL,
    hash       BLOB    NOT NULL CHECK (length(hash) = 32)
) STRICT;
