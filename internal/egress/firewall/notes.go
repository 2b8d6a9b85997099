package firewall

import (
	"sync"
	"time"
)

const (
	// noteSubjects is how many names, addresses or rules are told apart for each
	// reason, and hosts for each secret; more only count. Classes of addresses are
	// few by themselves.
	noteSubjects = 8
	subjectBytes = 255
)

// Note is one kind of thing that whoever answers for a sandbox wants to know of:
// the first time, and how often.
type Note struct {
	// First is how it was the first time; its Count is how often it has been.
	First Entry
	// Subject tells notes of one reason apart: the class of the address, a name, an
	// address, or the rule.
	Subject string
	// Secret is the name of the secret that went to the host First.Name; "" for
	// what was refused.
	Secret string
}

// Notes are in the order in which their kinds were first seen: the list only
// grows.
type Notes struct {
	Notes []Note
	// Others counts refusals beyond the subjects that are told apart, by reason,
	// and OtherUses those of secrets, by name.
	Others    map[Reason]int64
	OtherUses map[string]int64
}

type noteKey struct {
	reason          Reason
	secret, subject string
}

// notebook keeps the notes of one sandbox, in bounded space: the reasons are a
// closed set, and so are the secrets.
type notebook struct {
	mu        sync.Mutex
	notes     []Note
	places    map[noteKey]int
	subjects  map[noteKey]int // how many there are, of keys without one
	others    map[Reason]int64
	otherUses map[string]int64
}

// refusal notes an entry that was refused or cut.
func (n *notebook) refusal(e Entry) {
	if e.Verdict != VerdictRefused && e.Verdict != VerdictCut {
		return
	}
	key := noteKey{reason: e.Reason, subject: subjectOf(e)}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.note(key, e, e.Reason == ReasonRange) {
		if n.others == nil {
			n.others = map[Reason]int64{}
		}
		n.others[e.Reason]++
	}
}

// use notes that the value of a secret went out.
func (n *notebook) use(secret string, e Entry) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.note(noteKey{secret: secret, subject: cut(e.Name, subjectBytes)}, e, false) {
		if n.otherUses == nil {
			n.otherUses = map[string]int64{}
		}
		n.otherUses[secret]++
	}
}

// note counts an entry, and reports whether there was a place for it.
func (n *notebook) note(key noteKey, e Entry, closed bool) bool {
	if at, known := n.places[key]; known {
		n.notes[at].First.Count++
		return true
	}
	all := noteKey{reason: key.reason, secret: key.secret}
	if n.subjects[all] >= noteSubjects && !closed {
		return false
	}
	if n.places == nil {
		n.places, n.subjects = map[noteKey]int{}, map[noteKey]int{}
	}
	n.subjects[all]++
	n.places[key] = len(n.notes)
	e.At, e.Count = time.Now().UTC(), 1
	e.Name, e.Rule = cut(e.Name, subjectBytes), cut(e.Rule, ruleBytes)
	n.notes = append(n.notes, Note{First: e, Subject: key.subject, Secret: key.secret})
	return true
}

func (n *notebook) read() Notes {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := Notes{Notes: append([]Note(nil), n.notes...), Others: map[Reason]int64{}, OtherUses: map[string]int64{}}
	for reason, count := range n.others {
		all.Others[reason] = count
	}
	for secret, count := range n.otherUses {
		all.OtherUses[secret] = count
	}
	return all
}

// subjectOf is what a refusal is about. Rules that say a name or an address would
// make each of them a kind of its own.
func subjectOf(e Entry) string {
	switch e.Reason {
	case ReasonRange:
		return e.Class
	case ReasonDenied, ReasonNotAllowed, ReasonName:
		if e.Name != "" {
			return cut(e.Name, subjectBytes)
		}
		if e.Address.IsValid() {
			return e.Address.String()
		}
	}
	return cut(e.Rule, subjectBytes)
}

// cut shortens a text that is longer than so many bytes, and shows it.
func cut(text string, most int) string {
	if len(text) > most {
		return text[:most-3] + "..."
	}
	return text
}

// Notes returns what the audit log shall have of the sandbox, also after Close.
func (g *Gate) Notes() Notes { return g.notes.read() }
