// Package storetest is the contract of a store, as tests: what every
// implementation of [Store] has to pass.
//
// It knows the ports and the vocabulary only, nothing of how rows are kept. What
// an implementation says beyond the contract, such as how it survives a crash,
// is tested where it stands.
package storetest

import (
	"reflect"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/audit"
	"github.com/agentsandbox/agentsandbox/internal/engine"
	"github.com/agentsandbox/agentsandbox/internal/engine/quota"
	"github.com/agentsandbox/agentsandbox/internal/idempotency"
	"github.com/agentsandbox/agentsandbox/internal/keys"
)

// The two tenants of every test.
const (
	ours   = "tenant-a"
	theirs = "tenant-b"
)

// Store is all that the daemon needs of a store: the ports of those who use it.
type Store interface {
	quota.Store
	engine.Store
	keys.Store
	audit.Store
	idempotency.Store
}

// Suite runs the contract. open returns an empty store, and closes it when the
// test that it is given ends.
func Suite(t *testing.T, open func(t *testing.T) Store) {
	for _, part := range []struct {
		name string
		test func(*testing.T, Store)
	}{
		{"keys/round trip", keyRoundTrip},
		{"keys/one of a kind", keyConflicts},
		{"keys/revoking", keyRevocation},
		{"keys/last use", keyLastUse},
		{"keys/list of one tenant and of all", keyLists},
		{"sessions/round trip", sessionRoundTrip},
		{"sessions/moves", sessionMoves},
		{"sessions/one mover wins", sessionOneMover},
		{"sessions/lists", sessionLists},
		{"sessions/another tenant's", sessionTenants},
		{"sessions/sandboxes", sessionSandboxes},
		{"sessions/networks", sessionNetworks},
		{"executions/plans", executionPlans},
		{"executions/round trip", executionRoundTrip},
		{"executions/finish once", executionFinishOnce},
		{"executions/finish is all or nothing", executionFinishAtomic},
		{"executions/finish by id alone", executionFinishByID},
		{"executions/one finisher wins", executionOneFinisher},
		{"executions/logs", executionLogs},
		{"executions/refused", executionRefusals},
		{"executions/lists", executionLists},
		{"executions/another tenant's", executionTenants},
		{"files/round trip", fileRoundTrip},
		{"files/deleting", fileDeleting},
		{"files/one deleter wins", fileOneDeleter},
		{"files/another tenant's", fileTenants},
		{"admission/usage of a tenant", tenantUsage},
		{"admission/output of a tenant", tenantOutput},
		{"admission/output is dropped", outputDropped},
		{"admission/output that is not kept", outputNotKept},
		{"admission/why a session ended", sessionEnds},
		{"requests/one effect, one answer", requestClaims},
		{"requests/one claimer wins", requestOneClaimer},
		{"audit/a chain", auditChain},
		{"sessions/last use and expiry", sessionUse},
		{"lists/by metadata", metadataFilters},
		{"retention", retention},
		{"lists/equal times keep one order", listOrder},
		{"lists/bounds of a page", listBounds},
		{"lists/a cursor stays at its place", listByCursor},
		{"lists/by cursor while rows come and go", listByCursorWhileChanging},
		{"lists/a cursor that is none", listBadCursor},
		{"lists/total agrees while rows come and go", listWhileChanging},
		{"rows/need an owner", rowsNeedOwner},
		{"rows/times are UTC and exact to a microsecond", rowTimes},
		{"rows/a cancelled context does nothing", rowsCancelled},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(t, open(t)) })
	}
}

// epoch is when the first row of a test was made.
var epoch = time.Date(2026, 7, 1, 12, 0, 0, 123456000, time.UTC)

// at is n seconds after the epoch.
func at(n int) time.Time { return epoch.Add(time.Duration(n) * time.Second) }

func newKey(tenant string, made time.Time) (agentsandbox.Key, [32]byte) {
	id := agentsandbox.NewID(agentsandbox.KeyPrefix)
	var hash [32]byte
	copy(hash[:], id)
	return agentsandbox.Key{
		ID: id, Tenant: tenant, Name: "a key", Hint: "asbx_abcd",
		Scopes: []agentsandbox.Scope{agentsandbox.ScopeSandbox}, CreatedAt: made,
	}, hash
}

func newSession(tenant string, made time.Time) agentsandbox.Session {
	return agentsandbox.Session{
		ID: agentsandbox.NewID(agentsandbox.SessionPrefix), Tenant: tenant,
		Status: agentsandbox.SessionLive, Template: "default", CreatedAt: made,
	}
}

func newExecution(tenant string, made time.Time) agentsandbox.Execution {
	return agentsandbox.Execution{
		ID: agentsandbox.NewID(agentsandbox.ExecutionPrefix), Tenant: tenant,
		SessionID: agentsandbox.NewID(agentsandbox.SessionPrefix), Language: agentsandbox.Python,
		Code: "print(1)", Status: agentsandbox.StatusRunning, CreatedAt: made,
	}
}

func newFile(tenant string, made time.Time) agentsandbox.File {
	return agentsandbox.File{
		ID: agentsandbox.NewID(agentsandbox.FilePrefix), Tenant: tenant, Filename: "data.csv",
		MediaType: "text/csv", SizeBytes: 3,
		SHA256:    "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
		CreatedAt: made,
	}
}

// outcome is e, succeeded.
func outcome(e agentsandbox.Execution, files ...agentsandbox.File) agentsandbox.Execution {
	e.Status, e.EndedAt = agentsandbox.StatusSucceeded, e.CreatedAt.Add(time.Second)
	e.Stdout, e.StdoutBytes, e.Files = []byte("1\n"), 2, files
	return e
}

// ok ends the test on an error.
func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// must returns what a call returned, and ends the test on its error.
func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		ok(t, err)
		return v
	}
}

func wantCode(t *testing.T, err error, code agentsandbox.Code) {
	t.Helper()
	if got := agentsandbox.CodeOf(err); got != code {
		t.Fatalf("code %q, want %q; the error is: %v", got, code, err)
	}
}

func wantEqual[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: %v, want %v", what, got, want)
	}
}

// wantSame compares two values exactly: what is empty comes back as nil, and
// times are UTC.
func wantSame(t *testing.T, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %#v\nwant %#v", got, want)
	}
}

// winners runs try in several goroutines at once and counts those that it said
// true for.
func winners(t *testing.T, try func(n int) (bool, error)) int {
	t.Helper()
	const racers = 16
	type verdict struct {
		won bool
		err error
	}
	verdicts := make(chan verdict)
	start := make(chan struct{})
	for n := range racers {
		go func() {
			<-start
			won, err := try(n)
			verdicts <- verdict{won, err}
		}()
	}
	close(start)
	won := 0
	for range racers {
		v := <-verdicts
		if v.err != nil {
			t.Error(v.err)
		}
		if v.won {
			won++
		}
	}
	return won
}
