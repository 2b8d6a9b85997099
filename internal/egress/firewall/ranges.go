package firewall

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// class says how hard an address is to open.
type class int

const (
	classPublic class = iota
	// classPrivate opens by name, wildcards included, by address or by range.
	classPrivate
	// classOwn, the host's own addresses, opens by an exact name or as a single
	// address: a wildcard or a range that happens to cover the host was not meant
	// to open the daemon's own API.
	classOwn
	// classHard opens by address or range alone: no name has business there.
	classHard
	// classMetadata opens as a single address alone.
	classMetadata
)

// kind is what an address is, in words for logs.
type kind struct {
	class class
	name  string // "" for a public address
}

// The special-purpose registries of IANA (IPv4: RFC 6890 and its updates, IPv6
// likewise), without the blocks that are globally reachable as a whole, with
// multicast, and with the addresses where clouds keep credentials named first, so that logs
// say what was asked for. The first match counts.
var special = []struct {
	prefix netip.Prefix
	kind   kind
}{
	{netip.MustParsePrefix("169.254.169.254/32"), kind{classMetadata, "cloud metadata"}},
	{netip.MustParsePrefix("169.254.170.2/32"), kind{classMetadata, "cloud metadata"}},
	{netip.MustParsePrefix("169.254.170.23/32"), kind{classMetadata, "cloud metadata"}},
	{netip.MustParsePrefix("168.63.129.16/32"), kind{classMetadata, "cloud metadata"}}, // Azure's, in a public range
	{netip.MustParsePrefix("100.100.100.200/32"), kind{classMetadata, "cloud metadata"}},
	{netip.MustParsePrefix("192.0.0.192/32"), kind{classMetadata, "cloud metadata"}},
	{netip.MustParsePrefix("fd00:ec2::254/128"), kind{classMetadata, "cloud metadata"}},
	{netip.MustParsePrefix("fd00:ec2::23/128"), kind{classMetadata, "cloud metadata"}},
	{netip.MustParsePrefix("fd20:ce::254/128"), kind{classMetadata, "cloud metadata"}},
	{netip.MustParsePrefix("fd00:c1::a9fe:a9fe/128"), kind{classMetadata, "cloud metadata"}},

	{netip.MustParsePrefix("0.0.0.0/8"), kind{classHard, "this host"}},
	{netip.MustParsePrefix("10.0.0.0/8"), kind{classPrivate, "private"}},
	{netip.MustParsePrefix("100.64.0.0/10"), kind{classPrivate, "carrier-grade NAT"}},
	{netip.MustParsePrefix("127.0.0.0/8"), kind{classHard, "loopback"}},
	{netip.MustParsePrefix("169.254.0.0/16"), kind{classHard, "link-local"}},
	{netip.MustParsePrefix("172.16.0.0/12"), kind{classPrivate, "private"}},
	{netip.MustParsePrefix("192.0.0.0/24"), kind{classPrivate, "protocol assignments"}},
	{netip.MustParsePrefix("192.0.2.0/24"), kind{classPrivate, "documentation"}},
	{netip.MustParsePrefix("192.88.99.0/24"), kind{classPrivate, "6to4 relay"}},
	{netip.MustParsePrefix("192.168.0.0/16"), kind{classPrivate, "private"}},
	{netip.MustParsePrefix("198.18.0.0/15"), kind{classPrivate, "benchmarking"}},
	{netip.MustParsePrefix("198.51.100.0/24"), kind{classPrivate, "documentation"}},
	{netip.MustParsePrefix("203.0.113.0/24"), kind{classPrivate, "documentation"}},
	{netip.MustParsePrefix("224.0.0.0/4"), kind{classHard, "multicast"}},
	{netip.MustParsePrefix("255.255.255.255/32"), kind{classHard, "broadcast"}},
	{netip.MustParsePrefix("240.0.0.0/4"), kind{classPrivate, "reserved"}},

	{netip.MustParsePrefix("::/128"), kind{classHard, "this host"}},
	{netip.MustParsePrefix("::1/128"), kind{classHard, "loopback"}},
	{compatible, kind{classHard, "IPv4-compatible"}},
	{translated, kind{classHard, "IPv4-translated"}},
	{localNAT64, kind{classHard, "local NAT64"}},
	{netip.MustParsePrefix("100::/64"), kind{classPrivate, "discard"}},
	{netip.MustParsePrefix("100:0:0:1::/64"), kind{classPrivate, "dummy"}},
	{teredo, kind{classHard, "Teredo"}},
	{netip.MustParsePrefix("2001::/23"), kind{classPrivate, "protocol assignments"}},
	{netip.MustParsePrefix("2001:db8::/32"), kind{classPrivate, "documentation"}},
	{sixToFour, kind{classHard, "6to4"}},
	{netip.MustParsePrefix("3fff::/20"), kind{classPrivate, "documentation"}},
	{netip.MustParsePrefix("5f00::/16"), kind{classPrivate, "segment routing"}},
	{netip.MustParsePrefix("fc00::/7"), kind{classPrivate, "unique-local"}},
	{netip.MustParsePrefix("fe80::/10"), kind{classHard, "link-local"}},
	{netip.MustParsePrefix("fec0::/10"), kind{classPrivate, "site-local"}},
	{netip.MustParsePrefix("ff00::/8"), kind{classHard, "multicast"}},
}

var (
	nat64      = netip.MustParsePrefix("64:ff9b::/96")
	localNAT64 = netip.MustParsePrefix("64:ff9b:1::/48")
	compatible = netip.MustParsePrefix("::/96")
	translated = netip.MustParsePrefix("::ffff:0:0:0/96")
	sixToFour  = netip.MustParsePrefix("2002::/16")
	teredo     = netip.MustParsePrefix("2001::/32")
	// IPv6 that is in use at all. What is outside, and not NAT64, is reserved.
	globalUnicast = netip.MustParsePrefix("2000::/3")
)

// kindOf says what an address is, by its range alone. IPv4 inside IPv6 that some
// router on the way may unwrap is judged by what is inside; IPv4-mapped
// addresses must have been unmapped.
func kindOf(a netip.Addr) kind {
	for _, s := range special {
		if s.prefix.Contains(a) {
			return s.kind
		}
	}
	if a.Is4() {
		return kind{}
	}
	if in, ok := inner(a); ok {
		if k := kindOf(in); k.class != classPublic {
			// A name that was opened for the inside says nothing of translators.
			return kind{classHard, k.name + " inside IPv6"}
		}
	}
	if !globalUnicast.Contains(a) && !nat64.Contains(a) {
		return kind{classPrivate, "reserved"}
	}
	return kind{}
}

// inner returns the IPv4 address that an IPv6 address carries: NAT64 (RFC 6052),
// 6to4 (RFC 3056), Teredo's client (RFC 4380), ISATAP (RFC 5214),
// IPv4-compatible and IPv4-translated.
func inner(a netip.Addr) (netip.Addr, bool) {
	b := a.As16()
	at := func(i int) (netip.Addr, bool) { return netip.AddrFrom4([4]byte(b[i : i+4])), true }
	switch {
	case a.Is4():
		return a, false
	case a.Is4In6(), nat64.Contains(a), localNAT64.Contains(a), compatible.Contains(a), translated.Contains(a):
		return at(12)
	case sixToFour.Contains(a):
		return at(2)
	case teredo.Contains(a):
		for i := 12; i < 16; i++ {
			b[i] ^= 0xff
		}
		return at(12)
	case b[8]&^3 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe:
		return at(12)
	}
	return a, false
}

// ownAddresses knows the host's own addresses, and reads them again when they
// are older than its age: interfaces come and go under a running daemon.
type ownAddresses struct {
	age  time.Duration
	read func() ([]netip.Addr, error)

	mu   sync.Mutex
	at   time.Time
	last map[netip.Addr]bool
}

func newOwnAddresses() *ownAddresses {
	return &ownAddresses{age: 2 * time.Second, read: interfaceAddresses}
}

// has reports whether an address is the host's. It fails when the addresses
// cannot be read: then nothing may be dialled.
func (o *ownAddresses) has(a netip.Addr) (bool, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.last == nil || time.Since(o.at) > o.age {
		addrs, err := o.read()
		if err != nil {
			return false, err
		}
		o.last = make(map[netip.Addr]bool, len(addrs))
		for _, own := range addrs {
			o.last[own] = true
		}
		o.at = time.Now()
	}
	return o.last[a], nil
}

func interfaceAddresses() ([]netip.Addr, error) {
	found, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, f := range found {
		if n, ok := f.(*net.IPNet); ok {
			if a, ok := netip.AddrFromSlice(n.IP); ok {
				addrs = append(addrs, a.Unmap())
			}
		}
	}
	return addrs, nil
}
