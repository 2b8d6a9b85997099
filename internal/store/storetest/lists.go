package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

// lister is one of the lists: insert makes a row and returns its id, list reads a
// page of ids, how many there are, and the next cursor. remove takes a row out of
// the list; it is nil where rows stay.
type lister struct {
	name   string
	insert func(context.Context, time.Time) (string, error)
	remove func(ctx context.Context, id string) error
	list   func(context.Context, agentsandbox.Page) (ids []string, total int, next string, err error)
}

func listers(s Store) []lister {
	return []lister{
		{name: "keys", insert: func(ctx context.Context, made time.Time) (string, error) {
			k, hash := newKey(ours, made)
			return k.ID, s.InsertKey(ctx, k, hash)
		}, list: func(ctx context.Context, page agentsandbox.Page) ([]string, int, string, error) {
			p, err := s.Keys(ctx, ours, page)
			return idsOf(p.Keys, func(k agentsandbox.Key) string { return k.ID }), p.Total, p.NextCursor, err
		}},
		{name: "sessions", insert: func(ctx context.Context, made time.Time) (string, error) {
			x := newSession(ours, made)
			return x.ID, s.InsertSession(ctx, x, nil)
		}, remove: func(ctx context.Context, id string) error {
			return s.MoveSession(ctx, id, agentsandbox.SessionDeleted, at(50))
		}, list: func(ctx context.Context, page agentsandbox.Page) ([]string, int, string, error) {
			p, err := s.Sessions(ctx, ours, agentsandbox.SessionFilter{Page: page})
			return idsOf(p.Sessions, func(x agentsandbox.Session) string { return x.ID }), p.Total, p.NextCursor, err
		}},
		{name: "executions", insert: func(ctx context.Context, made time.Time) (string, error) {
			e := newExecution(ours, made)
			return e.ID, s.InsertExecution(ctx, e, "", nil)
		}, list: func(ctx context.Context, page agentsandbox.Page) ([]string, int, string, error) {
			p, err := s.Executions(ctx, ours, agentsandbox.ExecutionFilter{Page: page})
			return idsOf(p.Executions, func(e agentsandbox.Execution) string { return e.ID }), p.Total, p.NextCursor, err
		}},
		{name: "files", insert: func(ctx context.Context, made time.Time) (string, error) {
			f := newFile(ours, made)
			return f.ID, s.InsertFile(ctx, f)
		}, remove: func(ctx context.Context, id string) error {
			return s.DeleteFile(ctx, ours, id)
		}, list: func(ctx context.Context, page agentsandbox.Page) ([]string, int, string, error) {
			p, err := s.Files(ctx, ours, page)
			return idsOf(p.Files, func(f agentsandbox.File) string { return f.ID }), p.Total, p.NextCursor, err
		}},
	}
}

func idsOf[T any](items []T, id func(T) string) []string {
	var all []string
	for _, item := range items {
		all = append(all, id(item))
	}
	return all
}

// listOrder makes rows of which many share a time, and some are older than those
// before them.
func listOrder(t *testing.T, s Store) {
	for _, l := range listers(s) {
		var want []string
		for _, second := range []int{5, 5, 5, 1, 1, 9, 9, 5, 5, 1, 9} {
			id, err := l.insert(t.Context(), at(second))
			ok(t, err)
			want = append(want, fmt.Sprintf("%d %02d %s", second, len(want), id))
		}
		slices.Sort(want) // by time, then in the order of making
		slices.Reverse(want)
		for n, s := range want {
			want[n] = s[len("0 00 "):]
		}
		for _, limit := range []int{1, 3, 11, 100} {
			var got []string
			for offset := 0; offset < len(want); offset += limit {
				ids, total, _, err := l.list(t.Context(), agentsandbox.Page{Limit: limit, Offset: offset})
				ok(t, err)
				wantEqual(t, l.name+": total", total, len(want))
				got = append(got, ids...)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s by pages of %d:\ngot  %v\nwant %v", l.name, limit, got, want)
			}
		}
	}
}

func listBounds(t *testing.T, s Store) {
	for _, l := range listers(s) {
		for _, page := range []agentsandbox.Page{{}, {Limit: -1}, {Limit: agentsandbox.MaxPageLimit + 1}, {Limit: 1, Offset: -1}} {
			_, _, _, err := l.list(t.Context(), page)
			wantCode(t, err, agentsandbox.CodeInvalidRequest)
		}
		ids, total, _, err := l.list(t.Context(), agentsandbox.Page{Limit: 10})
		ok(t, err)
		wantEqual(t, l.name+" of an empty store", len(ids)+total, 0)

		_, err = l.insert(t.Context(), at(0))
		ok(t, err)
		ids, total, _, err = l.list(t.Context(), agentsandbox.Page{Limit: 10, Offset: 1 << 40})
		ok(t, err)
		wantEqual(t, l.name+" past the end", len(ids), 0)
		wantEqual(t, l.name+" in all", total, 1)
	}
}

// listWhileChanging pages through lists while rows are added and removed. What
// one page says must be true of one moment: as many items as the total leaves
// room for, in order, each once.
func listWhileChanging(t *testing.T, s Store) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	lists := listers(s)
	failed := make(chan error, len(lists)+1)
	for _, l := range lists {
		go func() { failed <- until(ctx, func(n int) error { _, err := l.insert(ctx, at(n/3)); return err }) }()
	}
	go func() {
		failed <- until(ctx, func(n int) error {
			f := newFile(ours, at(n))
			if err := s.InsertFile(ctx, f); err != nil {
				return err
			}
			return s.DeleteFile(ctx, ours, f.ID)
		})
	}()
	const limit, pages = 7, 400
	seen := make([]int, len(lists)) // totals
	for n := range pages {
		l := lists[n%len(lists)]
		// Near the end, where one row more or less shows.
		page := agentsandbox.Page{Limit: limit, Offset: max(0, seen[n%len(lists)]-limit/2)}
		ids, total, _, err := l.list(t.Context(), page)
		ok(t, err)
		seen[n%len(lists)] = total
		if want := min(limit, max(0, total-page.Offset)); len(ids) != want {
			t.Errorf("%s: %d items at offset %d of %d in all, want %d", l.name, len(ids), page.Offset, total, want)
		}
		if unique := slices.Compact(slices.Sorted(slices.Values(ids))); len(unique) != len(ids) {
			t.Errorf("%s: an item stands twice in %v", l.name, ids)
		}
	}
	stop()
	for range cap(failed) {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
}

// until calls do with 0, 1, … until ctx is done or do fails otherwise.
func until(ctx context.Context, do func(n int) error) error {
	for n := 0; ; n++ {
		if err := do(n); err != nil || ctx.Err() != nil {
			if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
				return nil
			}
			return err
		}
	}
}

func rowsNeedOwner(t *testing.T, s Store) {
	key, hash := newKey("", at(0))
	nameless := newSession(ours, at(0))
	nameless.ID = ""
	for what, err := range map[string]error{
		"a key without a tenant":          s.InsertKey(t.Context(), key, hash),
		"a session without a tenant":      s.InsertSession(t.Context(), newSession("", at(0)), nil),
		"a session without an id":         s.InsertSession(t.Context(), nameless, nil),
		"an execution without a tenant":   s.InsertExecution(t.Context(), newExecution("", at(0)), "", nil),
		"a file without a tenant":         s.InsertFile(t.Context(), newFile("", at(0))),
		"a file that was made at no time": s.InsertFile(t.Context(), newFile(ours, time.Time{})),
	} {
		if err == nil {
			t.Errorf("%s was stored", what)
		}
	}
}

func rowTimes(t *testing.T, s Store) {
	zone := time.FixedZone("far east", 9*60*60)
	f := newFile(ours, time.Date(2026, 7, 1, 3, 4, 5, 123456789, zone))
	ok(t, s.InsertFile(t.Context(), f))
	got := must[agentsandbox.File](t)(s.File(t.Context(), ours, f.ID)).CreatedAt
	wantEqual(t, "time", got, time.Date(2026, 6, 30, 18, 4, 5, 123456000, time.UTC))
}

func rowsCancelled(t *testing.T, s Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, l := range listers(s) {
		if id, err := l.insert(ctx, at(0)); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: insert %s: %v, want context.Canceled", l.name, id, err)
		}
		if _, _, _, err := l.list(ctx, agentsandbox.Page{Limit: 1}); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: list: %v, want context.Canceled", l.name, err)
		}
		_, total, _, err := l.list(t.Context(), agentsandbox.Page{Limit: 1})
		ok(t, err)
		wantEqual(t, l.name+" after a cancelled insert", total, 0)
	}
}
