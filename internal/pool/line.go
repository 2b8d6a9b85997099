package pool

import (
	"cmp"
	"slices"
)

// line is the claims that wait for room, fair between owners: whoever was served
// longest ago is next, and within an owner the first who came. It is bounded; a
// newcomer to a full line takes the place of the last claim of the owner that
// has most in it, so that one owner's burst refuses nobody else.
//
// It is guarded by the pool's lock.
type line struct {
	lanes map[string]*lane
	count int
	bound int // 0: none
	turn  uint64
	seq   uint64
}

// lane is one owner's claims, in order. It is kept while anybody waits, also
// when it is empty: an owner that comes back must not count as new.
type lane struct {
	owner  string
	claims []*waiter
	served uint64 // turn in which a claim of it was served last
}

// maxPassed is how many claims may pass the one that is next, because it asks
// for more memory than there is and they for less. Then it blocks the line until
// it is served: it would starve otherwise.
const maxPassed = 16

func newLine(bound int) line { return line{lanes: map[string]*lane{}, bound: bound} }

// add puts a claim at the end of its owner's. It returns the claim that has no
// place in the line now, if any: the newcomer, or another.
func (l *line) add(w *waiter) (refused *waiter) {
	if l.bound > 0 && l.count >= l.bound {
		most := l.longest()
		if most == nil || len(most.claims) <= len(l.laneOf(w.owner).claims)+1 {
			return w
		}
		refused = most.claims[len(most.claims)-1]
		l.remove(refused)
	}
	l.seq++
	w.seq = l.seq
	own := l.laneOf(w.owner)
	own.claims = append(own.claims, w)
	l.count++
	w.queue.waiting++
	return refused
}

// putBack gives a claim its old place again.
func (l *line) putBack(w *waiter) {
	own := l.laneOf(w.owner)
	at, _ := slices.BinarySearchFunc(own.claims, w.seq, func(other *waiter, seq uint64) int { return cmp.Compare(other.seq, seq) })
	own.claims = slices.Insert(own.claims, at, w)
	l.count++
	w.queue.waiting++
}

// remove takes a claim out and tells whether it was in.
func (l *line) remove(w *waiter) bool {
	own := l.lanes[w.owner]
	if own == nil {
		return false
	}
	at := slices.Index(own.claims, w)
	if at < 0 {
		return false
	}
	own.claims = slices.Delete(own.claims, at, at+1)
	w.queue.waiting--
	if l.count--; l.count == 0 {
		clear(l.lanes) // nobody waits: nobody has a turn before another
	}
	return true
}

// serve takes a claim out because its turn has come.
func (l *line) serve(w *waiter) {
	l.turn++
	l.lanes[w.owner].served = l.turn
	l.remove(w)
}

// heads returns the next claim of each owner, in the order of their turns.
func (l *line) heads() []*waiter {
	lanes := make([]*lane, 0, len(l.lanes))
	for _, own := range l.lanes {
		if len(own.claims) > 0 {
			lanes = append(lanes, own)
		}
	}
	slices.SortFunc(lanes, func(a, b *lane) int {
		return cmp.Or(cmp.Compare(a.served, b.served), cmp.Compare(a.claims[0].seq, b.claims[0].seq))
	})
	heads := make([]*waiter, len(lanes))
	for i, own := range lanes {
		heads[i] = own.claims[0]
	}
	return heads
}

// next picks the claim whose turn it is among those that fit, and serves it. One
// that does not fit is passed by a bounded number of others.
func (l *line) next(fits func(*waiter) bool) *waiter {
	var passed []*waiter
	for _, w := range l.heads() {
		if fits(w) {
			for _, p := range passed {
				p.passed++
			}
			l.serve(w)
			return w
		}
		if w.passed >= maxPassed {
			return nil
		}
		passed = append(passed, w)
	}
	return nil
}

// first serves the claim whose turn it is among all that want, the first of an
// owner or not: what they want is there, and would lie idle.
func (l *line) first(want func(*waiter) bool) *waiter {
	var found *waiter
	for _, own := range l.lanes {
		at := slices.IndexFunc(own.claims, want)
		if at < 0 {
			continue
		}
		w := own.claims[at]
		if found == nil || cmp.Or(cmp.Compare(own.served, l.lanes[found.owner].served), cmp.Compare(w.seq, found.seq)) < 0 {
			found = w
		}
	}
	if found != nil {
		l.serve(found)
	}
	return found
}

// drain empties the line.
func (l *line) drain() []*waiter {
	var all []*waiter
	for _, own := range l.lanes {
		all = append(all, own.claims...)
	}
	for _, w := range all {
		w.queue.waiting--
	}
	clear(l.lanes)
	l.count = 0
	return all
}

func (l *line) longest() *lane {
	var most *lane
	for _, own := range l.lanes {
		if most == nil || len(own.claims) > len(most.claims) {
			most = own
		}
	}
	return most
}

func (l *line) laneOf(owner string) *lane {
	own := l.lanes[owner]
	if own == nil {
		own = &lane{owner: owner}
		l.lanes[owner] = own
	}
	return own
}
