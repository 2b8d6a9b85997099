-- +goose Up

-- How many bytes of code, output and kept answers each tenant has, kept right by
-- the statements that write and remove them.
CREATE TABLE tenant_output (
    tenant TEXT    PRIMARY KEY,
    bytes  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO tenant_output (tenant, bytes)
SELECT tenant, sum(bytes) FROM (
    SELECT tenant, octet_length(code) + length(stdout) + length(stderr) AS bytes FROM executions
    UNION ALL
    SELECT tenant, coalesce(length(body), 0) FROM idempotent_requests)
GROUP BY tenant;

-- +goose StatementBegin
CREATE TRIGGER executions_added AFTER INSERT ON executions BEGIN
    INSERT INTO tenant_output (tenant, bytes)
    VALUES (new.tenant, octet_length(new.code) + length(new.stdout) + length(new.stderr))
    ON CONFLICT (tenant) DO UPDATE SET bytes = bytes + excluded.bytes;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER executions_changed AFTER UPDATE OF code, stdout, stderr ON executions BEGIN
    UPDATE tenant_output SET bytes = bytes
        + octet_length(new.code) + length(new.stdout) + length(new.stderr)
        - octet_length(old.code) - length(old.stdout) - length(old.stderr)
    WHERE tenant = new.tenant;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER executions_removed AFTER DELETE ON executions BEGIN
    UPDATE tenant_output SET bytes = bytes - octet_length(old.code) - length(old.stdout) - length(old.stderr)
    WHERE tenant = old.tenant;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER requests_answered AFTER UPDATE OF body ON idempotent_requests BEGIN
    INSERT INTO tenant_output (tenant, bytes)
    VALUES (new.tenant, coalesce(length(new.body), 0) - coalesce(length(old.body), 0))
    ON CONFLICT (tenant) DO UPDATE SET bytes = bytes + excluded.bytes;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER requests_removed AFTER DELETE ON idempotent_requests BEGIN
    UPDATE tenant_output SET bytes = bytes - coalesce(length(old.body), 0) WHERE tenant = old.tenant;
END;
-- +goose StatementEnd

-- What is dropped first, when a tenant has too much: no code is empty that was not
-- dropped.
CREATE INDEX executions_with_output ON executions (tenant, ended_at) WHERE ended_at IS NOT NULL AND code <> '';
CREATE INDEX idempotent_requests_with_body ON idempotent_requests (tenant, created_at) WHERE body IS NOT NULL;

-- Runs whose code and output are not kept any more, or never were, for want of
-- room. A table of its own, like execution_metadata: a column would stand behind
-- the output.
CREATE TABLE dropped_outputs (
    execution_id TEXT PRIMARY KEY REFERENCES executions (id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
