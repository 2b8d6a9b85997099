package edge

import (
	"testing"

	"github.com/agentsandbox/agentsandbox"
)

func TestEveryCodeHasAStatus(t *testing.T) {
	for _, code := range agentsandbox.Codes() {
		status, ok := statuses[code]
		if !ok || status < 400 || status > 599 {
			t.Errorf("%s has the status %d", code, status)
		}
	}
	if got := len(agentsandbox.Codes()); got != len(statuses)-1 {
		t.Errorf("%d codes, and statuses for %d", got, len(statuses)-1)
	}
	if Status("") != 200 || Status("made_up") != 500 {
		t.Errorf("no code: %d, an unknown one: %d", Status(""), Status("made_up"))
	}
}
