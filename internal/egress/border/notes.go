package border

import (
	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/audit"
	"github.com/agentsandbox/agentsandbox/internal/egress/firewall"
)

// Notes returns what tells of a sandbox's network for the audit log: from its
// beginning, and also when the sandbox is gone. Of one without a device it is nil.
func (b *Border) Notes(id string) func() audit.EgressNotes {
	g := b.gate(id)
	if g == nil {
		return nil
	}
	return func() audit.EgressNotes {
		seen := g.Notes()
		all := audit.EgressNotes{Others: map[string]int64{}, OtherUses: seen.OtherUses}
		for reason, n := range seen.Others {
			all.Others[string(reason)] = n
		}
		for _, n := range seen.Notes {
			all.Notes = append(all.Notes, audit.EgressNote{First: entry(n.First), Subject: n.Subject, Secret: n.Secret})
		}
		return all
	}
}

// Refusals begins to add up what a sandbox is refused; the function returned ends
// that and tells it, and how many refusals there were of kinds beyond those. Of a
// sandbox without a device it is nil.
func (b *Border) Refusals(id string) (end func() ([]agentsandbox.NetworkRefusal, int64)) {
	g := b.gate(id)
	if g == nil {
		return nil
	}
	read := g.Refusals()
	return func() ([]agentsandbox.NetworkRefusal, int64) {
		kinds, others := read()
		shown := make([]agentsandbox.NetworkRefusal, len(kinds))
		for i, k := range kinds {
			shown[i] = agentsandbox.NetworkRefusal{Host: k.Host, Port: k.Port, Reason: string(k.Reason), Rule: k.Rule, Count: k.Count}
		}
		return shown, others
	}
}

// entry is a line of a log as it is shown.
func entry(e firewall.Entry) agentsandbox.NetworkEntry {
	shown := agentsandbox.NetworkEntry{
		At: e.At, Count: e.Count, Kind: e.Kind, Name: e.Name, Port: e.Port,
		Verdict: e.Verdict, Reason: string(e.Reason), Rule: e.Rule,
	}
	if e.Address.IsValid() {
		shown.Address = e.Address.String()
	}
	return shown
}
