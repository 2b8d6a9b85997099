-- +goose Up

-- What the network refused to a run, where that was anything. A table of its own,
-- like execution_metadata: behind the output, every list would read that.
CREATE TABLE execution_refusals (
    execution_id TEXT    PRIMARY KEY REFERENCES executions (id),
    refusals     TEXT    NOT NULL, -- JSON array
    others       INTEGER NOT NULL  -- refusals of kinds beyond those
) STRICT, WITHOUT ROWID;
