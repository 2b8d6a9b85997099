package idempotency_test

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/engine/quota"
	"github.com/agentsandbox/agentsandbox/internal/idempotency"
	"github.com/agentsandbox/agentsandbox/internal/store"
)

// fixture is the requests of a server on the real store and quotas, with a clock that
// can be set forward.
type fixture struct {
	*idempotency.Requests
	t     *testing.T
	store *store.DB
	ahead atomic.Int64
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	return newFixtureWithin(t, quota.Limits{})
}

func newFixtureWithin(t *testing.T, limits quota.Limits) *fixture {
	t.Helper()
	db, err := store.Open(t.Context(), t.TempDir(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	f := &fixture{t: t, store: db}
	f.Requests = idempotency.New(idempotency.Options{
		Store: db, Quotas: quota.New(limits, db, noLogs{}, log), Logger: log,
		Now: func() time.Time { return time.Now().Add(time.Duration(f.ahead.Load())) },
	})
	t.Cleanup(func() {
		f.Stop()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// insert makes an object, as a request does, and returns its id.
func (f *fixture) insert(ctx context.Context) string {
	f.t.Helper()
	file := agentsandbox.File{ID: agentsandbox.NewID(agentsandbox.FilePrefix), Tenant: "a", Filename: "f", CreatedAt: time.Now()}
	if err := f.store.InsertFile(ctx, file); err != nil {
		f.t.Fatal(err)
	}
	return file.ID
}

func as(t *testing.T, key string) context.Context {
	return agentsandbox.WithPrincipal(t.Context(), agentsandbox.Principal{KeyID: key, Tenant: "a"})
}

func wantCode(t *testing.T, err error, want agentsandbox.Code) {
	t.Helper()
	if got := agentsandbox.CodeOf(err); got != want {
		t.Errorf("code %q (%v); want %q", got, err, want)
	}
}

func request(key string) idempotency.Request {
	return idempotency.Request{Key: key, Method: "POST", Path: "/v1/execute", Digest: "d"}
}

func TestOneOfRequestsAtOnceIsServed(t *testing.T) {
	f := newFixture(t)
	ctx := as(t, "key_1")
	req := request("k")
	claim, err := f.BeginRequest(ctx, req)
	if err != nil || claim.Answer != nil {
		t.Fatalf("%+v, %v", claim, err)
	}
	other := req
	other.Digest = "e"
	_, err = f.BeginRequest(ctx, other) // at once, not after the wait
	wantCode(t, err, agentsandbox.CodeInvalidRequest)
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := f.BeginRequest(gone, req); err == nil {
		t.Error("a caller that went away got a claim")
	}

	const repeats = 8
	answers := make(chan *idempotency.Claim, repeats)
	for range repeats {
		go func() {
			again, err := f.BeginRequest(ctx, req)
			if err != nil {
				t.Error(err)
			}
			answers <- again
		}()
	}
	if err := f.KeepAnswer(ctx, claim, "d", idempotency.Answer{Status: 200, Body: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	for range repeats {
		if a := <-answers; a == nil || a.Answer == nil || string(a.Answer.Body) != "x" {
			t.Errorf("%+v", a)
		}
	}
	_, err = f.BeginRequest(ctx, other)
	wantCode(t, err, agentsandbox.CodeInvalidRequest)

	// After a failure, the next one is served; and after a day, a new one is.
	second := req
	second.Key = "k2"
	for range 2 {
		claim, err := f.BeginRequest(ctx, second)
		if err != nil || claim.Answer != nil {
			t.Fatalf("%+v, %v", claim, err)
		}
		if err := f.DropRequest(ctx, claim); err != nil {
			t.Fatal(err)
		}
	}
	f.ahead.Store(int64(24*time.Hour + time.Second))
	if claim, err = f.BeginRequest(ctx, req); err != nil || claim.Answer != nil {
		t.Fatalf("%+v, %v", claim, err)
	}

	// What it makes is noted with it, for when this process dies.
	object := f.insert(idempotency.WithClaim(ctx, claim.Seq))
	f.ReleaseRequest(claim)
	if claim, err = f.BeginRequest(ctx, req); err != nil || claim.Answer != nil || claim.ObjectID != object {
		t.Errorf("%+v, %v; want %s", claim, err, object)
	}
	// And a failure does not have it made twice.
	if err := f.DropRequest(ctx, claim); err != nil {
		t.Fatal(err)
	}
	if claim, err = f.BeginRequest(ctx, req); err != nil || claim.ObjectID != object {
		t.Errorf("%+v, %v; want %s", claim, err, object)
	}
}

// TestTheEndOfTheServerEndsTheWaits: nobody waits for the answer of a request that is
// cancelled, and a request that is served keeps its answer all the same.
func TestTheEndOfTheServerEndsTheWaits(t *testing.T) {
	f := newFixture(t)
	f.Start()
	ctx := as(t, "key_1")
	claim, err := f.BeginRequest(ctx, request("k"))
	if err != nil {
		t.Fatal(err)
	}
	waited := make(chan error)
	go func() {
		_, err := f.BeginRequest(ctx, request("k"))
		waited <- err
	}()
	f.Stop()
	wantCode(t, <-waited, agentsandbox.CodeUnavailable)
	if err := f.KeepAnswer(ctx, claim, "d", idempotency.Answer{Status: 200}); err != nil {
		t.Fatal(err)
	}
	if claim, err = f.BeginRequest(ctx, request("k")); err != nil || claim.Answer == nil {
		t.Errorf("%+v, %v", claim, err)
	}
	f.Stop() // again
}

// TestAKeyIsOfOneSender: another API key may use the same Idempotency-Key.
func TestAKeyIsOfOneSender(t *testing.T) {
	f := newFixture(t)
	for _, sender := range []string{"key_1", "key_2"} {
		if claim, err := f.BeginRequest(as(t, sender), request("k")); err != nil || claim.Answer != nil {
			t.Errorf("%s: %+v, %v", sender, claim, err)
		}
	}
	if _, err := f.BeginRequest(t.Context(), request("k")); agentsandbox.CodeOf(err) != agentsandbox.CodeUnauthorized {
		t.Error(err)
	}
	_, err := f.BeginRequest(as(t, "key_1"), request(""))
	wantCode(t, err, agentsandbox.CodeInvalidRequest)
}

// TestAnAnswerForWhichThereIsNoRoom: it is made again from the object; without one the
// request is served anew.
func TestAnAnswerForWhichThereIsNoRoom(t *testing.T) {
	f := newFixtureWithin(t, quota.Limits{Output: 100})
	ctx := as(t, "key_1")
	large := idempotency.Answer{Status: 200, Body: make([]byte, 101)}
	for key, makes := range map[string]bool{"makes": true, "makes nothing": false} {
		claim, err := f.BeginRequest(ctx, request(key))
		if err != nil {
			t.Fatal(err)
		}
		if makes {
			f.insert(idempotency.WithClaim(ctx, claim.Seq))
		}
		if err := f.KeepAnswer(ctx, claim, "d", large); err != nil {
			t.Fatal(err)
		}
		again, err := f.BeginRequest(ctx, request(key))
		if err != nil {
			t.Fatal(err)
		}
		if kept := again.Answer != nil; kept != makes || kept && again.Answer.Body != nil {
			t.Errorf("%s: %+v", key, again)
		}
	}
}

func TestOldRequestsAreRemoved(t *testing.T) {
	f := newFixture(t)
	ctx := as(t, "key_1")
	left := func() (n int) {
		t.Helper()
		n, err := f.store.DropRequests(t.Context(), time.Now().Add(1000*time.Hour), 1000)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	claimMany := func() {
		t.Helper()
		for range 150 { // more than one batch
			if _, err := f.BeginRequest(ctx, request(agentsandbox.NewID(""))); err != nil {
				t.Fatal(err)
			}
		}
	}
	claimMany()
	f.ahead.Store(int64(idempotency.Period - time.Minute))
	f.Sweep(t.Context())
	if n := left(); n != 150 {
		t.Errorf("%d of 150 requests are left within the period", n)
	}
	f.ahead.Store(0)
	claimMany()
	f.ahead.Store(int64(idempotency.Period + time.Minute))
	f.Sweep(t.Context())
	if n := left(); n != 0 {
		t.Errorf("%d requests are left after the period", n)
	}
}

// noLogs: no run has output here.
type noLogs struct{}

func (noLogs) Remove(string) error { return nil }
