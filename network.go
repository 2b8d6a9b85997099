package agentsandbox

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// NetworkMode says how much of the network a sandbox may reach at most.
type NetworkMode string

// The modes, from nothing to most.
const (
	NetworkOff       NetworkMode = "off"       // no device, no resolver
	NetworkAllowlist NetworkMode = "allowlist" // what the allow-list names
	NetworkPublic    NetworkMode = "public"    // any public address
)

// MaxNetworkTargets bounds each list of a NetworkPolicy.
const MaxNetworkTargets = 1000

// NetworkPolicy is what a template or a session asks for. It can only narrow
// what the server allows.
type NetworkPolicy struct {
	// Mode is "" for that of the server.
	Mode NetworkMode `json:"mode" enum:"off,public,allowlist" doc:"off: no network; public: any public address; allowlist: only what allow names."`
	// Allow is for the mode allowlist alone; empty means nothing.
	Allow []string `json:"allow,omitempty" doc:"Names (example.org, *.example.org), addresses and CIDRs, each with an optional :port or :first-last. For the mode allowlist."`
	// Deny wins over all that is allowed.
	Deny []string `json:"deny,omitempty" doc:"The same kinds of entries; deny wins."`
}

// Validate checks the policy. Errors name the entry.
func (p *NetworkPolicy) Validate() error {
	switch p.Mode {
	case "", NetworkOff, NetworkPublic, NetworkAllowlist:
	default:
		return Invalid("network.mode", "must be off, public or allowlist, not %q.", string(p.Mode))
	}
	if len(p.Allow) > 0 && p.Mode != NetworkAllowlist {
		return Invalid("network.allow", "goes with the mode allowlist only: set network.mode, or leave the list out.")
	}
	if _, err := ParseNetworkTargets("network.allow", p.Allow); err != nil {
		return err
	}
	_, err := ParseNetworkTargets("network.deny", p.Deny)
	return err
}

// NetworkTarget is one entry of a list: a name, the names below one, or a range
// of addresses, each with all ports or a range of them.
type NetworkTarget struct {
	// Name is in lower case and without a final dot; empty for addresses.
	Name string
	// Below means the names below Name at any depth, and not Name itself:
	// "*.example.org".
	Below bool
	// Prefix holds the addresses when Name is empty; IPv4 inside IPv6 is unmapped.
	Prefix netip.Prefix
	// FirstPort and LastPort bound the ports, both included; both 0: all ports.
	FirstPort, LastPort uint16

	text string
}

// String returns the entry as it was written.
func (t NetworkTarget) String() string { return t.text }

// Port reports whether a port is within the entry.
func (t NetworkTarget) Port(port uint16) bool {
	return t.LastPort == 0 || t.FirstPort <= port && port <= t.LastPort
}

// HasPort reports whether the entry names ports.
func (t NetworkTarget) HasPort() bool { return t.LastPort != 0 }

// MatchName reports whether the entry is of names and covers this one, given as
// NormalName returns it.
func (t NetworkTarget) MatchName(name string) bool {
	if t.Name == "" || name == "" {
		return false
	}
	if t.Below {
		return len(name) > len(t.Name)+1 && strings.HasSuffix(name, t.Name) && name[len(name)-len(t.Name)-1] == '.'
	}
	return name == t.Name
}

// MatchAddress reports whether the entry is of addresses and covers this one.
func (t NetworkTarget) MatchAddress(addr netip.Addr) bool {
	return t.Name == "" && t.Prefix.IsValid() && t.Prefix.Contains(addr.Unmap())
}

// ParseNetworkTargets parses a list; the error names field and entry.
func ParseNetworkTargets(field string, entries []string) ([]NetworkTarget, error) {
	if len(entries) > MaxNetworkTargets {
		return nil, Invalid(field, "must have at most %d entries, not %d; use wildcards or CIDRs.", MaxNetworkTargets, len(entries))
	}
	targets := make([]NetworkTarget, 0, len(entries))
	for i, entry := range entries {
		t, err := ParseNetworkTarget(entry)
		if err != nil {
			return nil, Invalid(fmt.Sprintf("%s[%d]", field, i), "%s.", err)
		}
		targets = append(targets, t)
	}
	return targets, nil
}

// ParseNetworkTarget parses one entry: example.org, *.example.org, 203.0.113.7,
// 203.0.113.0/24, 2001:db8::/32, each with an optional :443 or :8000-8099; IPv6
// with ports stands in brackets.
func ParseNetworkTarget(entry string) (NetworkTarget, error) {
	t := NetworkTarget{text: entry}
	fail := func(format string, args ...any) (NetworkTarget, error) {
		return NetworkTarget{}, fmt.Errorf("%q %s", entry, fmt.Sprintf(format, args...))
	}
	if strings.Contains(entry, "://") {
		return fail("is a URL: write the host, and a port if need be, such as example.org:443")
	}
	host, ports, bracketed := entry, "", false
	if rest, found := strings.CutPrefix(entry, "["); found {
		end := strings.IndexByte(rest, ']')
		if end < 0 {
			return fail("lacks the closing bracket")
		}
		host, ports, bracketed = rest[:end], rest[end+1:], true
		if ports != "" && !strings.HasPrefix(ports, ":") {
			return fail("has something other than :port after the bracket")
		}
	} else if strings.Count(entry, ":") == 1 {
		at := strings.IndexByte(entry, ':')
		host, ports = entry[:at], entry[at:]
	}
	if ports != "" {
		first, last, ok := parsePorts(ports[1:])
		if !ok {
			return fail("has a bad port: write :443 or :8000-8099, from 1 to 65535")
		}
		t.FirstPort, t.LastPort = first, last
	}
	prefix, isAddress, err := parsePrefix(host)
	switch {
	case err != nil:
		return fail("%s", err)
	case isAddress:
		t.Prefix = prefix
		return t, nil
	case bracketed:
		return fail("has brackets around what is no address")
	}
	name, below := strings.CutPrefix(host, "*.")
	t.Below = below
	if strings.Contains(name, "*") {
		return fail("has a * elsewhere than as the whole first label: write *.example.org")
	}
	if t.Name, err = NormalName(name); err != nil {
		return fail("%s", err)
	}
	return t, nil
}

func parsePorts(s string) (first, last uint16, ok bool) {
	from, to, isRange := strings.Cut(s, "-")
	a, err := strconv.ParseUint(from, 10, 16)
	if err != nil || a == 0 {
		return 0, 0, false
	}
	if !isRange {
		return uint16(a), uint16(a), true
	}
	b, err := strconv.ParseUint(to, 10, 16)
	if err != nil || b < a {
		return 0, 0, false
	}
	return uint16(a), uint16(b), true
}

// parsePrefix parses an address or a CIDR. What looks like neither is no error.
func parsePrefix(s string) (netip.Prefix, bool, error) {
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return p, false, fmt.Errorf("is no CIDR such as 203.0.113.0/24: %w", err)
		}
		if p.Masked() != p {
			return p, false, fmt.Errorf("has bits set below its length: write %s", p.Masked())
		}
		if p.Addr().Is4In6() {
			if p.Bits() < 96 {
				return p, false, fmt.Errorf("is wider than IPv4 inside IPv6: write the IPv4 range")
			}
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		return p, true, nil
	}
	addr, err := netip.ParseAddr(s)
	if err != nil {
		if strings.Contains(s, ":") {
			return netip.Prefix{}, false, fmt.Errorf("is no address: %w", err)
		}
		return netip.Prefix{}, false, nil
	}
	if addr.Zone() != "" {
		return netip.Prefix{}, false, fmt.Errorf("has a zone: leave %%%s out", addr.Zone())
	}
	addr = addr.Unmap()
	return netip.PrefixFrom(addr, addr.BitLen()), true, nil
}

// NormalName returns a host name in lower case and without a final dot, or an
// error that says why it is none. Names whose last label is a number are
// refused: many programs take them for addresses (127.1, 0x7f000001).
func NormalName(name string) (string, error) {
	name = strings.TrimSuffix(name, ".")
	if name == "" {
		return "", fmt.Errorf("has an empty name")
	}
	if len(name) > 253 {
		return "", fmt.Errorf("is longer than the 253 bytes of a name")
	}
	lower := []byte(name)
	label := 0
	for i, c := range lower {
		switch {
		case c == '.':
			if label == 0 || lower[i-1] == '-' {
				return "", fmt.Errorf("has an empty label, or one that ends in a hyphen")
			}
			label = 0
			continue
		case 'A' <= c && c <= 'Z':
			lower[i] = c + 'a' - 'A'
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', c == '_', c == '-' && label > 0:
		case c >= 0x80:
			return "", fmt.Errorf("is not ASCII: write the xn-- form")
		default:
			return "", fmt.Errorf("has the character %q, which no host name has", string(rune(c)))
		}
		if label++; label > 63 {
			return "", fmt.Errorf("has a label of more than 63 bytes")
		}
	}
	if label == 0 || lower[len(lower)-1] == '-' {
		return "", fmt.Errorf("has an empty label, or one that ends in a hyphen")
	}
	if endsInNumber(string(lower)) {
		return "", fmt.Errorf("ends in a number, which some programs take for an address: write the whole address")
	}
	return string(lower), nil
}

func endsInNumber(name string) bool {
	last := name[strings.LastIndexByte(name, '.')+1:]
	digits := "0123456789"
	if hex, found := strings.CutPrefix(last, "0x"); found {
		last, digits = hex, "0123456789abcdef"
	}
	return strings.Trim(last, digits) == ""
}
