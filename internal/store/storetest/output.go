package storetest

import (
	"bytes"
	"testing"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/engine/quota"
	"github.com/agentsandbox/agentsandbox/internal/idempotency"
)

func wantOutput(t *testing.T, s Store, tenant string, want int64) {
	t.Helper()
	wantEqual(t, "output of "+tenant, must[quota.Usage](t)(s.TenantUsage(t.Context(), tenant)).Output, want)
}

// printed stores a run that ended n seconds after the epoch: 4 bytes of code in
// two characters, and size bytes of each stream.
func printed(t *testing.T, s Store, tenant string, n, size int) agentsandbox.Execution {
	t.Helper()
	e := newExecution(tenant, at(n-1))
	e.Code = "üü"
	ok(t, s.InsertExecution(t.Context(), e, "", nil))
	e = outcome(e)
	e.Stdout, e.Stderr = bytes.Repeat([]byte{'o', 0}, size/2), bytes.Repeat([]byte{'e', 0xff}, size/2)
	e.StdoutBytes, e.StderrBytes = int64(size), int64(size)
	e.EndedAt = at(n)
	wantEqual(t, "finished", must[bool](t)(finish(t, s, e)), true)
	return e
}

// answered keeps an answer of size bytes to a request of a key.
func answered(t *testing.T, s Store, key string, n, size int, made agentsandbox.Execution) idempotency.Claim {
	t.Helper()
	claim, _, err := s.ClaimRequest(t.Context(), idempotency.Claim{
		Tenant: ours, KeyID: "key_1", Request: idempotency.Request{Key: key, Method: "POST", Path: "/v1/execute", Digest: "d"}, CreatedAt: at(n),
	}, at(-100))
	ok(t, err)
	if made.ID != "" {
		ok(t, s.InsertExecution(idempotency.WithClaim(t.Context(), claim.Seq), made, "", nil))
	}
	ok(t, s.KeepAnswer(t.Context(), claim.Seq, "d", idempotency.Answer{Status: 200, Body: make([]byte, size)}))
	return claim
}

func tenantOutput(t *testing.T, s Store) {
	wantOutput(t, s, ours, 0)
	first := printed(t, s, ours, 1, 100)
	wantOutput(t, s, ours, 204)
	must[bool](t)(finish(t, s, outcome(first))) // counts nothing
	wantCode(t, s.InsertExecution(t.Context(), first, "", nil), agentsandbox.CodeConflict)
	printed(t, s, ours, 2, 10)
	printed(t, s, theirs, 1, 6)
	wantOutput(t, s, ours, 228)
	wantOutput(t, s, theirs, 16)

	claim := answered(t, s, "k1", 3, 50, agentsandbox.Execution{})
	answered(t, s, "k2", 4, 5, agentsandbox.Execution{})
	wantOutput(t, s, ours, 283)
	ok(t, s.DropRequest(t.Context(), claim.Seq))
	wantOutput(t, s, ours, 233)
	must[int](t)(s.DropRequests(t.Context(), at(10), 10))
	wantOutput(t, s, ours, 228)

	wantEqual(t, "deleted", must[int](t)(deleteExecutions(t, s, 2, 10)), 2)
	wantOutput(t, s, ours, 24)
	wantOutput(t, s, theirs, 0)
}

func outputDropped(t *testing.T, s Store) {
	running := newExecution(ours, at(0))
	ok(t, s.InsertExecution(t.Context(), running, "", nil))
	file := newFile(ours, at(0))
	ok(t, s.InsertFile(t.Context(), file))
	var runs []agentsandbox.Execution
	for n := range 4 {
		runs = append(runs, printed(t, s, ours, n+1, 100))
	}
	neighbour := printed(t, s, theirs, 1, 100)
	all := must[quota.Usage](t)(s.TenantUsage(t.Context(), ours)).Output

	wantEqual(t, "dropped, with room enough", must[int](t)(dropOutput(t, s, ours, all)), 0)
	wantEqual(t, "dropped for one byte", must[int](t)(dropOutput(t, s, ours, all-1)), 1)
	wantOutput(t, s, ours, all-204)
	wantEqual(t, "dropped", must[int](t)(dropOutput(t, s, ours, all-2*204)), 1)
	for n, want := range runs {
		if n < 2 {
			want.Code, want.Stdout, want.Stderr, want.Truncated, want.OutputDropped = "", nil, nil, true, true
		}
		wantSame(t, must[agentsandbox.Execution](t)(execution(t, s, ours, want.ID)), want)
	}
	list := must[agentsandbox.ExecutionPage](t)(s.Executions(t.Context(), ours, agentsandbox.ExecutionFilter{Page: agentsandbox.Page{Limit: 10}}))
	for n, want := range []bool{false, false, true, true, false} { // newest first, the running one last
		wantEqual(t, "dropped, in the list", list.Executions[n].OutputDropped, want)
	}

	// Answers have their turn by age; what runs keeps its code.
	made := newExecution(ours, at(0))
	bound := answered(t, s, "bound", 2, 300, made)
	unbound := answered(t, s, "unbound", 3, 400, agentsandbox.Execution{})
	used := must[quota.Usage](t)(s.TenantUsage(t.Context(), ours)).Output
	wantEqual(t, "runs dropped", must[int](t)(dropOutput(t, s, ours, used-1)), 0)
	wantOutput(t, s, ours, used-300)
	again, found, err := s.ClaimRequest(t.Context(), bound, at(-100))
	ok(t, err)
	wantEqual(t, "found", found, true)
	wantEqual(t, "its object", again.ObjectID, made.ID)
	wantEqual(t, "its body", again.Answer.Body == nil, true)
	wantEqual(t, "runs dropped in the end", must[int](t)(dropOutput(t, s, ours, 0)), 2)
	_, found, err = s.ClaimRequest(t.Context(), unbound, at(-100))
	ok(t, err)
	wantEqual(t, "what had made nothing is found", found, false)
	wantOutput(t, s, ours, int64(len(running.Code)+len(made.Code)))
	wantSame(t, must[agentsandbox.Execution](t)(execution(t, s, ours, running.ID)), running)
	wantSame(t, must[agentsandbox.Execution](t)(execution(t, s, theirs, neighbour.ID)), neighbour)
	wantSame(t, must[agentsandbox.File](t)(s.File(t.Context(), ours, file.ID)), file)

	// The records go as all others do.
	wantEqual(t, "deleted", must[int](t)(deleteExecutions(t, s, 50, 10)), 5)
}

func outputNotKept(t *testing.T, s Store) {
	e := newExecution(ours, at(0))
	ok(t, s.InsertExecution(t.Context(), e, "", nil))
	e = outcome(e)
	e.OutputDropped = true
	wantEqual(t, "finished", must[bool](t)(finish(t, s, e)), true)
	e.Code, e.Stdout, e.Truncated = "", nil, true
	wantSame(t, must[agentsandbox.Execution](t)(execution(t, s, ours, e.ID)), e)
	wantOutput(t, s, ours, 0)
	wantEqual(t, "dropped again", must[int](t)(dropOutput(t, s, ours, -1)), 0)
}
