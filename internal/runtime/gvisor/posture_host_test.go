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
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

var update = flag.Bool("update", false, "write the posture that is seen into the list of what is expected")

// postureList is the list that is part of the program.
const postureList = "../../posture/expected.txt"

// TestPosture is what "doctor --probe" does: every line that is seen of a real
// sandbox, from inside and on the host, is the one that is in the list.
func TestPosture(t *testing.T) {
	besides(t)
	h := newHost(t)
	holds(t, h.start(testLimits), "off")
}

// besides lets the looks at a sandbox's posture run at once, unless they write the list.
func besides(t *testing.T) {
	if !*update {
		t.Parallel()
	}
}

// holds holds a sandbox against the list, or the list against the sandbox.
func holds(t *testing.T, sb runtime.Sandbox, network string) {
	t.Helper()
	host, err := HostFacts(sb)
	must(t, err)
	var seen posture.Seen
	for _, f := range host {
		seen.Host = append(seen.Host, posture.Fact(f))
	}
	seen.Inside, err = posture.Look(t.Context(), sb)
	must(t, err)
	list, err := os.ReadFile(postureList)
	must(t, err)
	rows, err := posture.Compare(string(list), posture.Grant{
		MemoryBytes: testLimits.MemoryBytes, WallBytes: MemoryWall(testLimits.MemoryBytes), MilliCPUs: testLimits.MilliCPUs, Tasks: testLimits.Tasks,
		CPUs: CPUs(testLimits), DiskBytes: DefaultDiskBytes, Network: network,
	}, seen)
	must(t, err)
	if len(rows) < 100 {
		t.Errorf("%d lines are no look at a sandbox", len(rows))
	}
	if *update {
		must(t, os.WriteFile(postureList, []byte(updated(string(list), network, rows)), 0o644))
		return
	}
	for _, r := range rows {
		if !r.OK {
			t.Errorf("%s %s = %s\nexpected: %s", r.Side, r.Name, r.Value, r.Expected)
		}
	}
}

// TestPostureWithANetwork is the same of a sandbox with the network that servers
// give by default.
func TestPostureWithANetwork(t *testing.T) {
	besides(t)
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
	must(t, b.Apply(sb.ID(), "", nil, nil))
	holds(t, sb, "public")
}

// updated is a list in which the lines that differ in a mode of the network have
// what was seen, those that were not seen are gone, and those that were not there
// come at the end of the mode's section.
func updated(list, network string, rows []posture.Row) string {
	wrong := map[string]posture.Row{}
	for _, r := range rows {
		if !r.OK {
			wrong[r.Side+" "+r.Name] = r
		}
	}
	var lines []string
	rest := func(section string) {
		for _, r := range rows {
			if _, left := wrong[r.Side+" "+r.Name]; left && section == network {
				lines = append(lines, r.Side+" "+r.Name+" = "+r.Value)
			}
		}
	}
	section := ""
	for _, text := range strings.Split(strings.TrimSuffix(list, "\n"), "\n") {
		if mode, ok := strings.CutPrefix(text, "[network "); ok {
			rest(section)
			section = strings.TrimSuffix(mode, "]")
		}
		name, _, ok := strings.Cut(text, " = ")
		r, differs := wrong[name]
		differs = differs && (section == "" || section == network)
		if differs {
			delete(wrong, name)
		}
		switch {
		case !ok || !differs:
			lines = append(lines, text)
		case r.Value != posture.Missing:
			lines = append(lines, name+" = "+r.Value)
		}
	}
	rest(section)
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
