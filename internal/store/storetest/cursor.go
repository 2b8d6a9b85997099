package storetest

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

// walk reads a whole list by its cursors. between is called after each page but
// the last, with the ids of the page.
func walk(t *testing.T, l lister, limit int, between func(ids []string)) []string {
	t.Helper()
	var all []string
	page := agentsandbox.Page{Limit: limit}
	for {
		ids, total, next, err := l.list(t.Context(), page)
		ok(t, err)
		if len(ids) > limit || total < len(ids) || next != "" && len(ids) != limit {
			t.Fatalf("%s: %d items by pages of %d, of %d; next %q", l.name, len(ids), limit, total, next)
		}
		all = append(all, ids...)
		if next == "" {
			return all
		}
		between(ids)
		page.Cursor = next
	}
}

// listByCursor adds newer rows, and rows that are as old as those of the page,
// between pages: what was there before is listed once and in its order.
func listByCursor(t *testing.T, s Store) {
	for _, l := range listers(s) {
		for _, second := range []int{5, 5, 5, 1, 1, 9, 9, 5, 5, 1, 9} {
			_, err := l.insert(t.Context(), at(second))
			ok(t, err)
		}
		for _, limit := range []int{1, 3, 11, 100} {
			want, _, _, err := l.list(t.Context(), agentsandbox.Page{Limit: 100})
			ok(t, err)
			got := walk(t, l, limit, func([]string) {
				_, err := l.insert(t.Context(), at(20))
				ok(t, err)
			})
			if !slices.Equal(got, want) {
				t.Errorf("%s by pages of %d:\ngot  %v\nwant %v", l.name, limit, got, want)
			}
		}
	}
}

// listByCursorWhileChanging removes each page before the next is read, the row at
// which the cursor stands included, and adds newer rows.
func listByCursorWhileChanging(t *testing.T, s Store) {
	for _, l := range append(listers(s), auditLister(s)) {
		var made []string
		for n := range 25 {
			id, err := l.insert(t.Context(), at(n/4))
			ok(t, err)
			made = append(made, id)
		}
		got := walk(t, l, 7, func(ids []string) {
			for _, id := range ids {
				if l.remove != nil {
					ok(t, l.remove(t.Context(), id))
				}
			}
			_, err := l.insert(t.Context(), at(100))
			ok(t, err)
		})
		slices.Reverse(made)
		if !slices.Equal(got, made) {
			t.Errorf("%s:\ngot  %v\nwant %v", l.name, got, made)
		}
	}
}

func listBadCursor(t *testing.T, s Store) {
	for _, l := range append(listers(s), auditLister(s)) {
		for _, cursor := range []string{"x", "1", "1.", ".1", "1.2.3", "01.2", "1.2 ", "-", "1.99999999999999999999"} {
			_, _, _, err := l.list(t.Context(), agentsandbox.Page{Limit: 1, Cursor: cursor})
			wantCode(t, err, agentsandbox.CodeInvalidRequest)
		}
		_, _, _, err := l.list(t.Context(), agentsandbox.Page{Limit: 1, Offset: 1, Cursor: "1.1"})
		wantCode(t, err, agentsandbox.CodeInvalidRequest)
	}
}

// auditLister is the audit log, whose rows have numbers and are never removed.
func auditLister(s Store) lister {
	return lister{name: "audit", insert: func(ctx context.Context, made time.Time) (string, error) {
		id := agentsandbox.NewID(agentsandbox.ExecutionPrefix)
		return id, s.AppendAudit(ctx, agentsandbox.AuditEntry{At: made, Action: "execute", ObjectID: id, Outcome: agentsandbox.AuditOK})
	}, list: func(ctx context.Context, page agentsandbox.Page) ([]string, int, string, error) {
		p, err := s.AuditLog(ctx, page)
		return idsOf(p.Entries, func(e agentsandbox.AuditEntry) string { return e.ObjectID }), p.Total, p.NextCursor, err
	}}
}
