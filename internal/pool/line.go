package pool

import (
	"cmp"
	"slices"
)

// Owner is who claims: one of a group whose members share a turn, so that a
// group gains nothing by having more members. It is an alias, so that who claims
// need not import this package.
type Owner = struct {
	Group, Name string
}

// line is the claims that wait for room, fair between groups, and within a group
// between owners: whoever was served longest ago is next, and of one owner the
// first claim that came. It is bounded; a newcomer to a full line takes the place
// of the last claim of the owner that has most in it, in the group that has most,
// so that a burst of one refuses nobody else.
//
// It is guarded by the pool's lock.
type line struct {
	groups map[string]*group
	lanes  map[Owner]*lane
	count  int
	bound  int // 0: none
	turn   uint64
	seq    uint64
}

// group is what the owners of a group have in common.
type group struct {
	count  int    // claims in the line
	served uint64 // turn in which a claim of it was served last
}

// lane is one owner's claims, in order. It, and its group, are kept while anybody
// waits, also when it is empty: an owner that comes back must not count as new.
type lane struct {
	owner  Owner
	group  *group
	claims []*waiter
	served uint64 // as in group
}

// before compares two lanes by whose turn comes first; a and b are the numbers of
// their claims. The turns of different groups differ, unless neither had one.
func (l *lane) before(other *lane, a, b uint64) int {
	return cmp.Or(cmp.Compare(l.group.served, other.group.served), cmp.Compare(l.served, other.served), cmp.Compare(a, b))
}

// maxPassed is how many claims may pass the one that is next, because it asks
// for more memory than there is and they for less. Then it blocks the line until
// it is served: it would starve otherwise.
const maxPassed = 16

func newLine(bound int) line {
	return line{groups: map[string]*group{}, lanes: map[Owner]*lane{}, bound: bound}
}

// add puts a claim at the end of its owner's. It returns the claim that has no
// place in the line now, if any: the newcomer, or another.
func (l *line) add(w *waiter) (refused *waiter) {
	own := l.laneOf(w.owner)
	if l.bound > 0 && l.count >= l.bound {
		if refused = l.last(own); refused == nil {
			return w
		}
		l.remove(refused)
		own = l.laneOf(w.owner) // a line of one is empty now, and knows nobody
	}
	l.seq++
	w.seq = l.seq
	own.claims = append(own.claims, w)
	l.added(w, own)
	return refused
}

func (l *line) added(w *waiter, own *lane) {
	own.group.count++
	l.count++
	w.queue.waiting++
}

// putBack gives a claim its old place again.
func (l *line) putBack(w *waiter) {
	own := l.laneOf(w.owner)
	at, _ := slices.BinarySearchFunc(own.claims, w.seq, func(other *waiter, seq uint64) int { return cmp.Compare(other.seq, seq) })
	own.claims = slices.Insert(own.claims, at, w)
	l.added(w, own)
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
	own.group.count--
	if l.count--; l.count == 0 {
		l.forget() // nobody waits: nobody has a turn before another
	}
	return true
}

// serve takes a claim out because its turn has come.
func (l *line) serve(w *waiter) {
	l.turn++
	own := l.lanes[w.owner]
	own.served, own.group.served = l.turn, l.turn
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
		return a.before(b, a.claims[0].seq, b.claims[0].seq)
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
		if found == nil || own.before(l.lanes[found.owner], w.seq, found.seq) < 0 {
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
	l.forget()
	l.count = 0
	return all
}

func (l *line) forget() {
	clear(l.lanes)
	clear(l.groups)
}

// last is the claim that gives its place to a newcomer of a lane; nil if nobody
// has more than the newcomer's group would have, and in that no owner more than
// the newcomer.
func (l *line) last(own *lane) *waiter {
	most := own.group
	for _, g := range l.groups {
		if g.count > most.count {
			most = g
		}
	}
	if most.count <= own.group.count+1 {
		most = own.group
	}
	var longest *lane
	for _, other := range l.lanes {
		if other.group == most && (longest == nil || len(other.claims) > len(longest.claims)) {
			longest = other
		}
	}
	if most == own.group && len(longest.claims) <= len(own.claims)+1 {
		return nil
	}
	return longest.claims[len(longest.claims)-1]
}

func (l *line) laneOf(owner Owner) *lane {
	own := l.lanes[owner]
	if own == nil {
		g := l.groups[owner.Group]
		if g == nil {
			g = &group{}
			l.groups[owner.Group] = g
		}
		own = &lane{owner: owner, group: g}
		l.lanes[owner] = own
	}
	return own
}
