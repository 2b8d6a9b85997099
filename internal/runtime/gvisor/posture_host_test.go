package gvisor

import (
	"context"
	"flag"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/agentsandbox/agentsandbox/internal/egress/border"
	"github.com/agentsandbox/agentsandbox/internal/egress/firewall"
	"github.com/agentsandbox/agentsandbox/internal/posture"
)

var update = flag.Bool("update", false, "write the posture that is seen into the list of what is expected")

// postureList is the list that is part of the program.
const postureList = "../../posture/expected.txt"

// TestPosture is what "doctor --probe" does: every line that is seen of a real
// sandbox, from inside and on the host, is the one that is in the list.
func TestPosture(t *testing.T) {
	h := newHost(t)
	sb := h.start(testLimits)
	host, err := HostFacts(sb)
	must(t, err)
	var seen posture.Seen
	for _, f := range host {
		seen.Host = append(seen.Host, posture.Fact(f))
	}
	seen.Inside, err = posture.Look(t.Context(), sb)
	must(t, err)
	rows, err := posture.Compare(posture.List(), posture.Grant{
		MemoryBytes: testLimits.MemoryBytes, WallBytes: MemoryWall(testLimits.MemoryBytes), MilliCPUs: testLimits.MilliCPUs, Tasks: testLimits.Tasks,
		CPUs: CPUs(testLimits), DiskBytes: DefaultDiskBytes, Network: "off",
	}, seen)
	must(t, err)
	if len(rows) < 100 {
		t.Errorf("%d lines are no look at a sandbox", len(rows))
	}
	if *update {
		must(t, os.WriteFile(postureList, []byte(updated(posture.List(), rows)), 0o644))
		return
	}
	for _, r := range rows {
		if !r.OK {
			t.Errorf("%s %s = %s\nexpected: %s", r.Side, r.Name, r.Value, r.Expected)
		}
	}
}

// TestPostureWithANetwork holds the lines of the network in the mode that most
// servers have against the list.
func TestPostureWithANetwork(t *testing.T) {
	server, err := firewall.ParseServer("public", nil, nil, nil)
	must(t, err)
	b, err := border.New(border.Options{Server: server, Logger: slog.New(slog.DiscardHandler)})
	must(t, err)
	t.Cleanup(func() { must(t, b.Close()) })
	h := newHostWith(t, func(o *Options) { o.Network = b.Network() })
	spec := h.spec(testLimits)
	spec.Network = true
	sb, err := h.Start(t.Context(), spec)
	must(t, err)
	t.Cleanup(func() { must(t, sb.Destroy(context.Background())) })
	must(t, b.Apply(sb.ID(), nil, nil))
	var seen posture.Seen
	seen.Inside, err = posture.Look(t.Context(), sb)
	must(t, err)
	rows, err := posture.Compare(posture.List(), posture.Grant{
		MemoryBytes: testLimits.MemoryBytes, MilliCPUs: testLimits.MilliCPUs, Tasks: testLimits.Tasks,
		CPUs: CPUs(testLimits), DiskBytes: DefaultDiskBytes, Network: "public",
	}, seen)
	must(t, err)
	looked := 0
	for _, r := range rows {
		if r.Side != "inside" || !strings.HasPrefix(r.Name, "network ") {
			continue // the other test's
		}
		if looked++; !r.OK {
			t.Errorf("%s %s = %s\nexpected: %s", r.Side, r.Name, r.Value, r.Expected)
		}
	}
	if looked < 10 {
		t.Errorf("%d lines are no look at a network", looked)
	}
}

// updated is a list in which the lines that differ have what was seen, those
// that were not seen are gone, and those that were not there come last.
func updated(list string, rows []posture.Row) string {
	wrong := map[string]posture.Row{}
	for _, r := range rows {
		if !r.OK {
			wrong[r.Side+" "+r.Name] = r
		}
	}
	var lines []string
	for _, text := range strings.Split(strings.TrimSuffix(list, "\n"), "\n") {
		name, _, ok := strings.Cut(text, " = ")
		r, differs := wrong[name]
		delete(wrong, name)
		switch {
		case !ok || !differs:
			lines = append(lines, text)
		case r.Value != posture.Missing:
			lines = append(lines, name+" = "+r.Value)
		}
	}
	for _, r := range rows {
		if _, left := wrong[r.Side+" "+r.Name]; left {
			lines = append(lines, r.Side+" "+r.Name+" = "+r.Value)
		}
	}
	return strings.Join(lines, "\n") + "\n"
}

// The host's side sees a limit that is not what was asked for.
func TestHostFactsAreRead(t *testing.T) {
	h := newHost(t)
	sb := h.start(testLimits).(*sandbox)
	other := testLimits
	other.MemoryBytes = 600 << 20
	must(t, sb.m.group.SetLimits(other))
	facts, err := HostFacts(sb)
	must(t, err)
	for _, f := range facts {
		if f.Name == "memory limit" && f.Value != "629145600" {
			t.Errorf("the memory limit is %s", f.Value)
		}
	}
}
