-- +goose Up

-- The event log of a run that has ended has its output. A log that is small is in
-- the row; a larger one is a file, of which the row has the size. log_bytes is 0 where
-- there is no log: of a run that goes on, of one whose output was dropped, and of runs
-- from before there were logs, which have stdout and stderr in place of it. How much
-- output a log has is counted as that of the older runs is.
ALTER TABLE executions ADD COLUMN log_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE executions ADD COLUMN log_stdout INTEGER NOT NULL DEFAULT 0;
ALTER TABLE executions ADD COLUMN log_stderr INTEGER NOT NULL DEFAULT 0;
ALTER TABLE executions ADD COLUMN log BLOB NOT NULL DEFAULT x'';

DROP TRIGGER executions_changed;
DROP TRIGGER executions_removed;

-- +goose StatementBegin
CREATE TRIGGER executions_changed AFTER UPDATE OF code, stdout, stderr, log_stdout, log_stderr ON executions BEGIN
    UPDATE tenant_output SET bytes = bytes
        + octet_length(new.code) + length(new.stdout) + length(new.stderr) + new.log_stdout + new.log_stderr
        - octet_length(old.code) - length(old.stdout) - length(old.stderr) - old.log_stdout - old.log_stderr
    WHERE tenant = new.tenant;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER executions_removed AFTER DELETE ON executions BEGIN
    UPDATE tenant_output SET bytes = bytes
        - octet_length(old.code) - length(old.stdout) - length(old.stderr) - old.log_stdout - old.log_stderr
    WHERE tenant = old.tenant;
END;
-- +goose StatementEnd
