package keys

import (
	"errors"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

func TestKnownKeys(t *testing.T) {
	now := time.Now()
	k := knownKeys{byHash: map[[32]byte]agentsandbox.Key{}}
	looks := 0
	stored := agentsandbox.Key{ID: "key_1", ExpiresAt: now.Add(time.Hour)}
	look := func([32]byte) (agentsandbox.Key, error) { looks++; return stored, nil }
	find := func(at time.Time) agentsandbox.Key {
		t.Helper()
		key, err := k.find([32]byte{1}, at, look)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	find(now)
	if find(now); looks != 1 {
		t.Errorf("%d look-ups for two requests", looks)
	}
	if find(now.Add(2 * time.Hour)); looks != 2 {
		t.Error("a key that has expired since was not looked up")
	}
	k.forget()
	if find(now); looks != 3 {
		t.Error("a key that was forgotten was not looked up")
	}

	// A key that is revoked between the look-up and its end is not remembered.
	k.forget()
	_, err := k.find([32]byte{1}, now, func([32]byte) (agentsandbox.Key, error) {
		key := stored
		stored.RevokedAt = now
		k.forget()
		return key, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if key := find(now); key.Usable(now) {
		t.Error("a revoked key is still known")
	}
	if _, err := k.find([32]byte{2}, now, func([32]byte) (agentsandbox.Key, error) { return agentsandbox.Key{}, errors.New("no") }); err == nil || len(k.byHash) != 0 {
		t.Errorf("%v, %d known", err, len(k.byHash))
	}
}
