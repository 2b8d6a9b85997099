package store

import (
	"context"

	"github.com/agentsandbox/agentsandbox"
)

const (
	outputOfTenant = "SELECT coalesce((SELECT bytes FROM tenant_output WHERE tenant = ?), 0)"

	// The oldest first, records and answers alike. An answer whose request has made
	// something is made again from that; one that has made nothing is given anew.
	// The answer of a failure that has made something stays: it is small, and the
	// record tells another story.
	oldestOutput = `SELECT seq, bytes, run FROM (
			SELECT seq, ended_at AS at, octet_length(code) + length(stdout) + length(stderr) + log_stdout + log_stderr AS bytes, id AS run
			FROM executions WHERE tenant = ?1 AND ended_at IS NOT NULL AND code <> ''
			UNION ALL
			SELECT seq, created_at, length(body), ''
			FROM idempotent_requests WHERE tenant = ?1 AND body IS NOT NULL AND (object_id = '' OR status < 300))
		ORDER BY at LIMIT ?2`

	noteDrop     = "INSERT INTO dropped_outputs (execution_id) SELECT id FROM executions WHERE seq = ? ON CONFLICT DO NOTHING"
	noteDropByID = "INSERT INTO dropped_outputs (execution_id) VALUES (?)"
	dropOutput   = `UPDATE executions SET code = '', stdout = x'', stderr = x'', log_bytes = 0, log_stdout = 0, log_stderr = 0, log = x'',
			truncated = truncated OR stdout_bytes + stderr_bytes > 0
		WHERE seq = ?`
	dropBody = "UPDATE idempotent_requests SET body = NULL WHERE seq = ? AND object_id <> ''"

	droppedOfExecutions = "SELECT execution_id FROM dropped_outputs WHERE execution_id IN (SELECT value FROM json_each(?))"
)

// dropBatch is how many records and answers one transaction drops at most.
const dropBatch = 100

// oldOutput is what can be dropped: that of a run, or an answer.
type oldOutput struct {
	seq, bytes int64
	run        string // its id; empty: it is an answer
}

// DropOutput drops code, output and kept answers of a tenant, the oldest first,
// until at most keep bytes are left, and returns the ids of the runs that have lost
// theirs, also with an error: the caller removes the files of their event logs. Runs
// that have not ended keep what they have, and files are never dropped.
func (db *DB) DropOutput(ctx context.Context, tenant string, keep int64) ([]string, error) {
	var all []string
	for {
		dropped, more, err := db.dropSome(ctx, tenant, keep)
		all = append(all, dropped...)
		if err != nil || !more {
			return all, wrap(err, "store: drop output")
		}
	}
}

// dropSome is one transaction of DropOutput: as long as it goes on, nobody else
// writes.
func (db *DB) dropSome(ctx context.Context, tenant string, keep int64) (dropped []string, more bool, err error) {
	err = db.write(ctx, freesSpace, func(ctx context.Context, c *conn) error {
		return c.within(ctx, "BEGIN IMMEDIATE", func() error {
			dropped, more = nil, false
			used, err := rows(ctx, c, scanValue[int64], outputOfTenant, tenant)
			if err != nil || used[0] <= keep {
				return err
			}
			oldest, err := rows(ctx, c, scanOldOutput, oldestOutput, tenant, dropBatch)
			if err != nil {
				return err
			}
			left := used[0]
			for _, o := range oldest {
				if left <= keep || used[0]-left >= deletedOutputBytes {
					break
				}
				if err := drop(ctx, c, o); err != nil {
					return err
				}
				left -= o.bytes
				if o.run != "" {
					dropped = append(dropped, o.run)
				}
			}
			more = left > keep && len(oldest) > 0
			return nil
		})
	})
	if err != nil {
		return nil, false, err // nothing was dropped
	}
	return dropped, more, nil
}

func drop(ctx context.Context, c *conn, o oldOutput) error {
	queries := []string{noteDrop, dropOutput}
	if o.run == "" {
		queries = []string{dropBody, dropUnbound}
	}
	for _, query := range queries {
		if _, err := c.exec(ctx, query, o.seq); err != nil {
			return err
		}
	}
	return nil
}

func scanOldOutput(row scanner) (o oldOutput, err error) {
	err = row.Scan(&o.seq, &o.bytes, &o.run)
	return o, err
}

// addDrops fills in whose output was dropped.
func addDrops(ctx context.Context, c *conn, at map[string]*agentsandbox.Execution, ids string) error {
	dropped, err := rows(ctx, c, scanValue[string], droppedOfExecutions, ids)
	for _, id := range dropped {
		at[id].OutputDropped = true
	}
	return err
}
