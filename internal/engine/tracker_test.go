package engine

import (
	"context"
	"testing"
)

func TestATrackerSaysWhatIsOverdue(t *testing.T) {
	var work tracker
	if got := work.wait(t.Context()); got != "" {
		t.Errorf("nothing is under way: %q", got)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	first, second, other := work.add("read"), work.add("read"), work.add("write")
	if got := work.wait(over); got != "read (2), write" {
		t.Error(got)
	}
	first()
	first() // again
	if got := work.wait(over); got != "read, write" {
		t.Error(got)
	}
	ended := make(chan string, 2)
	for range 2 {
		go func() { ended <- work.wait(t.Context()) }()
	}
	second()
	other()
	for range 2 {
		if got := <-ended; got != "" {
			t.Error(got)
		}
	}
}
