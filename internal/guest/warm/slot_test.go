package warm

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/agentsandbox/agentsandbox/internal/guest/script"
)

// thing is what a slot holds in these tests. Its methods are those of an interpreter
// but for discard, which counts.
type thing struct {
	*waiting
	discarded *int
}

func (th *thing) discard() { *th.discarded++ }

func newThing(discarded *int) *thing {
	ready := make(chan struct{})
	close(ready)
	return &thing{waiting: &waiting{script: script.Script{}, ready: ready, waits: true}, discarded: discarded}
}

func newSlot() *slot[*thing] {
	return &slot[*thing]{what: "thing", missing: "none", log: slog.New(slog.DiscardHandler)}
}

func TestASlotHoldsOne(t *testing.T) {
	s, discarded, starts := newSlot(), 0, 0
	start := func() (*thing, error) {
		starts++
		return newThing(&discarded), nil
	}
	s.fill(start)
	first, err := s.await(deadline(t))
	if err != nil || starts != 1 {
		t.Fatalf("%v, %d starts", err, starts)
	}
	s.fill(start) // there is one
	if s.take() != first || starts != 1 {
		t.Errorf("%d starts", starts)
	}
	if s.take() != nil || !s.isEmpty() {
		t.Error("a slot gave one thing twice")
	}
	second := newThing(&discarded)
	s.put(first)
	s.put(second) // there is no room for it
	if s.take() != first || discarded != 1 {
		t.Errorf("%d were discarded", discarded)
	}
}

func TestASlotSaysWhyItIsEmpty(t *testing.T) {
	s, discarded := newSlot(), 0
	failure := errors.New("no room")
	s.fill(func() (*thing, error) { return nil, failure })
	if _, err := s.await(deadline(t)); !errors.Is(err, failure) {
		t.Errorf("got %v", err)
	}
	s.fill(func() (*thing, error) { return newThing(&discarded), nil })
	it, err := s.await(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	if !s.remove(it) || s.remove(it) {
		t.Error("what a slot holds can be removed once")
	}
	if _, err := s.await(deadline(t)); err == nil || err.Error() != "the thing was taken while it was waited for" {
		t.Errorf("got %v", err)
	}
}

func TestAClosedSlotDiscards(t *testing.T) {
	s, discarded := newSlot(), 0
	s.put(newThing(&discarded))
	started, release := make(chan struct{}), make(chan struct{})
	taken := s.take()
	s.fill(func() (*thing, error) {
		close(started)
		<-release
		return newThing(&discarded), nil
	})
	<-started
	ctx, cancel := context.WithCancel(deadline(t))
	cancel()
	if _, err := s.await(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("await returns %v before the start is over", err)
	}
	s.close()
	close(release)
	s.wait()
	s.put(taken)
	s.fill(func() (*thing, error) { t.Error("a closed slot starts one"); return nil, nil })
	if discarded != 2 || s.take() != nil {
		t.Errorf("%d were discarded, want 2", discarded)
	}
}
