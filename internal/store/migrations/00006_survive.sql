-- +goose Up

-- What a later server needs to find again what runs: the name of a sandbox on
-- the host (empty: none yet), and the limits under which a run is followed.
ALTER TABLE sessions ADD COLUMN sandbox TEXT NOT NULL DEFAULT '';
ALTER TABLE executions ADD COLUMN sandbox TEXT NOT NULL DEFAULT '';
ALTER TABLE executions ADD COLUMN plan BLOB NOT NULL DEFAULT x'';
