package storetest

import (
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

func keyRoundTrip(t *testing.T, s Store) {
	plain, plainHash := newKey(ours, at(0))
	full, fullHash := newKey(theirs, at(1))
	full.Name, full.Hint = "naïve \"key\"\n", "asbx_ü"
	full.Scopes = []agentsandbox.Scope{agentsandbox.ScopeRead, agentsandbox.ScopeKeys}
	full.ExpiresAt, full.LastUsedAt, full.RevokedAt = at(10), at(5), at(7)
	ok(t, s.InsertKey(t.Context(), plain, plainHash))
	ok(t, s.InsertKey(t.Context(), full, fullHash))

	wantSame(t, must[agentsandbox.Key](t)(s.KeyByHash(t.Context(), plainHash)), plain)
	wantSame(t, must[agentsandbox.Key](t)(s.KeyByHash(t.Context(), fullHash)), full)

	_, err := s.KeyByHash(t.Context(), [32]byte{})
	wantCode(t, err, agentsandbox.CodeKeyNotFound)
}

func keyConflicts(t *testing.T, s Store) {
	first, hash := newKey(ours, at(0))
	ok(t, s.InsertKey(t.Context(), first, hash))

	sameValue, otherHash := newKey(theirs, at(1))
	wantCode(t, s.InsertKey(t.Context(), sameValue, hash), agentsandbox.CodeConflict)
	sameID := first
	wantCode(t, s.InsertKey(t.Context(), sameID, otherHash), agentsandbox.CodeConflict)

	page := must[agentsandbox.KeyPage](t)(s.Keys(t.Context(), "", agentsandbox.Page{Limit: 10}))
	wantEqual(t, "keys after two conflicts", page.Total, 1)
}

func keyRevocation(t *testing.T, s Store) {
	key, hash := newKey(ours, at(0))
	ok(t, s.InsertKey(t.Context(), key, hash))
	revoked := func() time.Time {
		return must[agentsandbox.Key](t)(s.KeyByHash(t.Context(), hash)).RevokedAt
	}

	wantCode(t, s.RevokeKey(t.Context(), theirs, key.ID, at(1)), agentsandbox.CodeKeyNotFound)
	wantEqual(t, "revoked by another tenant", revoked(), time.Time{})
	ok(t, s.RevokeKey(t.Context(), ours, key.ID, at(2)))
	ok(t, s.RevokeKey(t.Context(), ours, key.ID, at(3)))
	ok(t, s.RevokeKey(t.Context(), "", key.ID, at(4)))
	wantEqual(t, "first revocation", revoked(), at(2))

	other, otherHash := newKey(theirs, at(0))
	ok(t, s.InsertKey(t.Context(), other, otherHash))
	ok(t, s.RevokeKey(t.Context(), "", other.ID, at(5)))
	wantEqual(t, "revoked for any tenant", must[agentsandbox.Key](t)(s.KeyByHash(t.Context(), otherHash)).RevokedAt, at(5))

	wantCode(t, s.RevokeKey(t.Context(), "", "key_unknown", at(1)), agentsandbox.CodeKeyNotFound)
}

func keyLastUse(t *testing.T, s Store) {
	a, hashA := newKey(ours, at(0))
	b, hashB := newKey(theirs, at(0))
	ok(t, s.InsertKey(t.Context(), a, hashA))
	ok(t, s.InsertKey(t.Context(), b, hashB))

	ok(t, s.TouchKeys(t.Context(), nil))
	ok(t, s.TouchKeys(t.Context(), map[string]time.Time{a.ID: at(10), b.ID: at(20), "key_unknown": at(30)}))
	ok(t, s.TouchKeys(t.Context(), map[string]time.Time{a.ID: at(5), b.ID: at(25)}))

	wantEqual(t, "a time that does not go back", must[agentsandbox.Key](t)(s.KeyByHash(t.Context(), hashA)).LastUsedAt, at(10))
	wantEqual(t, "a later time", must[agentsandbox.Key](t)(s.KeyByHash(t.Context(), hashB)).LastUsedAt, at(25))
}

func keyLists(t *testing.T, s Store) {
	a, hashA := newKey(ours, at(0))
	b, hashB := newKey(theirs, at(1))
	c, hashC := newKey(ours, at(2))
	c.RevokedAt = at(3)
	ok(t, s.InsertKey(t.Context(), a, hashA))
	ok(t, s.InsertKey(t.Context(), b, hashB))
	ok(t, s.InsertKey(t.Context(), c, hashC))

	page := agentsandbox.Page{Limit: 10}
	wantSame(t, must[agentsandbox.KeyPage](t)(s.Keys(t.Context(), ours, page)),
		agentsandbox.KeyPage{Keys: []agentsandbox.Key{c, a}, Total: 2, Page: page})
	wantSame(t, must[agentsandbox.KeyPage](t)(s.Keys(t.Context(), theirs, page)),
		agentsandbox.KeyPage{Keys: []agentsandbox.Key{b}, Total: 1, Page: page})
	wantSame(t, must[agentsandbox.KeyPage](t)(s.Keys(t.Context(), "", page)),
		agentsandbox.KeyPage{Keys: []agentsandbox.Key{c, b, a}, Total: 3, Page: page})
}
