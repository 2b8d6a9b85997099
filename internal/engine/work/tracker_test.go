package work_test

import (
	"context"
	"testing"

	"github.com/agentsandbox/agentsandbox/internal/engine/work"
)

func TestATrackerSaysWhatIsOverdue(t *testing.T) {
	var tracker work.Tracker
	if got := tracker.Wait(t.Context()); got != "" {
		t.Errorf("nothing is under way: %q", got)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	first, second, other := tracker.Add("read"), tracker.Add("read"), tracker.Add("write")
	if got := tracker.Wait(over); got != "read (2), write" {
		t.Error(got)
	}
	first()
	first() // again
	if got := tracker.Wait(over); got != "read, write" {
		t.Error(got)
	}
	ended := make(chan string, 2)
	for range 2 {
		go func() { ended <- tracker.Wait(t.Context()) }()
	}
	second()
	other()
	for range 2 {
		if got := <-ended; got != "" {
			t.Error(got)
		}
	}
}
