package audit_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/audit"
)

// network has notes of the sandbox sbx_1, and no device for any other.
type network struct {
	mu    sync.Mutex
	notes audit.EgressNotes
}

func (n *network) Notes(sandbox string) func() audit.EgressNotes {
	if sandbox != "sbx_1" {
		return nil
	}
	return func() audit.EgressNotes {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.notes
	}
}

func (n *network) see(notes audit.EgressNotes) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.notes = notes
}

func refusal(reason, subject string, n int) audit.EgressNote {
	return audit.EgressNote{Subject: subject, First: agentsandbox.NetworkEntry{
		Kind: "tcp", Name: subject, Address: "192.0.2.1", Port: 80, Verdict: "refused", Reason: reason, Rule: "rule of " + subject, Count: n,
	}}
}

func use(secret, host string, n int) audit.EgressNote {
	return audit.EgressNote{Secret: secret, Subject: host, First: agentsandbox.NetworkEntry{
		Kind: "http", Name: host, Address: "192.0.2.2", Port: 443, Verdict: "allowed", Reason: "allowed", Count: n,
	}}
}

// said is what rows say, oldest first: action, outcome and detail.
func (f *fixture) said(t *testing.T) (rows []string) {
	t.Helper()
	for _, e := range f.rows(t) {
		if e.Tenant != "a" || e.KeyID != "" || e.ObjectID != "ses_1" {
			t.Errorf("%+v", e)
		}
		rows = append(rows, fmt.Sprintf("%s %s %s", e.Action, e.Outcome, e.Detail))
	}
	return rows
}

func (f *fixture) wantSaid(t *testing.T, want ...string) {
	t.Helper()
	if got := f.said(t); !slices.Equal(got, want) {
		t.Errorf("the log has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func newEgress(t *testing.T) (*fixture, *network, *audit.Egress) {
	t.Helper()
	f, n := newFixture(t), &network{}
	return f, n, audit.NewEgress(f.Log, n)
}

func TestTheLogTellsOfTheNetworkOfASession(t *testing.T) {
	f, n, e := newEgress(t)
	e.WatchSession("sbx_1", "a", "ses_1")
	e.FlushNew()
	f.wantSaid(t)
	n.see(audit.EgressNotes{Notes: []audit.EgressNote{refusal("range", "private", 1), use("TOKEN", "api.example", 1)}})
	e.FlushNew()
	e.FlushNew()
	want := []string{
		`refuseEgress range tcp "private" at 192.0.2.1 port 80: rule of private`,
		`useSecret ok TOKEN to "api.example" at 192.0.2.2 port 443`,
	}
	f.wantSaid(t, want...)

	// A kind that is known already is counted, within the hour and at the end.
	notes := audit.EgressNotes{
		Notes:     []audit.EgressNote{refusal("range", "private", 5), use("TOKEN", "api.example", 3), refusal("range", "loopback", 1)},
		Others:    map[string]int64{"denied": 7},
		OtherUses: map[string]int64{"TOKEN": 2},
	}
	n.see(notes)
	e.FlushNew()
	want = append(want, `refuseEgress range tcp "loopback" at 192.0.2.1 port 80: rule of loopback`)
	f.wantSaid(t, want...)
	f.ahead.Add(int64(time.Hour))
	e.FlushNew()
	want = append(want, "countEgress ok refused: denied 7 (others 7), range 6 (private 5, loopback 1); used: TOKEN 5 (api.example 3, others 2)")
	f.wantSaid(t, want...)
	f.ahead.Add(int64(time.Hour))
	e.FlushNew() // nothing new
	f.wantSaid(t, want...)
	notes.Notes[0].First.Count = 6
	e.Flush("sbx_1")
	e.Flush("sbx_1") // again
	want = append(want, "countEgress ok refused: denied 7 (others 7), range 7 (private 6, loopback 1); used: TOKEN 5 (api.example 3, others 2)")
	f.wantSaid(t, want...)
}

func TestARunOfItsOwnHasOneRow(t *testing.T) {
	f, n, e := newEgress(t)
	e.WatchRun("sbx_1", "a", "ses_1")
	n.see(audit.EgressNotes{Notes: []audit.EgressNote{refusal("range", "private", 4), refusal("denied", "x.example", 1)}})
	e.FlushNew()
	f.wantSaid(t)
	e.Flush("sbx_1")
	f.wantSaid(t, "countEgress ok refused: denied 1 (x.example 1), range 4 (private 4)")
}

func TestASandboxWithoutANetworkHasNoRows(t *testing.T) {
	f, _, e := newEgress(t)
	e.WatchSession("sbx_2", "a", "ses_1")
	e.FlushNew()
	e.Flush("sbx_2")
	none := audit.NewEgress(f.Log, nil)
	none.WatchSession("sbx_1", "a", "ses_1")
	none.Flush("sbx_1")
	f.wantSaid(t)
}

// TestWhatIsNewIsWrittenByItself: while the sandbox lives, and not after Stop.
func TestWhatIsNewIsWrittenByItself(t *testing.T) {
	f, n, e := newEgress(t)
	e.Start()
	e.WatchSession("sbx_1", "a", "ses_1")
	n.see(audit.EgressNotes{Notes: []audit.EgressNote{refusal("range", "private", 1)}})
	for deadline := time.Now().Add(5 * time.Minute); len(f.said(t)) == 0; {
		if time.Now().After(deadline) {
			t.Fatal("a first refusal is not in the log")
		}
		<-time.After(10 * time.Millisecond)
	}
	e.Stop()
	e.Stop() // again
	n.see(audit.EgressNotes{Notes: []audit.EgressNote{refusal("range", "private", 1), refusal("range", "loopback", 1)}})
	e.Flush("sbx_1")
	if rows := f.said(t); len(rows) != 3 || !strings.HasPrefix(rows[2], "countEgress") {
		t.Errorf("the last words are missing: %q", rows)
	}
}

// Names come from code that nobody has read, as many as it likes.
func TestHostileNamesAreFewAndHarmless(t *testing.T) {
	f, n, e := newEgress(t)
	e.WatchSession("sbx_1", "a", "ses_1")
	var notes audit.EgressNotes
	for i := range 100 {
		notes.Notes = append(notes.Notes, refusal("denied", fmt.Sprintf("%d\x00\x1b[2J\"\xff\n\u202e%s", i, strings.Repeat("x", 1000)), 1))
	}
	n.see(notes)
	e.FlushNew()
	e.Flush("sbx_1")
	rows := f.said(t)
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
