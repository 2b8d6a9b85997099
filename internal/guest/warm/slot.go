package warm

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
)

// slot keeps one process waiting, or on its way there.
type slot[T waiter] struct {
	what    string // it is called
	missing string // is logged when none could be started
	log     *slog.Logger
	wg      sync.WaitGroup // starts

	mu      sync.Mutex
	held    T             // the zero value: none
	filling chan struct{} // closed when the start under way is over; nil: none is
	failure error         // of the latest start
	closed  bool
}

// waiter is what a slot holds: a pointer.
type waiter interface {
	comparable
	base() *waiting
	// discard ends a process that no run has been given.
	discard()
}

func (w *waiting) base() *waiting { return w }

// take takes the process out; the zero value: there is none.
func (s *slot[T]) take() T {
	s.mu.Lock()
	defer s.mu.Unlock()
	var none T
	it := s.held
	s.held = none
	return it
}

// put gives back a process that was not used after all.
func (s *slot[T]) put(it T) {
	s.mu.Lock()
	kept := s.keep(it)
	s.mu.Unlock()
	if !kept {
		it.discard()
	}
}

// keep holds a process if there is room. The caller holds mu.
func (s *slot[T]) keep(it T) bool {
	var none T
	if s.held != none || s.closed {
		return false
	}
	s.held = it
	return true
}

// fill starts a process if there is none, without waiting for it.
func (s *slot[T]) fill(start func() (T, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var none T
	if s.held != none || s.filling != nil || s.closed {
		return
	}
	done := make(chan struct{})
	s.filling = done
	s.wg.Go(func() {
		it, err := start()
		s.mu.Lock()
		s.filling, s.failure = nil, err
		kept := err == nil && s.keep(it)
		s.mu.Unlock()
		close(done)
		switch {
		case err != nil:
			s.log.Info(s.missing, "error", err)
		case !kept:
			it.discard()
		}
	})
}

// awaitFill waits until the start under way, if there is one, is over.
func (s *slot[T]) awaitFill(ctx context.Context) error {
	s.mu.Lock()
	filling := s.filling
	s.mu.Unlock()
	if filling == nil {
		return nil
	}
	select {
	case <-filling:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// await returns the process that the slot holds, when that waits or never will.
func (s *slot[T]) await(ctx context.Context) (it T, err error) {
	if err := s.awaitFill(ctx); err != nil {
		return it, err
	}
	s.mu.Lock()
	it, err = s.held, s.failure
	s.mu.Unlock()
	var none T
	switch {
	case it == none && err != nil:
		return none, err
	case it == none:
		return none, fmt.Errorf("the %s was taken while it was waited for", s.what)
	}
	select {
	case <-it.base().ready:
		return it, nil
	case <-ctx.Done():
		return none, context.Cause(ctx)
	}
}

// remove takes a process out if it is the one that the slot holds.
func (s *slot[T]) remove(it T) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	mine := s.held == it
	if mine {
		var none T
		s.held = none
	}
	return mine
}

// withReady calls f with the process that waits, if there is one. No run can take it
// meanwhile.
func (s *slot[T]) withReady(f func(T)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var none T
	if s.held != none && s.held.base().isReady() && s.held.base().waits {
		f(s.held)
	}
}

func (s *slot[T]) isEmpty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	var none T
	return s.held == none
}

func (s *slot[T]) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// close ends the process that waits; none is started any more. wait waits for what
// is on its way, which is discarded.
func (s *slot[T]) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	var none T
	if it := s.take(); it != none {
		it.discard()
	}
}

func (s *slot[T]) wait() { s.wg.Wait() }
