package firewall

import (
	"fmt"
	"net/netip"

	"github.com/agentsandbox/agentsandbox"
)

// Check refuses a request that asks for more than the server allows, naming the
// entry, so that nobody believes to have what they have not. An entry of which
// only some addresses may be reached passes: each is judged when it is dialled.
// Narrow does not check this: what a server allowed once may be less by now.
func (s Server) Check(r *agentsandbox.NetworkPolicy) error {
	if _, err := Narrow(s, r); err != nil {
		return err
	}
	if r == nil {
		return nil
	}
	allow, err := agentsandbox.ParseNetworkTargets("network.allow", r.Allow)
	if err != nil {
		return err
	}
	var listed, denied []agentsandbox.NetworkTarget // of the template
	if s.template != nil {
		// Narrow has parsed both already.
		listed, _ = agentsandbox.ParseNetworkTargets("", s.template.Allow)
		denied, _ = agentsandbox.ParseNetworkTargets("", s.template.Deny)
	}
	given := append(append([]agentsandbox.NetworkTarget(nil), s.Allow...), s.Open...)
	for i, t := range allow {
		field := fmt.Sprintf("network.allow[%d]", i)
		if deny, found := coveredBy(t, s.Deny); found {
			return agentsandbox.Invalid(field, "%s is denied on this server, by %s.", t, deny)
		}
		if deny, found := coveredBy(t, denied); found {
			return agentsandbox.Invalid(field, "%s is denied to this template, by %s.", t, deny)
		}
		if s.template != nil && s.template.Mode == agentsandbox.NetworkAllowlist {
			if _, found := coveredBy(t, listed); !found {
				return agentsandbox.Invalid(field, "%s is more than this server allows to this template; a session can only narrow that.", t)
			}
		}
		if s.Mode == agentsandbox.NetworkAllowlist {
			if _, found := coveredBy(t, given); !found {
				return agentsandbox.Invalid(field, "%s is more than this server allows; a session can only narrow that.", t)
			}
		}
		if t.Name != "" {
			continue
		}
		if k, all := kindOfAll(t.Prefix); all && k.class != classPublic && !mayBeOpen(t, k, s.Open) {
			return agentsandbox.Invalid(field, "%s is a %s address, which only the operator can open, with egress_open.", t, k.name)
		}
	}
	return nil
}

// coveredBy finds an entry that covers all of another.
func coveredBy(t agentsandbox.NetworkTarget, by []agentsandbox.NetworkTarget) (agentsandbox.NetworkTarget, bool) {
	for _, b := range by {
		if covers(b, t) {
			return b, true
		}
	}
	return agentsandbox.NetworkTarget{}, false
}

func covers(b, t agentsandbox.NetworkTarget) bool {
	if b.HasPort() && (!t.HasPort() || t.FirstPort < b.FirstPort || t.LastPort > b.LastPort) {
		return false
	}
	if t.Name != "" {
		return b.MatchName(t.Name) || t.Below && b.Below && b.Name == t.Name
	}
	return b.Name == "" && b.Prefix.Bits() <= t.Prefix.Bits() && b.Prefix.Contains(t.Prefix.Addr())
}

// mayBeOpen tells whether a range has anything of what the operator opened. A
// name may stand for any private address.
func mayBeOpen(t agentsandbox.NetworkTarget, k kind, open []agentsandbox.NetworkTarget) bool {
	for _, o := range open {
		if o.Name != "" && k.class <= classOwn || o.Name == "" && o.Prefix.Overlaps(t.Prefix) {
			return true
		}
	}
	return false
}

// kindOfAll is what every address of a range is, if they are all of one kind.
func kindOfAll(p netip.Prefix) (kind, bool) {
	if p.IsSingleIP() {
		return kindOf(p.Addr()), true
	}
	for _, s := range special {
		if s.prefix.Bits() <= p.Bits() && s.prefix.Contains(p.Addr()) {
			return s.kind, true
		}
	}
	return kind{}, false
}
