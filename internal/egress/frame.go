package egress

import (
	"encoding/binary"
	"net/netip"
)

// A verdict says what is to become of a frame that came out of a sandbox.
type verdict uint8

const (
	// deliver4 and deliver6 give it to the stack.
	deliver4 verdict = iota
	deliver6
	// malformed frames are not IP packets, or say other lengths than they have,
	// or are fragments or carry options, which no kernel sends on this link.
	malformed
	// spoofed frames have a source that is not the sandbox's.
	spoofed
	// unsupported frames are neither TCP nor UDP nor an echo request for the
	// gateway, or go where no packet goes: to loopback or to many.
	unsupported
	// neighbourly frames are what IPv6 says to its link on its own accord.
	neighbourly
)

// Numbers of protocols, from IANA's registry.
const (
	protocolICMP   = 1
	protocolTCP    = 6
	protocolUDP    = 17
	protocolICMPv6 = 58
)

// Lengths of headers, in bytes, and places in them.
const (
	header4    = 20
	header6    = 40
	headerTCP  = 20
	headerUDP  = 8
	headerICMP = 8

	echoRequest4 = 8
	echoRequest6 = 128
)

var broadcast4 = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// inspect judges a frame. It lets through only what the stack has to see, which
// keeps most of the stack, such as reassembly, out of reach.
func inspect(frame []byte) verdict {
	if len(frame) == 0 {
		return malformed
	}
	switch frame[0] >> 4 {
	case 4:
		return inspect4(frame)
	case 6:
		return inspect6(frame)
	}
	return malformed
}

func inspect4(frame []byte) verdict {
	const (
		withoutOptions = 4<<4 | header4/4
		fragmentBits   = 0x3fff // more fragments, and the offset
	)
	if len(frame) < header4 || frame[0] != withoutOptions ||
		int(binary.BigEndian.Uint16(frame[2:])) != len(frame) ||
		binary.BigEndian.Uint16(frame[6:])&fragmentBits != 0 {
		return malformed
	}
	src, dst := netip.AddrFrom4([4]byte(frame[12:16])), netip.AddrFrom4([4]byte(frame[16:20]))
	if src != sandbox4 {
		return spoofed
	}
	// Reserved addresses pass: a connection to them is refused at once, by who judges.
	if dst == sandbox4 || dst.IsLoopback() || toMany(dst) || dst.IsUnspecified() {
		return unsupported
	}
	payload := frame[header4:]
	switch frame[9] {
	case protocolTCP, protocolUDP:
		return inspectPorts(frame[9], payload, deliver4)
	case protocolICMP:
		if dst == gateway4 && len(payload) >= headerICMP && payload[0] == echoRequest4 {
			return deliver4
		}
	}
	return unsupported
}

func inspect6(frame []byte) verdict {
	if len(frame) < header6 || int(binary.BigEndian.Uint16(frame[4:])) != len(frame)-header6 {
		return malformed
	}
	src, dst := netip.AddrFrom16([16]byte(frame[8:24])), netip.AddrFrom16([16]byte(frame[24:40]))
	if src.IsUnspecified() || src.IsLinkLocalUnicast() || dst.IsMulticast() {
		return neighbourly
	}
	if src != sandbox6 {
		return spoofed
	}
	if dst == sandbox6 || dst.IsLoopback() || dst.IsUnspecified() {
		return unsupported
	}
	payload := frame[header6:]
	switch frame[6] {
	case protocolTCP, protocolUDP:
		return inspectPorts(frame[6], payload, deliver6)
	case protocolICMPv6:
		if dst == gateway6 && len(payload) >= headerICMP && payload[0] == echoRequest6 {
			return deliver6
		}
	}
	return unsupported
}

// inspectPorts makes sure that the headers of TCP and UDP are whole.
func inspectPorts(protocol uint8, payload []byte, good verdict) verdict {
	if protocol == protocolUDP {
		if len(payload) < headerUDP || int(binary.BigEndian.Uint16(payload[4:])) != len(payload) {
			return malformed
		}
		return good
	}
	if len(payload) < headerTCP {
		return malformed
	}
	if length := int(payload[12]>>4) * 4; length < headerTCP || length > len(payload) {
		return malformed
	}
	return good
}
