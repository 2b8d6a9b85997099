package firewall

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

func TestLedgerIsBounded(t *testing.T) {
	var l ledger
	for i := range 10 * logEntries {
		l.write(Entry{Kind: "dns", Name: fmt.Sprintf("n%d.example", i), Verdict: VerdictRefused, Reason: ReasonDenied, Rule: strings.Repeat("r", 1000)})
	}
	entries, gone := l.entries()
	if len(entries) != logEntries || gone != 9*logEntries {
		t.Errorf("%d entries, %d gone", len(entries), gone)
	}
	if first, last := entries[0].Name, entries[logEntries-1].Name; first != fmt.Sprintf("n%d.example", 9*logEntries) || last != fmt.Sprintf("n%d.example", 10*logEntries-1) {
		t.Errorf("from %s to %s", first, last)
	}
	if len(entries[0].Rule) > ruleBytes {
		t.Errorf("a rule of %d bytes", len(entries[0].Rule))
	}
	s := l.stats()
	if len(s.Names) != logNames || s.NamesLeftOut != 10*logEntries-logNames || s.Refusals[ReasonDenied] != 10*logEntries || s.Queries != 10*logEntries {
		t.Errorf("%d names, %d left out, %v refusals", len(s.Names), s.NamesLeftOut, s.Refusals)
	}
}

func TestLedgerCountsRepeats(t *testing.T) {
	var l ledger
	e := Entry{Kind: "tcp", Address: netip.MustParseAddr("10.0.0.5"), Port: 80, Verdict: VerdictRefused, Reason: ReasonRange, Rule: "private address"}
	for range 100 {
		l.write(e)
	}
	e.Port = 81
	l.write(e)
	if entries, _ := l.entries(); len(entries) != 2 || entries[0].Count != 100 {
		t.Errorf("%+v", entries)
	}
}

func TestPinsAreBoundedAndExpire(t *testing.T) {
	var p pins
	now := time.Now()
	a := netip.MustParseAddr("93.1.1.1")
	for i := range 3 * maxPins {
		p.add(fmt.Sprintf("n%d.example", i), []netip.Addr{a}, time.Second, now)
	}
	if n := len(p.names(a, now)); n > maxPins || p.count != n {
		t.Errorf("%d pins, counted %d", n, p.count)
	}
	if n := len(p.names(a, now.Add(minPin))); n != 0 {
		t.Errorf("%d pins after their time", n)
	}
	p.add("long.example", []netip.Addr{a}, 1000*time.Hour, now)
	if p.holds("long.example", a, now.Add(maxPin)) || !p.holds("long.example", a, now.Add(maxPin-time.Second)) {
		t.Error("a pin's time is not bounded")
	}
}

func TestBudgetStartsAnew(t *testing.T) {
	l := Limits{Names: 2}.withDefaults()
	b := budget{limits: &l}
	now := time.Now()
	for i, want := range []bool{true, true, false} {
		if v := b.spend(fmt.Sprintf("n%d.example", i), now); v.Allowed != want {
			t.Errorf("name %d: %+v", i, v)
		}
	}
	if v := b.spend("n0.example", now); !v.Allowed {
		t.Error("a name that was asked for before is not free")
	}
	if v := b.spend("n9.example", now.Add(budgetWindow+time.Second)); !v.Allowed {
		t.Error("the next hour did not start anew")
	}
}

func TestSecretBindings(t *testing.T) {
	good := agentsandbox.Secret{Name: "TOKEN", Value: agentsandbox.NewSecretValue("v"), Hosts: []string{"a.example"}}
	one, err := NewSecret(good, "")
	must(t, err)
	two, err := NewSecret(good, "")
	must(t, err)
	if one.Placeholder == two.Placeholder || !strings.HasPrefix(one.Placeholder, agentsandbox.PlaceholderPrefix) {
		t.Errorf("placeholders %s and %s", one.Placeholder, two.Placeholder)
	}
	again, err := NewSecret(good, one.Placeholder)
	must(t, err)
	if again.Placeholder != one.Placeholder {
		t.Error("a given placeholder was not kept")
	}
	if text, err := json.Marshal(one); err != nil || strings.Contains(string(text), `"v"`) {
		t.Errorf("%s %v", text, err)
	}
	good.Hosts = []string{"10.0.0.1"}
	if _, err := NewSecret(good, ""); err == nil {
		t.Error("a secret was bound to an address")
	}
}

func TestLoadCARefusesOthers(t *testing.T) {
	certPEM, keyPEM, err := NewCA()
	must(t, err)
	ca, err := LoadCA(certPEM, keyPEM)
	must(t, err)
	leaf, err := ca.leaf("a.example")
	must(t, err)
	if again, err := ca.leaf("a.example"); err != nil || again != leaf {
		t.Error("a certificate was made twice")
	}
	if err := leaf.Leaf.VerifyHostname("b.example"); err == nil {
		t.Error("a certificate is for another name")
	}
	_, otherKey, err := NewCA()
	must(t, err)
	if _, err := LoadCA(certPEM, otherKey); err == nil {
		t.Error("a key of another certificate was taken")
	}
}
