package firewall

import (
	"cmp"
	"sync"
)

// refusalKinds is how many kinds of refusals a tally tells apart.
const refusalKinds = 20

// Refusal is a kind of thing that the policy or a cap of the sandbox refused, and
// how often.
type Refusal struct {
	// Host is the name, or the address where there was none.
	Host string
	// Port is 0 where a name was not resolved.
	Port   uint16
	Reason Reason
	Rule   string
	Count  int64
}

type refusalKey struct {
	host   string
	port   uint16
	reason Reason
}

// tally adds up refusals for whoever wants to know those of some span of time.
type tally struct {
	mu     sync.Mutex
	kinds  []Refusal
	places map[refusalKey]int
	others int64
}

// tallies are those of one gate.
type tallies struct {
	mu  sync.Mutex
	all map[*tally]struct{}
}

// Refusals begins to add up what is refused from now on, in bounded space. The
// function returned ends that, and tells what it was, and how many refusals there
// were of kinds beyond those.
func (g *Gate) Refusals() (end func() (kinds []Refusal, others int64)) {
	t := &tally{places: map[refusalKey]int{}}
	g.tallies.mu.Lock()
	defer g.tallies.mu.Unlock()
	if g.tallies.all == nil {
		g.tallies.all = map[*tally]struct{}{}
	}
	g.tallies.all[t] = struct{}{}
	return func() ([]Refusal, int64) {
		g.tallies.mu.Lock()
		delete(g.tallies.all, t)
		g.tallies.mu.Unlock()
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.kinds, t.others
	}
}

// add counts an entry, if it is a refusal. What the other side refused, and
// questions of DNS that have no answer here, are none.
func (t *tallies) add(e Entry) {
	if e.Verdict != VerdictRefused && e.Verdict != VerdictCut || e.Reason == ReasonQuery {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for one := range t.all {
		one.add(e)
	}
}

func (t *tally) add(e Entry) {
	r := Refusal{Host: e.Name, Port: e.Port, Reason: e.Reason, Rule: cut(e.Rule, ruleBytes), Count: 1}
	if e.Address.IsValid() {
		r.Host = cmp.Or(r.Host, e.Address.String())
	}
	r.Host = cut(r.Host, subjectBytes)
	key := refusalKey{r.Host, r.Port, r.Reason}
	t.mu.Lock()
	defer t.mu.Unlock()
	if at, known := t.places[key]; known {
		t.kinds[at].Count++
		return
	}
	if len(t.kinds) >= refusalKinds {
		t.others++
		return
	}
	t.places[key] = len(t.kinds)
	t.kinds = append(t.kinds, r)
}
