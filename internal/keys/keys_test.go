package keys_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/audit"
	"github.com/agentsandbox/agentsandbox/internal/keys"
	"github.com/agentsandbox/agentsandbox/internal/store"
)

// fixture is a registry on the real store, with a clock that can be set forward.
type fixture struct {
	*keys.Registry
	store *store.DB
	ahead atomic.Int64
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	db, err := store.Open(t.Context(), t.TempDir(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{store: db}
	f.Registry = f.again()
	t.Cleanup(func() {
		if err := errors.Join(f.Close(), db.Close()); err != nil {
			t.Error(err)
		}
	})
	return f
}

// again is the registry of a server that is started on the same store.
func (f *fixture) again() *keys.Registry {
	log := slog.New(slog.DiscardHandler)
	return keys.New(keys.Options{
		Store: f.store, Audit: audit.New(audit.Options{Store: f.store, Logger: log}), Logger: log,
		Now: func() time.Time { return time.Now().Add(time.Duration(f.ahead.Load())) },
	})
}

// as acts for a tenant.
func as(t *testing.T, tenant string, scopes ...agentsandbox.Scope) context.Context {
	return agentsandbox.WithPrincipal(t.Context(), agentsandbox.Principal{KeyID: "key_" + tenant, Tenant: tenant, Scopes: scopes})
}

func (f *fixture) key(t *testing.T, expires time.Time) *agentsandbox.NewKey {
	t.Helper()
	key, err := f.CreateKey(as(t, "a", agentsandbox.ScopeAdmin), agentsandbox.KeyRequest{Name: "k", ExpiresAt: expires})
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func wantCode(t *testing.T, err error, want agentsandbox.Code) {
	t.Helper()
	if got := agentsandbox.CodeOf(err); got != want {
		t.Errorf("code %q (%v); want %q", got, err, want)
	}
}

func TestWhoMayManageWhichKeys(t *testing.T) {
	f := newFixture(t)
	value, err := f.Bootstrap(t.Context(), "")
	if err != nil || value == "" {
		t.Fatal(value, err)
	}
	if again, err := f.Bootstrap(t.Context(), ""); err != nil || again != "" {
		t.Errorf("a second key was made: %q, %v", again, err)
	}
	p, err := f.Authenticate(t.Context(), value)
	if err != nil || !p.Has(agentsandbox.ScopeAdmin) {
		t.Fatal(p, err)
	}
	admin := agentsandbox.WithPrincipal(t.Context(), p)
	made, err := f.CreateKey(admin, agentsandbox.KeyRequest{Name: "n", Tenant: "b", Scopes: []agentsandbox.Scope{agentsandbox.ScopeKeys}})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(made.Value, agentsandbox.SecretPrefix) || !strings.HasPrefix(made.Value, made.Hint) || len(made.Hint) > 12 {
		t.Errorf("%+v", made)
	}
	keeper, err := f.Authenticate(t.Context(), made.Value)
	if err != nil || keeper.Tenant != "b" {
		t.Fatal(keeper, err)
	}
	manager := agentsandbox.WithPrincipal(t.Context(), keeper)
	_, err = f.CreateKey(manager, agentsandbox.KeyRequest{Name: "n", Scopes: []agentsandbox.Scope{agentsandbox.ScopeAdmin}})
	wantCode(t, err, agentsandbox.CodeForbidden)
	_, err = f.CreateKey(manager, agentsandbox.KeyRequest{Name: "n", Tenant: "c", Scopes: []agentsandbox.Scope{agentsandbox.ScopeKeys}})
	wantCode(t, err, agentsandbox.CodeForbidden)
	wantCode(t, f.RevokeKey(manager, p.KeyID), agentsandbox.CodeKeyNotFound)
	if list, err := f.Keys(manager, agentsandbox.Page{Limit: 10}); err != nil || list.Total != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	if err := f.RevokeKey(admin, made.ID); err != nil {
		t.Fatal(err)
	}
	_, err = f.Authenticate(t.Context(), made.Value)
	wantCode(t, err, agentsandbox.CodeUnauthorized)
	_, err = f.Authenticate(t.Context(), "")
	wantCode(t, err, agentsandbox.CodeUnauthorized)
	_, err = f.CreateKey(as(t, "x", agentsandbox.ScopeSandbox), agentsandbox.KeyRequest{Name: "n"})
	wantCode(t, err, agentsandbox.CodeForbidden)
}

func TestTheBootstrapKeyIsTheOneThatIsGiven(t *testing.T) {
	f := newFixture(t)
	const value = "a value that somebody chose"
	for n, want := range []string{value, ""} {
		if made, err := f.Bootstrap(t.Context(), value); err != nil || made != want {
			t.Errorf("start %d made %q, %v", n, made, err)
		}
	}
	p, err := f.Authenticate(t.Context(), value)
	if err != nil {
		t.Fatal(err)
	}
	admin := agentsandbox.WithPrincipal(t.Context(), p)
	list, err := f.Keys(admin, agentsandbox.Page{Limit: 10})
	if err != nil || list.Total != 1 || list.Keys[0].Hint != "" {
		t.Errorf("something of the value is shown: %+v, %v", list, err)
	}
	if err := f.RevokeKey(admin, p.KeyID); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Bootstrap(t.Context(), value); err == nil {
		t.Error("a key that was revoked lives again")
	}
}

// TestTheLastUseIsWrittenAtMostOnceAMinute: and at the end, what is not written yet.
func TestTheLastUseIsWrittenAtMostOnceAMinute(t *testing.T) {
	f := newFixture(t)
	key := f.key(t, time.Time{})
	lastUse := func() time.Time {
		t.Helper()
		list, err := f.Keys(as(t, "a", agentsandbox.ScopeKeys), agentsandbox.Page{Limit: 1})
		if err != nil {
			t.Fatal(err)
		}
		return list.Keys[0].LastUsedAt
	}
	use := func() {
		t.Helper()
		if _, err := f.Authenticate(t.Context(), key.Value); err != nil {
			t.Fatal(err)
		}
	}
	use()
	first := lastUse()
	if first.IsZero() {
		t.Fatal("the first use was not written")
	}
	f.ahead.Add(int64(59 * time.Second))
	use()
	if now := lastUse(); !now.Equal(first) {
		t.Errorf("written again within a minute: %v, after %v", now, first)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if now := lastUse(); now.Sub(first) < 59*time.Second {
		t.Errorf("the end did not write the last use: %v, after %v", now, first)
	}
}

// TestWhoHoldsSomethingForAKeyHearsOfItsRevocation: before the caller does, and when
// the key is known to have ended.
func TestWhoHoldsSomethingForAKeyHearsOfItsRevocation(t *testing.T) {
	f := newFixture(t)
	kept, revoked := f.key(t, time.Time{}), f.key(t, time.Time{})
	var heard []string
	failure := errors.New("a URL could not be closed")
	f.OnRevoke(func(_ context.Context, id string) error {
		if end, known := f.End(id); !known || end.After(time.Now()) {
			t.Errorf("told of %s before its end is known: %v, %v", id, end, known)
		}
		heard = append(heard, id)
		return failure
	})
	f.OnRevoke(func(_ context.Context, id string) error { heard = append(heard, id); return nil })
	if err := f.RevokeKey(as(t, "a", agentsandbox.ScopeKeys), revoked.ID); !errors.Is(err, failure) {
		t.Errorf("the failure of a watcher is lost: %v", err)
	}
	if len(heard) != 2 || heard[0] != revoked.ID || heard[1] != revoked.ID {
		t.Errorf("told of %q", heard)
	}
	wantCode(t, f.RevokeKey(as(t, "b", agentsandbox.ScopeKeys), kept.ID), agentsandbox.CodeKeyNotFound)
	if len(heard) != 2 {
		t.Errorf("told of a key that was not revoked: %q", heard)
	}
	_, err := f.Authenticate(t.Context(), revoked.Value)
	wantCode(t, err, agentsandbox.CodeUnauthorized)
}

func TestWhenAKeyEnds(t *testing.T) {
	f := newFixture(t)
	end := time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
	forever, expires := f.key(t, time.Time{}), f.key(t, end)
	wantEnd := func(r *keys.Registry, id string, want time.Time) {
		t.Helper()
		if got, known := r.End(id); known != !want.IsZero() || !got.Equal(want) {
			t.Errorf("%v, %v; want %v", got, known, want)
		}
	}
	wantEnd(f.Registry, expires.ID, time.Time{}) // not in use
	for _, key := range []*agentsandbox.NewKey{forever, expires} {
		if _, err := f.Authenticate(t.Context(), key.Value); err != nil {
			t.Fatal(err)
		}
	}
	wantEnd(f.Registry, forever.ID, time.Time{})
	wantEnd(f.Registry, expires.ID, end)
	f.ahead.Store(int64(2 * time.Hour))
	_, err := f.Authenticate(t.Context(), expires.Value)
	wantCode(t, err, agentsandbox.CodeUnauthorized)

	// The next server learns it from the store, page by page.
	for range agentsandbox.MaxPageLimit {
		f.key(t, time.Time{})
	}
	next := f.again()
	wantEnd(next, expires.ID, time.Time{})
	if err := next.LoadEnds(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantEnd(next, expires.ID, end)
	wantEnd(next, forever.ID, time.Time{})
}
