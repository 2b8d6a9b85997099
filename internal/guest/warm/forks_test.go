package warm

import (
	"testing"
	"time"
)

// While a server forks, it has a child that would be taken for a process that a run
// has left behind: then the server would be given up.
func TestARunWaitsForTheForkThatIsBeingMade(t *testing.T) {
	loaded, filling := make(chan struct{}), make(chan struct{})
	close(loaded)
	f := &forks{server: &forkServer{forking: loaded}}
	f.slot.filling = filling
	taken := make(chan *interpreter, 1)
	go func() { taken <- f.take(nil) }()
	select {
	case <-taken:
		t.Fatal("a run did not wait for the fork that was being made")
	case <-time.After(20 * time.Millisecond):
	}
	made := &interpreter{}
	f.slot.mu.Lock()
	f.slot.held, f.slot.filling = made, nil
	f.slot.mu.Unlock()
	close(filling)
	if got := <-taken; got != made {
		t.Errorf("the run got %v, not the fork that was made", got)
	}
}
