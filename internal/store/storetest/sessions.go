package storetest

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/engine/sessions"
)

func sessionRoundTrip(t *testing.T, s Store) {
	plain := newSession(ours, at(0))
	plain.Status, plain.Template = agentsandbox.SessionCreating, ""
	full := newSession(ours, at(1))
	full.Env = map[string]string{"TOKEN": "sécret \"quoted\"\n<&>", "EMPTY": "", "": "nameless"}
	full.Metadata = map[string]string{"user": "ünïcode \U0001f600 \u2028"}
	full.TimeoutMS, full.MemoryMB, full.CPUs = 100_000, 1<<40, 1.5
	full.Processes, full.OpenFiles, full.OutputBytes, full.DiskMB, full.Inodes = 64, 128, 1<<40, 256, 100_000
	full.CollectIgnored = true
	full.Network = &agentsandbox.NetworkPolicy{Mode: agentsandbox.NetworkAllowlist, Allow: []string{"*.example.org:443"}, Deny: []string{"10.0.0.0/8"}}
	gone := newSession(ours, at(2))
	gone.Status, gone.EndedAt = agentsandbox.SessionLost, at(3)

	for _, session := range []agentsandbox.Session{plain, full, gone} {
		ok(t, s.InsertSession(t.Context(), session, nil))
		wantSame(t, must[agentsandbox.Session](t)(s.Session(t.Context(), ours, session.ID)), session)
		wantCode(t, s.InsertSession(t.Context(), session, nil), agentsandbox.CodeConflict)
	}

	_, err := s.Session(t.Context(), ours, agentsandbox.NewID(agentsandbox.SessionPrefix))
	wantCode(t, err, agentsandbox.CodeSessionNotFound)

	garbled := newSession(ours, at(4))
	garbled.Env = map[string]string{"A": "\xff"}
	wantCode(t, s.InsertSession(t.Context(), garbled, nil), agentsandbox.CodeInvalidRequest)
}

// sessionMoves tries every move from every state.
func sessionMoves(t *testing.T, s Store) {
	for _, from := range agentsandbox.SessionStatuses() {
		for _, to := range agentsandbox.SessionStatuses() {
			session := newSession(ours, at(0))
			session.Status, session.Env = from, map[string]string{"TOKEN": "secret"}
			if from.Ended() {
				session.EndedAt, session.Env = at(1), nil
			}
			ok(t, s.InsertSession(t.Context(), session, nil))
			err := s.MoveSession(t.Context(), session.ID, to, at(2))
			got := must[agentsandbox.Session](t)(s.Session(t.Context(), ours, session.ID))
			if !slices.Contains(from.Next(), to) {
				wantRefused(t, err, agentsandbox.SessionMoveError{ID: session.ID, From: from, To: to})
				wantEqual(t, "status", got.Status, from)
				wantEqual(t, "end", got.EndedAt, session.EndedAt)
				continue
			}
			ok(t, err)
			wantEqual(t, "status", got.Status, to)
			wantEqual(t, "ended", got.EndedAt.Equal(at(2)), to.Ended())
			wantEqual(t, "environment variables are kept", len(got.Env) > 0, !to.Ended())
		}
	}
	unknown := agentsandbox.NewID(agentsandbox.SessionPrefix)
	err := s.MoveSession(t.Context(), unknown, agentsandbox.SessionDeleting, at(0))
	wantRefused(t, err, agentsandbox.SessionMoveError{ID: unknown, To: agentsandbox.SessionDeleting})
}

func wantRefused(t *testing.T, err error, want agentsandbox.SessionMoveError) {
	t.Helper()
	var refused *agentsandbox.SessionMoveError
	if !errors.As(err, &refused) || *refused != want {
		t.Errorf("from %q to %s: %v", want.From, want.To, err)
	}
}

func sessionOneMover(t *testing.T, s Store) {
	session := newSession(ours, at(0))
	ok(t, s.InsertSession(t.Context(), session, nil))
	won := winners(t, func(int) (bool, error) {
		err := s.MoveSession(t.Context(), session.ID, agentsandbox.SessionDeleting, at(1))
		var refused *agentsandbox.SessionMoveError
		if errors.As(err, &refused) {
			return false, nil
		}
		return err == nil, err
	})
	wantEqual(t, "movers that won", won, 1)
}

func sessionLists(t *testing.T, s Store) {
	var all []agentsandbox.Session
	for n, status := range []agentsandbox.SessionStatus{
		agentsandbox.SessionLive, agentsandbox.SessionCreating, agentsandbox.SessionDeleting,
		agentsandbox.SessionDeleted, agentsandbox.SessionLost, agentsandbox.SessionLive,
	} {
		session := newSession(ours, at(n))
		session.Status, session.Metadata = status, map[string]string{"n": time.Duration(n).String()}
		if status == agentsandbox.SessionDeleted || status == agentsandbox.SessionLost {
			session.EndedAt = at(n + 1)
		}
		ok(t, s.InsertSession(t.Context(), session, nil))
		all = append(all, session)
	}
	foreign := newSession(theirs, at(9))
	ok(t, s.InsertSession(t.Context(), foreign, nil))

	page := agentsandbox.Page{Limit: 10}
	wantSame(t, must[agentsandbox.SessionPage](t)(s.Sessions(t.Context(), ours, agentsandbox.SessionFilter{Page: page})),
		agentsandbox.SessionPage{Sessions: []agentsandbox.Session{all[5], all[0]}, Total: 2, Page: page})
	wantSame(t, leftSessionIDs(must[[]sessions.Left](t)(s.LeftSessions(t.Context()))),
		[]string{all[0].ID, all[1].ID, all[2].ID, all[5].ID, foreign.ID})
}

// sessionSandboxes: a session's sandbox is noted while it has not ended.
func sessionSandboxes(t *testing.T, s Store) {
	session, gone := newSession(ours, at(0)), newSession(theirs, at(1))
	gone.Status, gone.EndedAt = agentsandbox.SessionLost, at(2)
	ok(t, s.InsertSession(t.Context(), session, nil))
	ok(t, s.InsertSession(t.Context(), gone, nil))
	ok(t, s.BindSession(t.Context(), session.ID, "sbx_1"))
	wantCode(t, s.BindSession(t.Context(), gone.ID, "sbx_2"), agentsandbox.CodeSessionNotFound)
	wantSame(t, must[[]sessions.Left](t)(s.LeftSessions(t.Context())),
		[]sessions.Left{{Tenant: ours, ID: session.ID, Status: session.Status, Sandbox: "sbx_1"}})
	wantSame(t, must[agentsandbox.Session](t)(s.Session(t.Context(), ours, session.ID)), session)
}

func leftSessionIDs(all []sessions.Left) []string {
	ids := make([]string, 0, len(all))
	for _, l := range all {
		ids = append(ids, l.ID)
	}
	return ids
}

func sessionTenants(t *testing.T, s Store) {
	session := newSession(ours, at(0))
	ok(t, s.InsertSession(t.Context(), session, nil))
	for _, tenant := range []string{theirs, "", ours + " ", "TENANT-A", "%"} {
		_, err := s.Session(t.Context(), tenant, session.ID)
		wantCode(t, err, agentsandbox.CodeSessionNotFound)
		page := must[agentsandbox.SessionPage](t)(s.Sessions(t.Context(), tenant, agentsandbox.SessionFilter{Page: agentsandbox.Page{Limit: 10}}))
		wantEqual(t, "sessions seen by "+tenant, page.Total+len(page.Sessions), 0)
	}
}

// sessionNetworks: policy and ports are replaced while a session has not ended. What a
// later server needs of it, secrets and ports, is with the sessions that are left.
func sessionNetworks(t *testing.T, s Store) {
	session, plain := newSession(ours, at(0)), newSession(theirs, at(1))
	sealed := []byte("\x00sealed\xff")
	ok(t, s.InsertSession(t.Context(), session, sealed))
	ok(t, s.InsertSession(t.Context(), plain, nil))
	policy := &agentsandbox.NetworkPolicy{Mode: agentsandbox.NetworkOff}
	ports := []agentsandbox.OpenPort{{Port: 80, ID: "x", KeyID: "key_1", ExpiresAt: at(5)}, {Port: 65535, ID: "y", ExpiresAt: at(10)}}
	ok(t, s.SetNetwork(t.Context(), session.ID, policy))
	ok(t, s.SetPorts(t.Context(), session.ID, ports))
	got := must[agentsandbox.Session](t)(s.Session(t.Context(), ours, session.ID))
	wantSame(t, got.Network, policy)
	left := must[[]sessions.Left](t)(s.LeftSessions(t.Context()))
	wantSame(t, left[0].SealedSecrets, sealed)
	wantSame(t, left[0].Ports, ports)
	wantSame(t, left[1], sessions.Left{Tenant: theirs, ID: plain.ID, Status: plain.Status})
	ok(t, s.SetPorts(t.Context(), session.ID, nil))
	ok(t, s.SetNetwork(t.Context(), session.ID, nil))
	wantSame(t, must[agentsandbox.Session](t)(s.Session(t.Context(), ours, session.ID)), session)
	left = must[[]sessions.Left](t)(s.LeftSessions(t.Context()))
	wantSame(t, left[0], sessions.Left{Tenant: ours, ID: session.ID, Status: session.Status, SealedSecrets: sealed})
	ok(t, s.MoveSession(t.Context(), session.ID, agentsandbox.SessionDeleted, at(6)))
	wantCode(t, s.SetNetwork(t.Context(), session.ID, policy), agentsandbox.CodeSessionNotFound)
	wantCode(t, s.SetPorts(t.Context(), session.ID, ports), agentsandbox.CodeSessionNotFound)
}
