package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

// Actions of the audit log about the network of a session or of a run in a
// sandbox of its own.
const (
	actionRefuse = "refuseEgress" // the first refusal of a kind; the outcome is the reason
	actionSecret = "useSecret"    // the first use of a secret at a host
	actionCount  = "countEgress"  // how many there were of all
)

const (
	// firstRows bounds the rows about first refusals, and about first uses, of one
	// session: hostile code makes up kinds. All of them count.
	firstRows = 16
	// countEvery is how often a session that lives on has its counts written.
	countEvery = time.Hour
	// detailBytes bounds what a row of counts says of single names and addresses,
	// and shownBytes what a row says of each.
	detailBytes, shownBytes = 1000, 120
)

// witness knows for the audit log what a sandbox does with its network.
type witness struct {
	tenant, object string
	// firsts says that rows are written at once; a run has one row, at its end.
	firsts bool
	notes  func() agentsandbox.NetworkNotes
}

// hearing is a witness, and what the log has of it.
type hearing struct {
	witness
	mu             sync.Mutex // held while rows are written
	over           bool
	heard          int   // notes that were looked at
	refusals, uses int   // rows about first ones
	counted        int64 // what the last counts added up to
	countedAt      time.Time
}

type witnesses struct {
	mu        sync.Mutex
	bySandbox map[string]*hearing
}

// witness has the audit log hear of a sandbox, until testify.
func (e *Engine) witness(sandbox string, w witness) {
	if w.notes = e.network.Notes(sandbox); w.notes == nil {
		return
	}
	e.witnesses.mu.Lock()
	defer e.witnesses.mu.Unlock()
	if e.witnesses.bySandbox == nil {
		e.witnesses.bySandbox = map[string]*hearing{}
	}
	e.witnesses.bySandbox[sandbox] = &hearing{witness: w, countedAt: e.now()}
}

// testify writes what is left to say of a sandbox. It can be repeated.
func (e *Engine) testify(sandbox string) {
	e.witnesses.mu.Lock()
	h := e.witnesses.bySandbox[sandbox]
	delete(e.witnesses.bySandbox, sandbox)
	e.witnesses.mu.Unlock()
	if h != nil {
		e.hear(h, true)
	}
}

// hearWitnesses writes what is new.
func (e *Engine) hearWitnesses() {
	e.witnesses.mu.Lock()
	all := slices.Collect(maps.Values(e.witnesses.bySandbox))
	e.witnesses.mu.Unlock()
	for _, h := range all {
		e.hear(h, false)
	}
}

func (e *Engine) hear(h *hearing, last bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over {
		return
	}
	h.over = last
	seen := h.notes()
	if h.firsts {
		for _, n := range seen.Notes[h.heard:] {
			e.auditFirst(h, n)
		}
	}
	h.heard = len(seen.Notes)
	now := e.now()
	if !last && now.Sub(h.countedAt) < countEvery {
		return
	}
	h.countedAt = now
	if sum := sumOf(seen); sum > h.counted {
		h.counted = sum
		e.auditNetwork(h, actionCount, agentsandbox.AuditOK, countsOf(seen))
	}
}

func (e *Engine) auditFirst(h *hearing, n agentsandbox.NetworkNote) {
	switch {
	case n.Secret != "" && h.uses < firstRows:
		h.uses++
		e.auditNetwork(h, actionSecret, agentsandbox.AuditOK, n.Secret+" to "+targetOf(n.First))
	case n.Secret == "" && h.refusals < firstRows:
		h.refusals++
		e.auditNetwork(h, actionRefuse, n.First.Reason, fmt.Sprintf("%s %s: %s", n.First.Kind, targetOf(n.First), harmless(n.First.Rule)))
	}
}

func (e *Engine) auditNetwork(h *hearing, action, outcome, detail string) {
	_ = e.audit.Append(context.Background(), agentsandbox.AuditEntry{
		Tenant: h.tenant, Action: action, ObjectID: h.object, Outcome: outcome, Detail: detail,
	})
}

// targetOf says what an entry was about: a name in quotes, an address, or both.
func targetOf(e agentsandbox.NetworkEntry) string {
	var parts []string
	if e.Name != "" {
		parts = append(parts, `"`+harmless(e.Name)+`"`)
	}
	if e.Address != "" {
		parts = append(parts, fmt.Sprintf("%s port %d", e.Address, e.Port))
	}
	if len(parts) == 0 {
		return "no name"
	}
	return strings.Join(parts, " at ")
}

// harmless is a text that code in a sandbox may have made up: in ASCII without
// control characters, quotes and backslashes escaped, and not too long.
func harmless(text string) string {
	if len(text) > shownBytes {
		text = text[:shownBytes-3] + "..."
	}
	quoted := strconv.QuoteToASCII(text)
	return quoted[1 : len(quoted)-1]
}

func sumOf(seen agentsandbox.NetworkNotes) (sum int64) {
	for _, n := range seen.Notes {
		sum += int64(n.First.Count)
	}
	for _, others := range []map[string]int64{seen.Others, seen.OtherUses} {
		for _, n := range others {
			sum += n
		}
	}
	return sum
}

// countsOf says how many there were of everything, such as
//
//	refused: range 3 (cloud metadata 1, private 2); used: API_TOKEN 2 (api.example.com 2)
func countsOf(seen agentsandbox.NetworkNotes) string {
	refused, used := map[string]*tally{}, map[string]*tally{}
	at := func(all map[string]*tally, name string) *tally {
		if all[name] == nil {
			all[name] = &tally{}
		}
		return all[name]
	}
	for _, n := range seen.Notes {
		all, name, subject := refused, n.First.Reason, n.Subject
		if n.Secret != "" {
			all, name, subject = used, n.Secret, n.First.Name
		}
		t := at(all, name)
		t.sum += int64(n.First.Count)
		t.subjects = append(t.subjects, count{subject, int64(n.First.Count)})
	}
	for reason, n := range seen.Others {
		at(refused, reason).sum += n
	}
	for secret, n := range seen.OtherUses {
		at(used, secret).sum += n
	}
	var parts []string
	room := detailBytes
	for _, list := range []struct {
		word    string
		tallies map[string]*tally
	}{{"refused", refused}, {"used", used}} {
		var names []string
		for _, name := range slices.Sorted(maps.Keys(list.tallies)) {
			names = append(names, list.tallies[name].text(name, &room))
		}
		if len(names) > 0 {
			parts = append(parts, list.word+": "+strings.Join(names, ", "))
		}
	}
	return strings.Join(parts, "; ")
}

type count struct {
	subject string
	n       int64
}

// tally is how many there were of one reason or secret, and of which subjects.
type tally struct {
	sum      int64
	subjects []count
}

// text says it; of subjects, as many as there is room for.
func (t *tally) text(name string, room *int) string {
	var said []string
	others := t.sum
	for _, c := range t.subjects {
		one := fmt.Sprintf("%s %d", harmless(c.subject), c.n)
		if *room -= len(one) + 2; *room < 0 {
			break
		}
		others -= c.n
		said = append(said, one)
	}
	if others > 0 {
		said = append(said, fmt.Sprintf("others %d", others))
	}
	return fmt.Sprintf("%s %d (%s)", name, t.sum, strings.Join(said, ", "))
}

// egressAudit is the audit of egress as the supply of sandboxes needs it.
type egressAudit struct{ e *Engine }

func (a egressAudit) Flush(sandbox string) { a.e.testify(sandbox) }
