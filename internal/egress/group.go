package egress

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// A connection to many, a group or all of a network, is no connection. Linux says
// so when one is asked for; gVisor sends its first packet, and takes no reset that
// comes from such an address. So the gateway says that there is nobody.

// maxTold is how much of a packet an error about it brings back: what fits into
// the least that every IPv4 host takes (RFC 1122, section 3.2.2).
const maxTold = 576 - header4 - headerICMP

// subnetBroadcast4 is the last address of the link's network.
var subnetBroadcast4 = netip.MustParseAddr("192.0.0.7")

func toMany(a netip.Addr) bool {
	return a.IsMulticast() || a == broadcast4 || a == subnetBroadcast4
}

// nobody returns the answer to a packet of TCP that the sandbox sent to many; nil
// for anything else, and for what is malformed.
func nobody(frame []byte) []byte {
	switch {
	case len(frame) >= header4+headerTCP && frame[0]>>4 == 4:
		src, dst := netip.AddrFrom4([4]byte(frame[12:16])), netip.AddrFrom4([4]byte(frame[16:20]))
		if src == sandbox4 && toMany(dst) && frame[9] == protocolTCP {
			return nobody4(frame)
		}
	case len(frame) >= header6+headerTCP && frame[0]>>4 == 6:
		src, dst := netip.AddrFrom16([16]byte(frame[8:24])), netip.AddrFrom16([16]byte(frame[24:40]))
		if src == sandbox6 && toMany(dst) && frame[6] == protocolTCP {
			return nobody6(frame)
		}
	}
	return nil
}

func nobody4(frame []byte) []byte {
	told := frame[:min(len(frame), maxTold)]
	answer := make([]byte, header4+headerICMP, header4+headerICMP+len(told))
	ip := header.IPv4(answer)
	ip.Encode(&header.IPv4Fields{
		TotalLength: uint16(cap(answer)), TTL: 64, Protocol: protocolICMP,
		SrcAddr: stackAddress(gateway4), DstAddr: stackAddress(sandbox4),
	})
	ip.SetChecksum(^ip.CalculateChecksum())
	icmp := header.ICMPv4(answer[header4:])
	icmp.SetType(header.ICMPv4DstUnreachable)
	icmp.SetCode(header.ICMPv4PortUnreachable)
	icmp.SetChecksum(header.ICMPv4Checksum(icmp, checksum.Checksum(told, 0)))
	return append(answer, told...)
}

func nobody6(frame []byte) []byte {
	told := frame[:min(len(frame), maxTold)]
	answer := make([]byte, header6+headerICMP, header6+headerICMP+len(told))
	header.IPv6(answer).Encode(&header.IPv6Fields{
		PayloadLength: uint16(headerICMP + len(told)), TransportProtocol: header.ICMPv6ProtocolNumber, HopLimit: 64,
		SrcAddr: stackAddress(gateway6), DstAddr: stackAddress(sandbox6),
	})
	icmp := header.ICMPv6(answer[header6:])
	icmp.SetType(header.ICMPv6DstUnreachable)
	icmp.SetCode(header.ICMPv6PortUnreachable)
	icmp.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{
		Header: icmp, Src: stackAddress(gateway6), Dst: stackAddress(sandbox6),
		PayloadCsum: checksum.Checksum(told, 0), PayloadLen: len(told),
	}))
	return append(answer, told...)
}
