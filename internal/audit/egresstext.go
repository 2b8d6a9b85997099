package audit

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/agentsandbox/agentsandbox"
)

// This file is what rows about the network of a sandbox say.

// detailBytes bounds what a row of counts says of single names and addresses, and
// shownBytes what a row says of each.
const detailBytes, shownBytes = 1000, 120

func useText(n EgressNote) string { return n.Secret + " to " + targetOf(n.First) }

func refusalText(n EgressNote) string {
	return fmt.Sprintf("%s %s: %s", n.First.Kind, targetOf(n.First), harmless(n.First.Rule))
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

func sumOf(seen EgressNotes) (sum int64) {
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
func countsOf(seen EgressNotes) string {
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
