package store

import (
	"context"

	"github.com/agentsandbox/agentsandbox"
)

// A run may have a thousand files, whose names may be long, so a page of records
// could fill the memory of the server. A page ends early where it would have more.
const (
	// maxPageFileBytes bounds the files that the records of one page have.
	maxPageFileBytes = 32 << 20
	// fileRowBytes is what a file counts beside its names.
	fileRowBytes = 256
)

const (
	fileBytesOfExecutions = "SELECT execution_id, sum(length(CAST(filename AS BLOB)) + length(CAST(path AS BLOB))) + count(*) * ? FROM files" +
		" WHERE execution_id IN (SELECT value FROM json_each(?)) GROUP BY execution_id"
	placeOfExecution = "SELECT created_at, seq FROM executions WHERE id = ?"
)

// endEarly cuts a page of records that would have too many files; the first record
// stays in any case.
func endEarly(ctx context.Context, c *conn, page *agentsandbox.ExecutionPage) error {
	ids := make([]string, len(page.Executions))
	for i := range ids {
		ids[i] = page.Executions[i].ID
	}
	text, err := array("ids", ids)
	if err != nil {
		return err
	}
	sums, err := rows(ctx, c, scanFileBytes, fileBytesOfExecutions, fileRowBytes, text)
	if err != nil || len(sums) == 0 {
		return err
	}
	of := make(map[string]int64, len(sums))
	for _, s := range sums {
		of[s.execution] = s.bytes
	}
	total := int64(0)
	for i, id := range ids {
		if total += of[id]; total <= maxPageFileBytes || i == 0 {
			continue
		}
		places, err := rows(ctx, c, scanPlace, placeOfExecution, ids[i-1])
		if err != nil {
			return err
		}
		if len(places) == 1 {
			page.Executions, page.NextCursor = page.Executions[:i], places[0].String()
		}
		return nil
	}
	return nil
}

type fileBytes struct {
	execution string
	bytes     int64
}

func scanFileBytes(row scanner) (b fileBytes, err error) {
	err = row.Scan(&b.execution, &b.bytes)
	return b, err
}

func scanPlace(row scanner) (p position, err error) {
	err = row.Scan(&p.age, &p.seq)
	return p, err
}
