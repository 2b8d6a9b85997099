-- +goose Up

-- What each tenant stores, kept right by the statements that add and remove
-- files, so that a quota is checked without counting them.
CREATE TABLE tenant_files (
    tenant TEXT    PRIMARY KEY,
    files  INTEGER NOT NULL,
    bytes  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO tenant_files (tenant, files, bytes)
SELECT tenant, count(*), sum(size_bytes) FROM files GROUP BY tenant;

-- +goose StatementBegin
CREATE TRIGGER files_added AFTER INSERT ON files BEGIN
    INSERT INTO tenant_files (tenant, files, bytes) VALUES (new.tenant, 1, new.size_bytes)
    ON CONFLICT (tenant) DO UPDATE SET files = files + 1, bytes = bytes + excluded.bytes;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER files_removed AFTER DELETE ON files BEGIN
    UPDATE tenant_files SET files = files - 1, bytes = bytes - old.size_bytes WHERE tenant = old.tenant;
END;
-- +goose StatementEnd

CREATE INDEX sessions_unfinished_by_tenant ON sessions (tenant) WHERE ended_at IS NULL;

-- Why a session ended, where that needs saying.
CREATE TABLE session_ends (
    session_id TEXT PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
    why        TEXT NOT NULL
) STRICT, WITHOUT ROWID;
