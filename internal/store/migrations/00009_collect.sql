-- +goose Up

-- Whether the files of tools are kept of the runs of a session.
ALTER TABLE sessions ADD COLUMN collect_ignored INTEGER NOT NULL DEFAULT 0;

-- How many files of a run were not kept, and why. A table of its own, like that of
-- the metadata: a column would stand behind the output.
CREATE TABLE execution_omissions (
    execution_id TEXT    NOT NULL REFERENCES executions (id),
    reason       TEXT    NOT NULL,
    count        INTEGER NOT NULL,
    PRIMARY KEY (execution_id, reason)
) STRICT, WITHOUT ROWID;
