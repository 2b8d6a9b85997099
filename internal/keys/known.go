package keys

import (
	"sync"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

// maxKnownKeys bounds the keys that are remembered, at some hundred bytes each.
const maxKnownKeys = 10_000

// knownKeys remembers usable keys by the hash of their values, so that not every
// request asks the store. The store's only writer is this process, and whatever
// changes a key calls forget.
type knownKeys struct {
	mu     sync.Mutex
	byHash map[[32]byte]agentsandbox.Key
	// changes counts calls of forget: what was read before one is not remembered.
	changes int
}

// find returns the key of a hash, from look if it is not known. An answer that
// says no is never remembered.
func (k *knownKeys) find(hash [32]byte, now time.Time, look func([32]byte) (agentsandbox.Key, error)) (agentsandbox.Key, error) {
	k.mu.Lock()
	key, ok := k.byHash[hash]
	changes := k.changes
	k.mu.Unlock()
	if ok && key.Usable(now) {
		return key, nil
	}
	key, err := look(hash)
	if err != nil || !key.Usable(now) {
		return key, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.changes == changes {
		if len(k.byHash) >= maxKnownKeys {
			clear(k.byHash)
		}
		k.byHash[hash] = key
	}
	return key, nil
}

// forget makes the next request of every key ask the store.
func (k *knownKeys) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.changes++
	clear(k.byHash)
}
