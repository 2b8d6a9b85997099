package store

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/agentsandbox/agentsandbox"
)

// read runs do on a connection that only reads.
func (db *DB) read(ctx context.Context, do func(*conn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var c *conn
	select {
	case <-db.closing:
		return errClosed
	default:
	}
	select {
	case c = <-db.readers:
	case <-ctx.Done():
		return ctx.Err()
	case <-db.closing:
		return errClosed
	}
	defer func() { db.readers <- c }()
	return wrap(classify(db.dir, do(c)), "store: read")
}

// snapshot runs do on a connection that only reads, and all whose queries see
// one state of the database.
func (db *DB) snapshot(ctx context.Context, do func(*conn) error) error {
	return db.read(ctx, func(c *conn) error {
		return c.within(ctx, "BEGIN", func() error { return do(c) })
	})
}

// find reads one row. One that is not there is the error missing.
func find[T any](ctx context.Context, db *DB, missing error, scan func(scanner) (T, error), query string, args ...any) (T, error) {
	var item T
	err := db.read(ctx, func(c *conn) error {
		found, err := rows(ctx, c, scan, query, args...)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return missing
		}
		item = found[0]
		return nil
	})
	return item, err
}

// byAge orders most lists: rows of one time by seq, in the order of writing.
const byAge = "created_at"

// listing is what a page of a list is read from.
type listing[T any] struct {
	table, columns string
	scan           func(scanner) (T, error) // takes the columns
	where          string                   // follows WHERE
	args           []any
	// age is the column that the list is ordered by before seq; empty: by seq alone.
	age string
}

// page reads one page, newest first, how many rows there are in all, and the
// cursor of the next page; in a snapshot, the three agree.
func (l listing[T]) page(ctx context.Context, c *conn, page agentsandbox.Page) (items []T, total int, next string, err error) {
	count, err := rows(ctx, c, scanValue[int], "SELECT count(*) FROM "+l.table+" WHERE "+l.where, l.args...)
	if err != nil {
		return nil, 0, "", err
	}
	order := cmp.Or(l.age, "0") // a list by seq alone has one age
	where, args := l.where, slices.Clone(l.args)
	if page.Cursor != "" {
		at, err := parsePosition(page.Cursor)
		if err != nil {
			return nil, 0, "", err
		}
		if l.age != "" {
			where, args = where+" AND ("+l.age+", seq) < (?, ?)", append(args, at.age, at.seq)
		} else {
			where, args = where+" AND seq < ?", append(args, at.seq)
		}
	}
	by := "seq DESC"
	if l.age != "" {
		by = l.age + " DESC, " + by
	}
	var places []position
	// One row more than the page shows whether there is another page.
	items, err = rows(ctx, c, func(row scanner) (T, error) {
		places = append(places, position{})
		return l.scan(placed{row, &places[len(places)-1]})
	}, "SELECT "+l.columns+", "+order+", seq FROM "+l.table+" WHERE "+where+" ORDER BY "+by+" LIMIT ? OFFSET ?",
		append(args, page.Limit+1, page.Offset)...)
	if err == nil && len(items) > page.Limit {
		items, next = items[:page.Limit], places[page.Limit-1].String()
	}
	return items, count[0], next, err
}

// position is where a row stands in a list. It never changes, and tells nothing
// of whether the row still exists.
type position struct{ age, seq int64 }

func (p position) String() string { return fmt.Sprintf("%d.%d", p.age, p.seq) }

func parsePosition(cursor string) (p position, err error) {
	age, seq, _ := strings.Cut(cursor, ".")
	p.age, err = strconv.ParseInt(age, 10, 64)
	if err == nil {
		p.seq, err = strconv.ParseInt(seq, 10, 64)
	}
	if err != nil || p.String() != cursor {
		return p, agentsandbox.Invalid("cursor", "must be the next_cursor of a page of this list.")
	}
	return p, nil
}

// placed is a row whose last two columns are its position.
type placed struct {
	scanner
	at *position
}

func (r placed) Scan(columns ...any) error {
	return r.scanner.Scan(append(columns, &r.at.age, &r.at.seq)...)
}

// withMetadata narrows a condition to rows that have each of these pairs in
// their metadata.
func withMetadata(where string, args []any, metadata map[string]string) (string, []any) {
	for _, name := range slices.Sorted(maps.Keys(metadata)) {
		where += " AND EXISTS (SELECT 1 FROM json_each(metadata) WHERE key = ? AND atom = ?)"
		args = append(args, name, metadata[name])
	}
	return where, args
}
