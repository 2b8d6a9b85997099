package firewall

import (
	"fmt"
	"net/netip"

	"github.com/agentsandbox/agentsandbox"
)

// Server is what the operator allows at most.
type Server struct {
	Mode agentsandbox.NetworkMode
	// Allow is for the mode allowlist. Open counts there, too.
	Allow []agentsandbox.NetworkTarget
	// Deny wins over everything, Open included.
	Deny []agentsandbox.NetworkTarget
	// Open makes private and reserved addresses reachable, which no session can
	// do for itself.
	Open []agentsandbox.NetworkTarget

	// template narrows it for the sandboxes of one; nil: nothing does.
	template *agentsandbox.NetworkPolicy
}

// ParseServer parses the operator's settings. Errors name the entry.
func ParseServer(mode string, allow, open, deny []string) (Server, error) {
	s := Server{Mode: agentsandbox.NetworkMode(mode)}
	switch s.Mode {
	case agentsandbox.NetworkOff, agentsandbox.NetworkPublic, agentsandbox.NetworkAllowlist:
	default:
		return Server{}, agentsandbox.Invalid("egress_mode", "must be off, public or allowlist, not %q.", mode)
	}
	if len(allow) > 0 && s.Mode != agentsandbox.NetworkAllowlist {
		return Server{}, agentsandbox.Invalid("egress_allow", "goes with the egress mode allowlist only.")
	}
	var err error
	if s.Allow, err = agentsandbox.ParseNetworkTargets("egress_allow", allow); err != nil {
		return Server{}, err
	}
	if s.Open, err = agentsandbox.ParseNetworkTargets("egress_open", open); err != nil {
		return Server{}, err
	}
	if s.Deny, err = agentsandbox.ParseNetworkTargets("egress_deny", deny); err != nil {
		return Server{}, err
	}
	return s, nil
}

// Policy is what one sandbox may reach: what the server and every request of
// template and session allow together. It does not change.
type Policy struct {
	layers []layer
	open   []agentsandbox.NetworkTarget
	mode   agentsandbox.NetworkMode
	// deniesNames: some deny entry is a name, so names must be looked at even
	// where any public address is allowed.
	deniesNames bool
}

// layer is one list to pass: the server's, the template's, the session's.
type layer struct {
	owner       string
	mode        agentsandbox.NetworkMode
	allow, deny []agentsandbox.NetworkTarget
}

// Narrow returns the policy of a sandbox: the server's, narrowed by its template,
// and by each request in turn (nil for none). A request for a wider mode than is
// left is an error, so that nobody believes to have what they have not.
func Narrow(server Server, requests ...*agentsandbox.NetworkPolicy) (*Policy, error) {
	p := &Policy{mode: server.Mode, open: server.Open}
	p.layers = append(p.layers, layer{
		owner: "server", mode: server.Mode, deny: server.Deny,
		allow: append(append([]agentsandbox.NetworkTarget(nil), server.Allow...), server.Open...),
	})
	if err := p.narrow("template", server.template); err != nil {
		return nil, err
	}
	for _, r := range requests {
		if err := p.narrow("session", r); err != nil {
			return nil, err
		}
	}
	for _, l := range p.layers {
		for _, t := range l.deny {
			p.deniesNames = p.deniesNames || t.Name != ""
		}
	}
	return p, nil
}

// narrow adds the layer of one request; nil: of none.
func (p *Policy) narrow(owner string, r *agentsandbox.NetworkPolicy) error {
	if r == nil {
		return nil
	}
	if err := r.Validate(); err != nil {
		return err
	}
	mode := r.Mode
	if mode == "" {
		mode = p.mode
		if mode == agentsandbox.NetworkAllowlist {
			// Without a list of its own, the list above is all there is.
			mode = agentsandbox.NetworkPublic
		}
	} else if width[mode] > width[p.mode] {
		return agentsandbox.Invalid("network.mode", "%s is more than is allowed here: the most is %s.", mode, p.mode)
	} else {
		p.mode = mode
	}
	l := layer{owner: owner, mode: mode}
	// Validate has parsed both already.
	l.allow, _ = agentsandbox.ParseNetworkTargets("network.allow", r.Allow)
	l.deny, _ = agentsandbox.ParseNetworkTargets("network.deny", r.Deny)
	p.layers = append(p.layers, l)
	return nil
}

var width = map[agentsandbox.NetworkMode]int{
	agentsandbox.NetworkOff: 0, agentsandbox.NetworkAllowlist: 1, agentsandbox.NetworkPublic: 2,
}

// Mode returns the narrowest mode asked for. Off means that the sandbox should
// have no device at all.
func (p *Policy) Mode() agentsandbox.NetworkMode { return p.mode }

// Reason is the closed set of why something was decided, for counters.
type Reason string

// The reasons.
const (
	ReasonAllowed    Reason = "allowed"
	ReasonOff        Reason = "off"         // no network at all
	ReasonDenied     Reason = "denied"      // a deny entry
	ReasonNotAllowed Reason = "not_allowed" // in no allow-list
	ReasonRange      Reason = "range"       // private, reserved or the host's own
	ReasonResolver   Reason = "resolver"    // another resolver than ours
	ReasonName       Reason = "name"        // SNI or Host is not that of the address
	ReasonProtocol   Reason = "protocol"    // cannot be understood, so not judged
	ReasonLimit      Reason = "limit"       // a cap of the sandbox
	ReasonQuery      Reason = "query"       // a malformed or unsupported DNS query
	ReasonUpstream   Reason = "upstream"    // the other side did not answer
	ReasonPolicy     Reason = "policy"      // the policy was replaced meanwhile
)

// Verdict is a decision and what decided it.
type Verdict struct {
	Allowed bool
	Reason  Reason
	// Rule is the entry or range, in words.
	Rule string
	// class is what sort of address it was, of those that are refused for it.
	class string
}

func allowed(format string, args ...any) Verdict {
	return Verdict{Allowed: true, Reason: ReasonAllowed, Rule: fmt.Sprintf(format, args...)}
}

func refused(r Reason, format string, args ...any) Verdict {
	return Verdict{Reason: r, Rule: fmt.Sprintf(format, args...)}
}

// name says whether a name may be asked for at all: on some port.
func (p *Policy) name(name string) Verdict {
	for _, l := range p.layers {
		for _, t := range l.deny {
			if t.MatchName(name) && !t.HasPort() {
				return refused(ReasonDenied, "%s deny %s", l.owner, t)
			}
		}
	}
	return p.pass(func(t agentsandbox.NetworkTarget) bool { return t.MatchName(name) })
}

// answer says whether an address may be in the answer for a name.
func (p *Policy) answer(name string, addr netip.Addr, k kind) Verdict {
	for _, l := range p.layers {
		for _, t := range l.deny {
			if !t.HasPort() && denies(t, addr) {
				return refused(ReasonDenied, "%s deny %s", l.owner, t)
			}
		}
	}
	return p.reach(name, addr, k, func(agentsandbox.NetworkTarget) bool { return true })
}

// connect says whether a connection to an address may be made under a name that
// is known to belong to it; "" for none.
func (p *Policy) connect(name string, dst netip.AddrPort, k kind) Verdict {
	port, addr := dst.Port(), dst.Addr()
	if v := p.deny(name, dst); !v.Allowed {
		return v
	}
	atPort := func(t agentsandbox.NetworkTarget) bool { return t.Port(port) }
	if v := p.reach(name, addr, k, atPort); !v.Allowed {
		return v
	}
	if (port == 53 || port == 853) && !p.opensPort(name, dst) {
		return refused(ReasonResolver, "port %d: names are resolved by the sandbox's own resolver; egress-open with the port opens another", port)
	}
	return p.pass(func(t agentsandbox.NetworkTarget) bool {
		return t.Port(port) && (t.MatchName(name) || t.MatchAddress(addr))
	})
}

// deny says whether a deny entry covers a name or an address at a port.
func (p *Policy) deny(name string, dst netip.AddrPort) Verdict {
	for _, l := range p.layers {
		for _, t := range l.deny {
			if t.Port(dst.Port()) && (t.MatchName(name) || denies(t, dst.Addr())) {
				return refused(ReasonDenied, "%s deny %s", l.owner, t)
			}
		}
	}
	return allowed("not denied")
}

// denies looks through IPv6 at the IPv4 address inside.
func denies(t agentsandbox.NetworkTarget, addr netip.Addr) bool {
	if t.MatchAddress(addr) {
		return true
	}
	in, ok := inner(addr)
	return ok && t.MatchAddress(in)
}

// reach says whether an address is public, or opened by the operator.
func (p *Policy) reach(name string, addr netip.Addr, k kind, port func(agentsandbox.NetworkTarget) bool) Verdict {
	if k.class == classPublic {
		return allowed("public")
	}
	for _, t := range p.open {
		if !port(t) {
			continue
		}
		single := k.class == classOwn || k.class == classMetadata
		if t.MatchAddress(addr) && (!single || t.Prefix.IsSingleIP()) {
			return allowed("opened by %s", t)
		}
		if t.MatchName(name) && (k.class == classPrivate || k.class == classOwn && !t.Below) {
			return allowed("opened by %s", t)
		}
	}
	v := refused(ReasonRange, "%s address", k.name)
	v.class = k.name
	return v
}

func (p *Policy) opensPort(name string, dst netip.AddrPort) bool {
	for _, t := range p.open {
		if t.HasPort() && t.Port(dst.Port()) && (t.MatchAddress(dst.Addr()) || t.MatchName(name)) {
			return true
		}
	}
	return false
}

// pass asks each layer in turn.
func (p *Policy) pass(match func(agentsandbox.NetworkTarget) bool) Verdict {
	rule := "public"
	for _, l := range p.layers {
		switch l.mode {
		case agentsandbox.NetworkPublic:
			continue
		case agentsandbox.NetworkAllowlist:
		default:
			return refused(ReasonOff, "network off")
		}
		found := false
		for _, t := range l.allow {
			if match(t) {
				found, rule = true, fmt.Sprintf("%s allow %s", l.owner, t)
				break
			}
		}
		if !found {
			return refused(ReasonNotAllowed, "in no allow-list of the %s", l.owner)
		}
	}
	return allowed("%s", rule)
}
