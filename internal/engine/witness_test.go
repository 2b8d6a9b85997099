package engine_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

func refusal(reason, subject string, n int) agentsandbox.NetworkNote {
	return agentsandbox.NetworkNote{Subject: subject, First: agentsandbox.NetworkEntry{
		Kind: "tcp", Name: subject, Address: "192.0.2.1", Port: 80, Verdict: "refused", Reason: reason, Rule: "rule of " + subject, Count: n,
	}}
}

func use(secret, host string, n int) agentsandbox.NetworkNote {
	return agentsandbox.NetworkNote{Secret: secret, Subject: host, First: agentsandbox.NetworkEntry{
		Kind: "http", Name: host, Address: "192.0.2.2", Port: 443, Verdict: "allowed", Reason: "allowed", Count: n,
	}}
}

// networkRows are the rows of the log about networks, oldest first: action, what,
// outcome and detail.
func networkRows(t *testing.T, f *fixture) []string {
	t.Helper()
	page, err := f.AuditLog(as(t, "a", agentsandbox.ScopeAdmin), agentsandbox.Page{Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for _, e := range slices.Backward(page.Entries) {
		if slices.Contains([]string{"refuseEgress", "useSecret", "countEgress"}, e.Action) {
			if e.Tenant != "a" || e.KeyID != "" {
				t.Errorf("%+v", e)
			}
			rows = append(rows, fmt.Sprintf("%s %s %s %s", e.Action, e.ObjectID, e.Outcome, e.Detail))
		}
	}
	return rows
}

func wantRows(t *testing.T, f *fixture, want ...string) {
	t.Helper()
	if got := networkRows(t, f); !slices.Equal(got, want) {
		t.Errorf("the log has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestTheAuditLogHearsOfASessionsNetwork(t *testing.T) {
	f, w, forward, ctx := wired(t)
	s, err := f.CreateSession(ctx, agentsandbox.SessionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	f.HearWitnesses()
	wantRows(t, f)
	notes := agentsandbox.NetworkNotes{Notes: []agentsandbox.NetworkNote{refusal("range", "private", 1), use("TOKEN", "api.example", 1)}}
	w.see(notes)
	f.HearWitnesses()
	f.HearWitnesses()
	want := []string{
		"refuseEgress " + s.ID + ` range tcp "private" at 192.0.2.1 port 80: rule of private`,
		"useSecret " + s.ID + ` ok TOKEN to "api.example" at 192.0.2.2 port 443`,
	}
	wantRows(t, f, want...)

	// A kind that is known already is counted, within the hour and at the end.
	notes = agentsandbox.NetworkNotes{
		Notes:     []agentsandbox.NetworkNote{refusal("range", "private", 5), use("TOKEN", "api.example", 3), refusal("range", "loopback", 1)},
		Others:    map[string]int64{"denied": 7},
		OtherUses: map[string]int64{"TOKEN": 2},
	}
	w.see(notes)
	f.HearWitnesses()
	want = append(want, "refuseEgress "+s.ID+` range tcp "loopback" at 192.0.2.1 port 80: rule of loopback`)
	wantRows(t, f, want...)
	forward(time.Hour)
	f.HearWitnesses()
	want = append(want, "countEgress "+s.ID+" ok refused: denied 7 (others 7), range 6 (private 5, loopback 1); used: TOKEN 5 (api.example 3, others 2)")
	wantRows(t, f, want...)
	forward(time.Hour)
	f.HearWitnesses() // nothing new
	wantRows(t, f, want...)
	notes.Notes[0].First.Count = 6
	if err := f.DeleteSession(ctx, s.ID); err != nil {
		t.Fatal(err)
	}
	want = append(want, "countEgress "+s.ID+" ok refused: denied 7 (others 7), range 7 (private 6, loopback 1); used: TOKEN 5 (api.example 3, others 2)")
	wantRows(t, f, want...)
}

func TestARunOfItsOwnHasOneRow(t *testing.T) {
	f, w, _, ctx := wired(t)
	w.see(agentsandbox.NetworkNotes{Notes: []agentsandbox.NetworkNote{refusal("range", "private", 4), refusal("denied", "x.example", 1)}})
	x, err := f.Execute(ctx, agentsandbox.ExecuteRequest{Code: "1"})
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); len(networkRows(t, f)) == 0 && time.Now().Before(deadline); {
		<-time.After(time.Millisecond) // its sandbox ends behind
	}
	rows := networkRows(t, f)
	if last := "countEgress " + x.ID + " ok refused: denied 1 (x.example 1), range 4 (private 4)"; rows[len(rows)-1] != last {
		t.Errorf("%q, want %q at the end", rows, last)
	}
}

// Names come from code that nobody has read, as many as it likes.
func TestHostileNamesAreFewAndHarmlessInTheAuditLog(t *testing.T) {
	f, w, _, ctx := wired(t)
	s, err := f.CreateSession(ctx, agentsandbox.SessionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var notes agentsandbox.NetworkNotes
	for i := range 100 {
		notes.Notes = append(notes.Notes, refusal("denied", fmt.Sprintf("%d\x00\x1b[2J\"\xff\n\u202e%s", i, strings.Repeat("x", 1000)), 1))
	}
	w.see(notes)
	f.HearWitnesses()
	if err := f.DeleteSession(ctx, s.ID); err != nil {
		t.Fatal(err)
	}
	rows := networkRows(t, f)
	if len(rows) != 17 || !strings.HasPrefix(rows[16], "countEgress") || !strings.Contains(rows[16], "denied 100 (0") || !strings.Contains(rows[16], "others ") {
		t.Errorf("%d rows, the last %q", len(rows), rows[len(rows)-1])
	}
	for _, row := range rows {
		if len(row) > 1500 {
			t.Errorf("a row of %d bytes", len(row))
		}
		for _, c := range []byte(row) {
			if c < ' ' || c > '~' {
				t.Fatalf("a byte %#x in %q", c, row)
			}
		}
	}
}
