package audit_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/audit"
	"github.com/agentsandbox/agentsandbox/internal/store"
)

// fixture is a log on the real store, whose rows can be made to fail.
type fixture struct {
	*audit.Log
	fails atomic.Bool
	ahead atomic.Int64 // how far the clock was set forward
}

type failingStore struct {
	audit.Store
	f *fixture
}

func (s failingStore) AppendAudit(ctx context.Context, e agentsandbox.AuditEntry) error {
	if s.f.fails.Load() {
		return errors.New("the disk is full")
	}
	return s.Store.AppendAudit(ctx, e)
}

func (f *fixture) now() time.Time { return time.Now().Add(time.Duration(f.ahead.Load())) }

func newFixture(t *testing.T) *fixture {
	t.Helper()
	db, err := store.Open(t.Context(), t.TempDir(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	f := &fixture{}
	f.Log = audit.New(audit.Options{Store: failingStore{db, f}, Logger: slog.New(slog.DiscardHandler), Now: f.now})
	return f
}

// rows are those of the log, oldest first.
func (f *fixture) rows(t *testing.T) []agentsandbox.AuditEntry {
	t.Helper()
	page, err := f.AuditLog(as(t, agentsandbox.ScopeAdmin), agentsandbox.Page{Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(page.Entries)
	return page.Entries
}

func as(t *testing.T, scopes ...agentsandbox.Scope) context.Context {
	return agentsandbox.WithPrincipal(t.Context(), agentsandbox.Principal{KeyID: "key_a", Tenant: "a", Scopes: scopes})
}

func row(object string) agentsandbox.AuditEntry {
	return agentsandbox.AuditEntry{Tenant: "a", Action: "execute", ObjectID: object, Outcome: agentsandbox.AuditOK}
}

func TestOnlyAdministratorsReadTheLog(t *testing.T) {
	f := newFixture(t)
	if err := f.Append(t.Context(), row("exe_1")); err != nil {
		t.Fatal(err)
	}
	if rows := f.rows(t); len(rows) != 1 || rows[0].ObjectID != "exe_1" || rows[0].At.IsZero() {
		t.Errorf("%+v", rows)
	}
	for _, scope := range []agentsandbox.Scope{agentsandbox.ScopeSandbox, agentsandbox.ScopeRead, agentsandbox.ScopeKeys} {
		if _, err := f.AuditLog(as(t, scope), agentsandbox.Page{Limit: 1}); agentsandbox.CodeOf(err) != agentsandbox.CodeForbidden {
			t.Errorf("%s: %v", scope, err)
		}
	}
	if _, err := f.AuditLog(t.Context(), agentsandbox.Page{Limit: 1}); agentsandbox.CodeOf(err) != agentsandbox.CodeUnauthorized {
		t.Error(err)
	}
}

func TestARowOutlivesTheContextOfItsRequest(t *testing.T) {
	f := newFixture(t)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Append(gone, row("exe_1")); err != nil || len(f.rows(t)) != 1 {
		t.Error(err)
	}
}

// TestNothingIsChangedWhileARowIsOverdue: a row about what was done is written
// before anything else is changed; one about a refusal is not worth that.
func TestNothingIsChangedWhileARowIsOverdue(t *testing.T) {
	f := newFixture(t)
	f.fails.Store(true)
	refused := row("exe_0")
	refused.Outcome = "forbidden"
	if err := f.Append(t.Context(), refused); err == nil {
		t.Fatal("the row was written")
	}
	if err := f.Ready(t.Context()); err != nil {
		t.Errorf("a row about a refusal stops all changes: %v", err)
	}
	for _, object := range []string{"exe_1", "exe_2"} {
		if err := f.Append(t.Context(), row(object)); err == nil {
			t.Fatal("the row was written")
		}
	}
	if err := f.Ready(t.Context()); agentsandbox.CodeOf(err) != agentsandbox.CodeUnavailable {
		t.Error(err)
	}
	f.fails.Store(false)
	if err := f.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rows := f.rows(t); len(rows) != 2 || rows[0].ObjectID != "exe_1" || rows[1].ObjectID != "exe_2" {
		t.Errorf("%+v", rows)
	}
}

// TestOverdueRowsAreWrittenAtTheEnd: nobody asked for a change after the failure,
// so the end of the server is the last chance.
func TestOverdueRowsAreWrittenAtTheEnd(t *testing.T) {
	f := newFixture(t)
	f.fails.Store(true)
	if err := f.Append(t.Context(), row("exe_overdue")); err == nil {
		t.Fatal("the row was written")
	}
	if err := f.Close(); err == nil || !strings.Contains(err.Error(), "audit log") || !strings.Contains(err.Error(), "the disk is full") {
		t.Fatalf("Close kept quiet about a row that is lost: %v", err)
	}
	f.fails.Store(false)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if rows := f.rows(t); len(rows) != 1 || rows[0].ObjectID != "exe_overdue" {
		t.Errorf("the log has %+v", rows)
	}
}
