package clienttest

import (
	"testing"
	"time"
)

// wait polls until something is so, or fails the test after ten seconds.
func wait(t *testing.T, what string, check func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for !check() {
		select {
		case <-deadline:
			t.Fatalf("not in time: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
