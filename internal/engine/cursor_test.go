package engine_test

import (
	"context"
	"strings"
	"testing"

	"github.com/agentsandbox/agentsandbox"
)

// cursorLists are the lists, each by its first page of one item from a cursor on.
func cursorLists(f *fixture) map[string]func(ctx context.Context, cursor string) (next string, err error) {
	page := func(cursor string) agentsandbox.Page { return agentsandbox.Page{Limit: 1, Cursor: cursor} }
	return map[string]func(context.Context, string) (string, error){
		"files": func(ctx context.Context, cursor string) (string, error) {
			p, err := f.Files(ctx, page(cursor))
			if err != nil {
				return "", err
			}
			return p.NextCursor, nil
		},
		"sessions": func(ctx context.Context, cursor string) (string, error) {
			p, err := f.Sessions(ctx, agentsandbox.SessionFilter{Page: page(cursor)})
			if err != nil {
				return "", err
			}
			return p.NextCursor, nil
		},
		"sessions with metadata": func(ctx context.Context, cursor string) (string, error) {
			p, err := f.Sessions(ctx, agentsandbox.SessionFilter{Page: page(cursor), Metadata: map[string]string{"n": "1"}})
			if err != nil {
				return "", err
			}
			return p.NextCursor, nil
		},
		"executions": func(ctx context.Context, cursor string) (string, error) {
			p, err := f.Executions(ctx, agentsandbox.ExecutionFilter{Page: page(cursor)})
			if err != nil {
				return "", err
			}
			return p.NextCursor, nil
		},
		"executions that succeeded": func(ctx context.Context, cursor string) (string, error) {
			p, err := f.Executions(ctx, agentsandbox.ExecutionFilter{Page: page(cursor), Status: agentsandbox.StatusSucceeded})
			if err != nil {
				return "", err
			}
			return p.NextCursor, nil
		},
		"keys": func(ctx context.Context, cursor string) (string, error) {
			p, err := f.Keys(ctx, page(cursor))
			if err != nil {
				return "", err
			}
			return p.NextCursor, nil
		},
		"audit": func(ctx context.Context, cursor string) (string, error) {
			p, err := f.AuditLog(ctx, page(cursor))
			if err != nil {
				return "", err
			}
			return p.NextCursor, nil
		},
	}
}

// fillLists makes two items of every list.
func fillLists(t *testing.T, f *fixture, ctx context.Context) {
	t.Helper()
	for range 2 {
		s, err := f.CreateSession(ctx, agentsandbox.SessionRequest{Metadata: map[string]string{"n": "1"}})
		if err != nil {
			t.Fatal(err)
		}
		f.bash(ctx, s.ID, "true")
		if _, err := f.UploadFile(ctx, agentsandbox.FileUpload{Filename: "a"}, strings.NewReader("a")); err != nil {
			t.Fatal(err)
		}
		if _, err := f.CreateKey(ctx, agentsandbox.KeyRequest{Name: "k"}); err != nil {
			t.Fatal(err)
		}
		f.audit.Append(ctx, agentsandbox.AuditEntry{Action: "execute", Outcome: agentsandbox.AuditOK})
	}
}

// TestACursorIsOfOneListTenantAndFilter gives the cursor of each list to every
// other, to another tenant, and with a byte changed.
func TestACursorIsOfOneListTenantAndFilter(t *testing.T) {
	f := newFixture(t, t.TempDir())
	ours, theirs := as(t, "a", agentsandbox.Scopes...), as(t, "b", agentsandbox.Scopes...)
	fillLists(t, f, ours)
	fillLists(t, f, theirs)
	lists := cursorLists(f)
	for from, first := range lists {
		cursor, err := first(ours, "")
		if err != nil || cursor == "" {
			t.Fatalf("%s: next cursor %q, %v", from, cursor, err)
		}
		for to, list := range lists {
			_, err := list(ours, cursor)
			if from == to && err != nil {
				t.Errorf("%s: %v", from, err)
			}
			if from != to {
				wantCode(t, err, agentsandbox.CodeInvalidRequest)
			}
		}
		// Keys and the audit log are of the whole server for who has the scope admin.
		if from != "keys" && from != "audit" {
			_, err = first(theirs, cursor)
			wantCode(t, err, agentsandbox.CodeInvalidRequest)
		}
		for n := range cursor {
			forged := []byte(cursor)
			forged[n] ^= 1
			_, err = first(ours, string(forged))
			wantCode(t, err, agentsandbox.CodeInvalidRequest)
		}
		for _, forged := range []string{"1.1", cursor + "A", cursor[1:], cursor + "=", " " + cursor} {
			_, err = first(ours, forged)
			wantCode(t, err, agentsandbox.CodeInvalidRequest)
		}
	}
	// A cursor of the keys of one tenant is of no use to another.
	manager := as(t, "a", agentsandbox.ScopeKeys)
	cursor, err := lists["keys"](manager, "")
	if err != nil || cursor == "" {
		t.Fatalf("%q, %v", cursor, err)
	}
	_, err = lists["keys"](as(t, "b", agentsandbox.ScopeKeys), cursor)
	wantCode(t, err, agentsandbox.CodeInvalidRequest)
}
