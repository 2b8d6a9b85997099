package firewall

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestNotesKeepTheFirstOfEachKind(t *testing.T) {
	var n notebook
	at := netip.MustParseAddrPort("10.0.0.1:80")
	private := Verdict{Reason: ReasonRange, Rule: "10.0.0.1: private address", class: "private"}
	n.refusal(entryFor("tcp", "", at, private))
	private.Rule = "10.0.0.2: private address"
	n.refusal(entryFor("dns", "corp.example", netip.AddrPort{}, private))
	n.refusal(entryFor("dns", "fine.example", netip.AddrPort{}, allowed("public")))
	n.refusal(entryFor("tcp", "", at, refused(ReasonUpstream, "no answer in time")))
	n.refusal(entryFor("tls", "x.example", at, refused(ReasonDenied, "server deny x.example")).cut())
	n.use("TOKEN", entryFor("http", "api.example", at, allowed("")))
	n.use("TOKEN", entryFor("http", "api.example", at, allowed("")))
	var got []string
	for _, note := range n.read().Notes {
		got = append(got, fmt.Sprintf("%s %s %s %d", note.First.Kind, note.Secret, note.Subject, note.First.Count))
	}
	if want := "[tcp  private 2 tls  x.example 1 http TOKEN api.example 2]"; fmt.Sprint(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestNotesAreBounded(t *testing.T) {
	var n notebook
	const names = 10_000
	for i := range names {
		name := fmt.Sprintf("n%d.%s", i, strings.Repeat("x", 70_000))
		n.refusal(entryFor("dns", name, netip.AddrPort{}, refused(ReasonNotAllowed, "%s", name)))
		n.use("TOKEN", entryFor("http", name, netip.AddrPort{}, allowed("")))
	}
	for _, s := range special {
		v := Verdict{Reason: ReasonRange, Rule: s.kind.name, class: s.kind.name}
		n.refusal(entryFor("tcp", "", netip.AddrPortFrom(s.prefix.Addr(), 80), v))
	}
	all := n.read()
	if len(all.Notes) > 2*noteSubjects+len(special) || all.Others[ReasonNotAllowed] != names-noteSubjects || all.OtherUses["TOKEN"] != names-noteSubjects {
		t.Errorf("%d notes, others %v %v", len(all.Notes), all.Others, all.OtherUses)
	}
	ranges := 0
	for _, note := range all.Notes {
		if len(note.Subject) > subjectBytes || len(note.First.Rule) > ruleBytes {
			t.Errorf("a note of %d and %d bytes", len(note.Subject), len(note.First.Rule))
		}
		if note.First.Reason == ReasonRange {
			ranges++
		}
	}
	if ranges < 20 || all.Others[ReasonRange] != 0 {
		t.Errorf("%d classes of addresses, %d left out", ranges, all.Others[ReasonRange])
	}
}
