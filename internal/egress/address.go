package egress

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// The addresses of a link. They are the same in every sandbox, because each link
// ends in a stack of its own, and they are in ranges that nothing routes, so that
// they hide no address that an operator may want to open: 192.0.0.0/29 is for the
// stretch between a device and its gateway (RFC 7335), and the IPv6 prefix is a
// unique local one (RFC 4193) with random bits.
var (
	sandbox4 = netip.MustParseAddr("192.0.0.2")
	gateway4 = netip.MustParseAddr("192.0.0.1")
	sandbox6 = netip.MustParseAddr("fd5b:97d1:ac3e::2")
	gateway6 = netip.MustParseAddr("fd5b:97d1:ac3e::1")
)

const (
	prefix4 = 29
	prefix6 = 64
)

// linkMTU is the largest packet on a link, in bytes. Nothing but memory is
// between its ends, so a packet is as large as IP allows, rounded down.
const linkMTU = 65000

// linkInterface is what the sandbox's end of every link looks like.
func linkInterface() runtime.Interface {
	return runtime.Interface{
		MTU:       linkMTU,
		Addresses: []netip.Prefix{netip.PrefixFrom(sandbox4, prefix4), netip.PrefixFrom(sandbox6, prefix6)},
		Gateways:  []netip.Addr{gateway4, gateway6},
		Resolver:  gateway4,
	}
}

func stackAddress(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

// addrPort makes an address out of what the stack says. An IPv4 address inside
// IPv6 stays one inside IPv6.
func addrPort(a tcpip.Address, port uint16) netip.AddrPort {
	ip, _ := netip.AddrFromSlice(a.AsSlice())
	return netip.AddrPortFrom(ip, port)
}
