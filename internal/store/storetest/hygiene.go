package storetest

import (
	"slices"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/idempotency"
)

func newRequest(key string, made time.Time) idempotency.Claim {
	return idempotency.Claim{
		Tenant: ours, KeyID: "key_1", CreatedAt: made,
		Request: idempotency.Request{Key: key, Method: "POST", Path: "/v1/execute", Digest: "d1"},
	}
}

func requestClaims(t *testing.T, s Store) {
	ctx := t.Context()
	first, found, err := s.ClaimRequest(ctx, newRequest("k", at(0)), at(-10))
	ok(t, err)
	if found || first.Seq == 0 || first.Answer != nil {
		t.Fatalf("a new request: %v, %+v", found, first)
	}
	again := newRequest("k", at(1))
	again.Request.Digest = "other"
	got, found, err := s.ClaimRequest(ctx, again, at(-10))
	ok(t, err)
	wantEqual(t, "found", found, true)
	wantSame(t, got, first)

	// What the request makes is noted with it.
	e := newExecution(ours, at(1))
	ok(t, s.InsertExecution(idempotency.WithClaim(ctx, first.Seq), e, "", nil))
	got, _, err = s.ClaimRequest(ctx, again, at(-10))
	ok(t, err)
	wantEqual(t, "object", got.ObjectID, e.ID)

	// And then the request is not forgotten any more: it would be made twice.
	ok(t, s.DropRequest(ctx, first.Seq))
	got, found, err = s.ClaimRequest(ctx, again, at(-10))
	ok(t, err)
	wantEqual(t, "found", found, true)
	wantEqual(t, "object", got.ObjectID, e.ID)

	answer := idempotency.Answer{Status: 201, Header: map[string]string{"X-A": "b"}, Body: []byte("{}\n")}
	ok(t, s.KeepAnswer(ctx, first.Seq, "d2", answer))
	got, _, err = s.ClaimRequest(ctx, again, at(-10))
	ok(t, err)
	wantSame(t, got.Answer, &answer)
	wantEqual(t, "digest", got.Request.Digest, "d2")

	// Another tenant, another API key and another key are other requests.
	for _, other := range []func(*idempotency.Claim){
		func(r *idempotency.Claim) { r.Tenant = theirs },
		func(r *idempotency.Claim) { r.KeyID = "key_2" },
		func(r *idempotency.Claim) { r.Request.Key = "K" },
	} {
		r := newRequest("k", at(2))
		other(&r)
		_, found, err := s.ClaimRequest(ctx, r, at(-10))
		ok(t, err)
		wantEqual(t, "found", found, false)
	}

	// One that is too old is as good as none; one that is dropped is gone.
	got, found, err = s.ClaimRequest(ctx, newRequest("k", at(100)), at(50))
	ok(t, err)
	if found || got.Answer != nil || got.ObjectID != "" {
		t.Fatalf("an old request: %v, %+v", found, got)
	}
	ok(t, s.DropRequest(ctx, got.Seq))
	_, found, err = s.ClaimRequest(ctx, newRequest("k", at(100)), at(50))
	ok(t, err)
	wantEqual(t, "found", found, false)
	wantEqual(t, "dropped", must[int](t)(s.DropRequests(ctx, at(50), 2)), 2)
	wantEqual(t, "dropped", must[int](t)(s.DropRequests(ctx, at(50), 2)), 1)
	wantEqual(t, "dropped", must[int](t)(s.DropRequests(ctx, at(50), 2)), 0)
}

func requestOneClaimer(t *testing.T, s Store) {
	got := winners(t, func(int) (bool, error) {
		_, found, err := s.ClaimRequest(t.Context(), newRequest("k", at(0)), at(-10))
		return !found, err
	})
	wantEqual(t, "winners", got, 1)
}

func auditChain(t *testing.T, s Store) {
	ctx := t.Context()
	before := agentsandbox.AuditGenesis
	for n := range 5 {
		ok(t, s.AppendAudit(ctx, agentsandbox.AuditEntry{
			At: at(n), Tenant: ours, KeyID: "key_1", RequestID: "r", Remote: "127.0.0.1:1", Action: "execute", ObjectID: "exe_1", Outcome: agentsandbox.AuditOK,
		}))
	}
	page := must[agentsandbox.AuditPage](t)(s.AuditLog(ctx, agentsandbox.Page{Limit: 3, Offset: 1}))
	wantEqual(t, "total", page.Total, 5)
	wantEqual(t, "rows", len(page.Entries), 3)
	all := must[agentsandbox.AuditPage](t)(s.AuditLog(ctx, agentsandbox.Page{Limit: 100}))
	slices.Reverse(all.Entries)
	for n, e := range all.Entries {
		wantEqual(t, "number", e.Seq, int64(n+1))
		before = e.Chain(before)
		wantEqual(t, "hash", e.Hash, agentsandbox.AuditHash(before))
	}
	if err := s.AppendAudit(ctx, agentsandbox.AuditEntry{Action: "execute", Outcome: "ok"}); err == nil {
		t.Error("a row without a time was taken")
	}
}

func sessionUse(t *testing.T, s Store) {
	ctx := t.Context()
	session := newSession(ours, at(0))
	session.IdleTimeoutMS, session.MaxLifetimeMS, session.LastUsedAt = 1000, 5000, at(0)
	ok(t, s.InsertSession(ctx, session, nil))
	wantSame(t, must[agentsandbox.Session](t)(s.Session(ctx, ours, session.ID)), session)
	ok(t, s.TouchSessions(ctx, map[string]time.Time{session.ID: at(3), "ses_gone": at(3)}))
	ok(t, s.TouchSessions(ctx, map[string]time.Time{session.ID: at(2)}))
	wantEqual(t, "last use", must[agentsandbox.Session](t)(s.Session(ctx, ours, session.ID)).LastUsedAt, at(3))
	ok(t, s.KeepSession(ctx, session.ID, at(4), 9000))
	got := must[agentsandbox.Session](t)(s.Session(ctx, ours, session.ID))
	wantEqual(t, "last use", got.LastUsedAt, at(4))
	wantEqual(t, "idle time", got.IdleTimeoutMS, 9000)

	ok(t, s.MoveSession(ctx, session.ID, agentsandbox.SessionExpired, at(5)))
	got = must[agentsandbox.Session](t)(s.Session(ctx, ours, session.ID))
	wantEqual(t, "status", got.Status, agentsandbox.SessionExpired)
	wantEqual(t, "end", got.EndedAt, at(5))
	wantCode(t, s.KeepSession(ctx, session.ID, at(6), 9000), agentsandbox.CodeSessionNotFound)

	wantEqual(t, "deleted", must[int](t)(s.DeleteSessions(ctx, at(5), 10)), 0)
	wantEqual(t, "deleted", must[int](t)(s.DeleteSessions(ctx, at(6), 10)), 1)
	_, err := s.Session(ctx, ours, session.ID)
	wantCode(t, err, agentsandbox.CodeSessionNotFound)
}

func metadataFilters(t *testing.T, s Store) {
	ctx := t.Context()
	want := map[string]string{"user": "ada", "it's [\"odd\"].": "1"}
	first, second := newExecution(ours, at(0)), newExecution(ours, at(1))
	first.Metadata, second.Metadata = want, map[string]string{"user": "bob"}
	ok(t, s.InsertExecution(ctx, first, "", nil))
	ok(t, s.InsertExecution(ctx, second, "", nil))
	ok(t, s.InsertExecution(ctx, newExecution(ours, at(2)), "", nil))
	wantSame(t, must[agentsandbox.Execution](t)(execution(t, s, ours, first.ID)).Metadata, want)
	session := newSession(ours, at(0))
	session.Metadata = want
	ok(t, s.InsertSession(ctx, session, nil))
	ok(t, s.InsertSession(ctx, newSession(ours, at(1)), nil))
	page := agentsandbox.Page{Limit: 10}
	for _, c := range []struct {
		filter               map[string]string
		executions, sessions int
	}{
		{nil, 3, 2},
		{map[string]string{"user": "ada"}, 1, 1},
		{want, 1, 1},
		{map[string]string{"user": "bob"}, 1, 0},
		{map[string]string{"user": "ada", "it's [\"odd\"].": "2"}, 0, 0},
		{map[string]string{"missing": ""}, 0, 0},
	} {
		executions := must[agentsandbox.ExecutionPage](t)(s.Executions(ctx, ours, agentsandbox.ExecutionFilter{Page: page, Metadata: c.filter}))
		wantEqual(t, "executions", executions.Total, c.executions)
		wantEqual(t, "executions", len(executions.Executions), c.executions)
		sessions := must[agentsandbox.SessionPage](t)(s.Sessions(ctx, ours, agentsandbox.SessionFilter{Page: page, Metadata: c.filter}))
		wantEqual(t, "sessions", sessions.Total, c.sessions)
		wantEqual(t, "sessions", len(sessions.Sessions), c.sessions)
	}
}

func retention(t *testing.T, s Store) {
	ctx := t.Context()
	page := agentsandbox.Page{Limit: 10}
	e, running := newExecution(ours, at(0)), newExecution(ours, at(0))
	e.Metadata = map[string]string{"a": "b"}
	ok(t, s.InsertExecution(ctx, e, "", nil))
	ok(t, s.InsertExecution(ctx, running, "", nil))
	made, uploaded, young := newFile("", at(1)), newFile(theirs, at(2)), newFile(ours, at(9))
	_, err := finish(t, s, outcome(e, made)) // ends at 1 s
	ok(t, err)
	ok(t, s.InsertFile(ctx, uploaded))
	ok(t, s.InsertFile(ctx, young))

	// A record goes before its file: the file stays, as one of no run.
	wantEqual(t, "deleted", must[int](t)(deleteExecutions(t, s, 1, 10)), 0)
	wantEqual(t, "deleted", must[int](t)(deleteExecutions(t, s, 100, 10)), 1)
	_, err = execution(t, s, ours, e.ID)
	wantCode(t, err, agentsandbox.CodeExecutionNotFound)
	wantEqual(t, "total", must[agentsandbox.ExecutionPage](t)(s.Executions(ctx, ours, agentsandbox.ExecutionFilter{Page: page})).Total, 1)
	wantEqual(t, "run of the file", must[agentsandbox.File](t)(s.File(ctx, ours, made.ID)).ExecutionID, "")

	// Much output is removed in parts.
	for n := range 3 {
		large := outcome(newExecution(theirs, at(0)))
		ok(t, s.InsertExecution(ctx, agentsandbox.Execution{ID: large.ID, Tenant: theirs, Status: agentsandbox.StatusRunning, CreatedAt: at(n)}, "", nil))
		large.Stdout = make([]byte, 9<<20)
		_, err := finish(t, s, large)
		ok(t, err)
	}
	wantEqual(t, "deleted", must[int](t)(deleteExecutions(t, s, 100, 10)), 2)
	wantEqual(t, "deleted", must[int](t)(deleteExecutions(t, s, 100, 10)), 1)
	wantEqual(t, "deleted", must[int](t)(deleteExecutions(t, s, 100, 10)), 0)

	wantSame(t, must[[]string](t)(s.OldFiles(ctx, at(3), 10)), []string{made.ID, uploaded.ID})
	wantSame(t, must[[]string](t)(s.OldFiles(ctx, at(3), 1)), []string{made.ID})
	ok(t, s.DeleteFiles(ctx, []string{made.ID, uploaded.ID, "fil_gone"}))
	files := must[agentsandbox.FilePage](t)(s.Files(ctx, ours, page))
	wantEqual(t, "total", files.Total, 1)
	wantEqual(t, "the file left", files.Files[0].ID, young.ID)
}
