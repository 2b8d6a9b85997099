package client

import (
	"cmp"
	"context"
	"iter"

	"github.com/agentsandbox/agentsandbox"
)

// The All methods go through a whole list, a page at a time as the loop asks for
// it. An error is the last pair, with a zero item. Every item that exists all the
// while comes exactly once, also when the loop deletes what it is given; what is
// made after the loop began may be missing.

// AllExecutions lists records, newest first, from filter.Offset or filter.Cursor on; filter.Limit
// is the size of a page.
func (c *Client) AllExecutions(ctx context.Context, filter agentsandbox.ExecutionFilter) iter.Seq2[agentsandbox.Execution, error] {
	return all(filter.Page, func(e agentsandbox.Execution) string { return e.ID }, func(page agentsandbox.Page) ([]agentsandbox.Execution, int, string, error) {
		filter.Page = page
		p, err := c.Executions(ctx, filter)
		if err != nil {
			return nil, 0, "", err
		}
		return p.Executions, p.Total, p.NextCursor, nil
	})
}

// AllSessions lists live sessions, newest first, from filter.Offset or filter.Cursor on;
// filter.Limit is the size of a page.
func (c *Client) AllSessions(ctx context.Context, filter agentsandbox.SessionFilter) iter.Seq2[agentsandbox.Session, error] {
	return all(filter.Page, func(s agentsandbox.Session) string { return s.ID }, func(page agentsandbox.Page) ([]agentsandbox.Session, int, string, error) {
		filter.Page = page
		p, err := c.Sessions(ctx, filter)
		if err != nil {
			return nil, 0, "", err
		}
		return p.Sessions, p.Total, p.NextCursor, nil
	})
}

// AllFiles lists files, newest first.
func (c *Client) AllFiles(ctx context.Context) iter.Seq2[agentsandbox.File, error] {
	return all(agentsandbox.Page{}, func(f agentsandbox.File) string { return f.ID }, func(page agentsandbox.Page) ([]agentsandbox.File, int, string, error) {
		p, err := c.Files(ctx, page)
		if err != nil {
			return nil, 0, "", err
		}
		return p.Files, p.Total, p.NextCursor, nil
	})
}

// AllKeys lists keys, newest first, without their values.
func (c *Client) AllKeys(ctx context.Context) iter.Seq2[agentsandbox.Key, error] {
	return all(agentsandbox.Page{}, func(k agentsandbox.Key) string { return k.ID }, func(page agentsandbox.Page) ([]agentsandbox.Key, int, string, error) {
		p, err := c.Keys(ctx, page)
		if err != nil {
			return nil, 0, "", err
		}
		return p.Keys, p.Total, p.NextCursor, nil
	})
}

// AllAudit lists the audit log, newest first.
func (c *Client) AllAudit(ctx context.Context) iter.Seq2[agentsandbox.AuditEntry, error] {
	return all(agentsandbox.Page{}, func(e agentsandbox.AuditEntry) int64 { return e.Seq }, func(page agentsandbox.Page) ([]agentsandbox.AuditEntry, int, string, error) {
		p, err := c.AuditLog(ctx, page)
		if err != nil {
			return nil, 0, "", err
		}
		return p.Entries, p.Total, p.NextCursor, nil
	})
}

// AllPaths lists a directory of a session by name.
func (c *Client) AllPaths(ctx context.Context, sessionID, path string) iter.Seq2[agentsandbox.PathInfo, error] {
	return func(yield func(agentsandbox.PathInfo, error) bool) {
		for after := ""; ; {
			page, err := c.ListPath(ctx, sessionID, path, after, 1000)
			if err != nil {
				yield(agentsandbox.PathInfo{}, err)
				return
			}
			for _, entry := range page.Entries {
				if !yield(entry, nil) {
					return
				}
			}
			if page.Next == "" || page.Next == after {
				return
			}
			after = page.Next
		}
	}
}

// all goes through pages until there is no next one.
func all[T any, ID comparable](page agentsandbox.Page, id func(T) ID, fetch func(agentsandbox.Page) (items []T, total int, next string, err error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		page := page
		page.Limit = cmp.Or(page.Limit, agentsandbox.MaxPageLimit)
		seen := make(map[ID]bool)
		for {
			items, total, next, err := fetch(page)
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, item := range items {
				if key := id(item); !seen[key] { // pages by offset show an item twice when newer ones come
					seen[key] = true
					if !yield(item, nil) {
						return
					}
				}
			}
			switch {
			case next != "":
				page.Offset, page.Cursor = 0, next
			case page.Cursor == "" && len(items) > 0 && page.Offset+len(items) < total:
				// There is more and no cursor: an older server, which knows offsets only.
				page.Offset += len(items)
			default:
				return
			}
		}
	}
}
