// Package roottest marks tests that need root. It owns the one rule by which they are
// left out, and knows nothing of what they test: without root they fail, because a
// gate that skips them would be green for nothing, and only the fast tier (go test
// -short) skips them.
package roottest

import (
	"os"
	"testing"
)

// Need skips a test in the fast tier of somebody who is not root. What says what the
// test does that takes root.
func Need(t testing.TB, what string) {
	t.Helper()
	if testing.Short() && os.Geteuid() != 0 {
		t.Skipf("it %s, which takes root: make test", what)
	}
}
