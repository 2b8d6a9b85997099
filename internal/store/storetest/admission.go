package storetest

import (
	"testing"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/engine/quota"
)

func tenantUsage(t *testing.T, s Store) {
	want := func(tenant string, sessions, files, bytes int64) {
		t.Helper()
		got := must[quota.Usage](t)(s.TenantUsage(t.Context(), tenant))
		got.Output = 0 // another test
		wantEqual(t, "usage of "+tenant, got, quota.Usage{Sessions: sessions, Files: files, Bytes: bytes})
	}
	want(ours, 0, 0, 0)

	uploaded := newFile(ours, at(0))
	uploaded.SizeBytes = 100
	ok(t, s.InsertFile(t.Context(), uploaded))
	wantCode(t, s.InsertFile(t.Context(), uploaded), agentsandbox.CodeConflict) // counts nothing
	of := newFile(theirs, at(0))
	of.SizeBytes = 7
	ok(t, s.InsertFile(t.Context(), of))
	run := newExecution(ours, at(1))
	ok(t, s.InsertExecution(t.Context(), run, "", nil))
	made := []agentsandbox.File{newFile(ours, at(1)), newFile(ours, at(1))}
	made[0].SizeBytes, made[1].SizeBytes = 20, 3
	for i := range made {
		made[i].ExecutionID = run.ID
	}
	must[bool](t)(finish(t, s, outcome(run, made...)))
	must[bool](t)(finish(t, s, outcome(run, made...))) // counts nothing either
	want(ours, 0, 3, 123)
	want(theirs, 0, 1, 7)

	ok(t, s.DeleteFile(t.Context(), ours, made[0].ID))
	wantCode(t, s.DeleteFile(t.Context(), ours, made[0].ID), agentsandbox.CodeFileNotFound)
	ok(t, s.DeleteFile(t.Context(), ours, uploaded.ID))
	want(ours, 0, 1, 3)
	want(theirs, 0, 1, 7)

	creating, live := newSession(ours, at(2)), newSession(ours, at(3))
	creating.Status, live.Status = agentsandbox.SessionCreating, agentsandbox.SessionLive
	ok(t, s.InsertSession(t.Context(), creating, nil))
	ok(t, s.InsertSession(t.Context(), live, nil))
	want(ours, 2, 1, 3)
	ok(t, s.MoveSession(t.Context(), live.ID, agentsandbox.SessionDeleting, at(4)))
	want(ours, 2, 1, 3)
	ok(t, s.MoveSession(t.Context(), live.ID, agentsandbox.SessionDeleted, at(5)))
	want(ours, 1, 1, 3)
	want("nobody", 0, 0, 0)
}

func sessionEnds(t *testing.T, s Store) {
	lost := newSession(ours, at(0))
	ok(t, s.InsertSession(t.Context(), lost, nil))
	wantEqual(t, "why, before", must[string](t)(s.SessionEnd(t.Context(), lost.ID)), "")
	ok(t, s.NoteSessionEnd(t.Context(), lost.ID, "Memory ran out."))
	ok(t, s.NoteSessionEnd(t.Context(), lost.ID, "Something else."))
	wantEqual(t, "why", must[string](t)(s.SessionEnd(t.Context(), lost.ID)), "Memory ran out.")
	wantEqual(t, "why of no session", must[string](t)(s.SessionEnd(t.Context(), "ses_none")), "")
}
