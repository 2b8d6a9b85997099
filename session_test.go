package agentsandbox_test

import (
	"slices"
	"testing"

	"github.com/agentsandbox/agentsandbox"
)

// The moves of a session, as a drawing: a row for each state, a column for each
// state that may follow it. A new state must be drawn here.
var drawnMoves = map[agentsandbox.SessionStatus]string{
	//                              creating live deleting deleted lost expired
	agentsandbox.SessionCreating: "-        x    -        x       x    -",
	agentsandbox.SessionLive:     "-        -    x        x       x    x",
	agentsandbox.SessionDeleting: "-        -    -        x       -    -",
	agentsandbox.SessionDeleted:  "-        -    -        -       -    -",
	agentsandbox.SessionLost:     "-        -    -        -       -    -",
	agentsandbox.SessionExpired:  "-        -    -        -       -    -",
}

func TestSessionMoves(t *testing.T) {
	all := agentsandbox.SessionStatuses()
	if len(drawnMoves) != len(all) {
		t.Fatalf("%d states are drawn, and there are %d", len(drawnMoves), len(all))
	}
	for _, from := range all {
		columns := slices.DeleteFunc([]byte(drawnMoves[from]), func(c byte) bool { return c == ' ' })
		for n, to := range all {
			drawn := columns[n] == 'x'
			if got := slices.Contains(from.Next(), to); got != drawn {
				t.Errorf("from %s to %s: %v, want %v", from, to, got, drawn)
			}
			if got := slices.Contains(to.Previous(), from); got != drawn {
				t.Errorf("to %s from %s: %v, want %v", to, from, got, drawn)
			}
		}
		if got := len(from.Next()) == 0; from.Ended() != got {
			t.Errorf("%s has ended: %v", from, from.Ended())
		}
	}
	if agentsandbox.SessionStatus("").Ended() {
		t.Error("no state has ended")
	}
}
