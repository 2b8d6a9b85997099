-- +goose Up

-- What a session may reach, as it was asked for (JSON; '': as the server allows),
-- its secrets, sealed with the key of the data directory (empty: none), and the
-- ports that have a URL (JSON).
ALTER TABLE sessions ADD COLUMN network TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN secrets BLOB NOT NULL DEFAULT x'';
ALTER TABLE sessions ADD COLUMN ports TEXT NOT NULL DEFAULT '[]';
