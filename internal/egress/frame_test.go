package egress

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	flagFIN = 1
	flagSYN = 2
	flagACK = 16
)

// frame4 is an IPv4 packet without a checksum, as on a link.
func frame4(protocol byte, src, dst netip.Addr, payload []byte) []byte {
	f := make([]byte, header4, header4+len(payload))
	f[0], f[8], f[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(f[2:], uint16(header4+len(payload)))
	copy(f[12:], src.AsSlice())
	copy(f[16:], dst.AsSlice())
	return append(f, payload...)
}

func frame6(protocol byte, src, dst netip.Addr, payload []byte) []byte {
	f := make([]byte, header6, header6+len(payload))
	f[0], f[6], f[7] = 0x60, protocol, 64
	binary.BigEndian.PutUint16(f[4:], uint16(len(payload)))
	copy(f[8:], src.AsSlice())
	copy(f[24:], dst.AsSlice())
	return append(f, payload...)
}

func tcpSegment(from, to uint16, flags byte, data []byte) []byte {
	s := make([]byte, headerTCP, headerTCP+len(data))
	binary.BigEndian.PutUint16(s, from)
	binary.BigEndian.PutUint16(s[2:], to)
	s[12], s[13] = headerTCP/4<<4, flags
	binary.BigEndian.PutUint16(s[14:], 65535)
	return append(s, data...)
}

func udpDatagram(from, to uint16, data []byte) []byte {
	d := make([]byte, headerUDP, headerUDP+len(data))
	binary.BigEndian.PutUint16(d, from)
	binary.BigEndian.PutUint16(d[2:], to)
	binary.BigEndian.PutUint16(d[4:], uint16(headerUDP+len(data)))
	return append(d, data...)
}

// changed returns a frame with one byte other than it was.
func changed(frame []byte, at int, value byte) []byte {
	f := slices.Clone(frame)
	f[at] = value
	return f
}

func TestInspect(t *testing.T) {
	t.Parallel()
	a := netip.MustParseAddr
	out4, out6 := a("203.0.113.9"), a("2001:db8::1")
	syn, datagram := tcpSegment(1, 2, flagSYN, nil), udpDatagram(1, 2, []byte("x"))
	good4, good6 := frame4(protocolTCP, sandbox4, out4, syn), frame6(protocolTCP, sandbox6, out6, syn)
	echo4, echo6 := append([]byte{echoRequest4}, make([]byte, 7)...), append([]byte{echoRequest6}, make([]byte, 7)...)
	for name, c := range map[string]struct {
		frame []byte
		want  verdict
	}{
		"TCP over IPv4":               {good4, deliver4},
		"TCP over IPv6":               {good6, deliver6},
		"UDP over IPv4":               {frame4(protocolUDP, sandbox4, out4, datagram), deliver4},
		"UDP over IPv6":               {frame6(protocolUDP, sandbox6, out6, datagram), deliver6},
		"echo to the gateway":         {frame4(protocolICMP, sandbox4, gateway4, echo4), deliver4},
		"echo to the gateway, IPv6":   {frame6(protocolICMPv6, sandbox6, gateway6, echo6), deliver6},
		"echo elsewhere":              {frame4(protocolICMP, sandbox4, out4, echo4), unsupported},
		"echo elsewhere, IPv6":        {frame6(protocolICMPv6, sandbox6, out6, echo6), unsupported},
		"redirect to the gateway":     {frame4(protocolICMP, sandbox4, gateway4, changed(echo4, 0, 5)), unsupported},
		"unreachable":                 {frame4(protocolICMP, sandbox4, gateway4, changed(echo4, 0, 3)), unsupported},
		"router advertisement":        {frame6(protocolICMPv6, sandbox6, gateway6, changed(echo6, 0, 134)), unsupported},
		"nothing":                     {nil, malformed},
		"one byte":                    {[]byte{0x45}, malformed},
		"no version":                  {make([]byte, 40), malformed},
		"an Ethernet frame":           {append(make([]byte, 14), good4...), malformed},
		"shorter than it says":        {good4[:len(good4)-1], malformed},
		"longer than it says":         {append(slices.Clone(good4), 0), malformed},
		"IPv6 shorter than it says":   {good6[:len(good6)-1], malformed},
		"IPv6 longer than it says":    {append(slices.Clone(good6), 0), malformed},
		"half a header":               {good4[:10], malformed},
		"half an IPv6 header":         {good6[:10], malformed},
		"options":                     {changed(good4, 0, 0x46), malformed},
		"first fragment":              {changed(good4, 6, 0x20), malformed},
		"later fragment":              {changed(good4, 7, 1), malformed},
		"may not be fragmented":       {changed(good4, 6, 0x40), deliver4},
		"half a TCP header":           {frame4(protocolTCP, sandbox4, out4, syn[:12]), malformed},
		"no TCP header":               {frame4(protocolTCP, sandbox4, out4, nil), malformed},
		"TCP header of 16 bytes":      {frame4(protocolTCP, sandbox4, out4, changed(syn, 12, 4<<4)), malformed},
		"TCP header beyond the end":   {frame4(protocolTCP, sandbox4, out4, changed(syn, 12, 15<<4)), malformed},
		"half a UDP header":           {frame4(protocolUDP, sandbox4, out4, datagram[:6]), malformed},
		"UDP longer than it is":       {frame4(protocolUDP, sandbox4, out4, changed(datagram, 5, 200)), malformed},
		"another source":              {frame4(protocolTCP, out4, gateway4, syn), spoofed},
		"the gateway as source":       {frame4(protocolTCP, gateway4, sandbox4, syn), spoofed},
		"loopback as source":          {frame4(protocolTCP, a("127.0.0.1"), gateway4, syn), spoofed},
		"another source, IPv6":        {frame6(protocolTCP, out6, gateway6, syn), spoofed},
		"the gateway as source, IPv6": {frame6(protocolTCP, gateway6, sandbox6, syn), spoofed},
		"to loopback":                 {frame4(protocolTCP, sandbox4, a("127.0.0.1"), syn), unsupported},
		"to itself":                   {frame4(protocolTCP, sandbox4, sandbox4, syn), unsupported},
		"to this network":             {frame4(protocolTCP, sandbox4, a("0.0.0.0"), syn), unsupported},
		"to many":                     {frame4(protocolUDP, sandbox4, a("224.0.0.251"), datagram), unsupported},
		"to all":                      {frame4(protocolUDP, sandbox4, a("255.255.255.255"), datagram), unsupported},
		"to loopback, IPv6":           {frame6(protocolTCP, sandbox6, a("::1"), syn), unsupported},
		"to itself, IPv6":             {frame6(protocolTCP, sandbox6, sandbox6, syn), unsupported},
		"to nobody, IPv6":             {frame6(protocolTCP, sandbox6, a("::"), syn), unsupported},
		"to the link, IPv6":           {frame6(protocolTCP, sandbox6, a("fe80::1"), syn), deliver6},
		"to a reserved address":       {frame4(protocolTCP, sandbox4, a("240.0.0.1"), syn), deliver4},
		"to the last address":         {frame4(protocolTCP, sandbox4, a("255.255.255.254"), syn), deliver4},
		"to an address of 0/8":        {frame4(protocolTCP, sandbox4, a("0.1.2.3"), syn), deliver4},
		"SCTP":                        {frame4(132, sandbox4, out4, make([]byte, 40)), unsupported},
		"GRE":                         {frame4(47, sandbox4, out4, make([]byte, 40)), unsupported},
		"IPv6 in IPv4":                {frame4(41, sandbox4, out4, good6), unsupported},
		"extension header":            {frame6(0, sandbox6, out6, make([]byte, 40)), unsupported},
		"fragment header":             {frame6(44, sandbox6, out6, make([]byte, 40)), unsupported},
		"routing header":              {frame6(43, sandbox6, out6, make([]byte, 40)), unsupported},
		"router solicitation":         {frame6(protocolICMPv6, a("fe80::2"), a("ff02::2"), changed(echo6, 0, 133)), neighbourly},
		"address in use?":             {frame6(protocolICMPv6, a("::"), a("ff02::1:ff00:2"), changed(echo6, 0, 135)), neighbourly},
		"multicast report":            {frame6(0, a("fe80::2"), a("ff02::16"), make([]byte, 40)), neighbourly},
	} {
		if got := inspect(c.frame); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestHostileFramesAreCountedAndDropped(t *testing.T) {
	t.Parallel()
	_, l := connect(t, RefuseAll{})
	device := l.Device()
	defer device.Close()
	out := netip.MustParseAddr("203.0.113.9")
	for _, frame := range [][]byte{
		{0}, make([]byte, 65_000), frame4(protocolTCP, sandbox4, out, nil),
		frame4(protocolTCP, out, gateway4, tcpSegment(1, 2, flagSYN, nil)),
		frame4(47, sandbox4, out, nil), frame4(132, sandbox4, out, nil),
	} {
		_, err := device.Write(frame)
		must(t, err)
	}
	must(t, unix.Sendto(int(device.Fd()), nil, 0, nil)) // an empty one ends nothing
	_, err := device.Write(frame4(protocolTCP, sandbox4, out, tcpSegment(9, 80, flagSYN, nil)))
	must(t, err)
	eventually(t, "the refusal of an honest frame after all", func() bool { return l.Stats().Refused == 1 })
	want := Stats{FramesFromSandbox: 8, Malformed: 4, Spoofed: 1, Unsupported: 2, Connections: 1, Refused: 1}
	got := l.Stats()
	got.BytesFromSandbox, got.FramesToSandbox, got.BytesToSandbox, got.Active = 0, 0, 0, 0
	if got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
}

// A sandbox whose kernel was taken over holds a duplicate of the daemon's end,
// and can do with it what it likes.
func TestAShutLinkEndsQuietly(t *testing.T) {
	t.Parallel()
	_, l := connect(t, RefuseAll{})
	duplicate, err := l.Duplicate()
	must(t, err)
	defer duplicate.Close()
	must(t, unix.SetNonblock(int(duplicate.Fd()), false))
	must(t, unix.Shutdown(int(duplicate.Fd()), unix.SHUT_RDWR))
	// A datagram socket that was shut down is one on which nothing comes: if it
	// were read over and over, frames would be counted.
	if n, err := duplicate.Write([]byte{0}); err == nil {
		t.Errorf("%d bytes were sent on a link that was shut", n)
	}
	within(t, "closing", func() { must(t, l.Close()) })
	if st := l.Stats(); st.FramesFromSandbox > 0 {
		t.Errorf("counted %+v", st)
	}
}

// A sandbox that does not read loses frames, and blocks nobody.
func TestASandboxThatDoesNotRead(t *testing.T) {
	t.Parallel()
	_, l := connect(t, RefuseAll{})
	duplicate, err := l.Duplicate()
	must(t, err)
	defer duplicate.Close()
	must(t, unix.SetNonblock(int(duplicate.Fd()), false)) // the description is shared
	device := l.Device()
	defer device.Close()
	syn := tcpSegment(1, 2, flagSYN, nil)
	within(t, "a flood", func() {
		for i := range 50_000 {
			binary.BigEndian.PutUint16(syn, uint16(i))
			if _, err := device.Write(frame4(protocolTCP, sandbox4, gateway4, syn)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	eventually(t, "the reading of all", func() bool { return l.Stats().FramesFromSandbox == 50_000 })
	if st := l.Stats(); st.Lost == 0 {
		t.Errorf("nothing was lost: %+v", st)
	}
	within(t, "closing", func() { must(t, l.Close()) })
}

// FuzzFrames feeds one link with whatever comes, frame by frame, and wants it to
// be at work afterwards.
func FuzzFrames(f *testing.F) {
	out := netip.MustParseAddr("203.0.113.9")
	syn := tcpSegment(7, 80, flagSYN, nil)
	f.Add(frame4(protocolTCP, sandbox4, out, syn))
	f.Add(frame4(protocolTCP, sandbox4, gateway4, tcpSegment(7, 53, flagSYN, nil)))
	f.Add(frame4(protocolTCP, sandbox4, out, tcpSegment(7, 80, flagACK|flagFIN, []byte("data"))))
	f.Add(frame4(protocolUDP, sandbox4, gateway4, udpDatagram(7, 53, query)))
	f.Add(frame4(protocolICMP, sandbox4, gateway4, append([]byte{echoRequest4}, make([]byte, 15)...)))
	f.Add(frame6(protocolTCP, sandbox6, netip.MustParseAddr("2001:db8::1"), syn))
	f.Add(frame6(protocolUDP, sandbox6, gateway6, udpDatagram(7, 53, query)))
	f.Add(frame6(protocolICMPv6, sandbox6, gateway6, append([]byte{echoRequest6}, make([]byte, 15)...)))
	_, l := connect(f, &handlerFunc{tcp: echo, dns: func(q []byte, _ bool) []byte { return refuseQuery(q) }})
	device := l.Device()
	f.Cleanup(func() { device.Close() })
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) > frameBytes {
			return
		}
		// The second is the same with a good source, so that the stack sees more.
		second := slices.Clone(frame)
		switch {
		case len(frame) >= header4 && frame[0]>>4 == 4:
			second[0] = 0x45
			binary.BigEndian.PutUint16(second[2:], uint16(len(frame)))
			second[6], second[7] = 0, 0
			copy(second[12:], sandbox4.AsSlice())
		case len(frame) >= header6 && frame[0]>>4 == 6:
			binary.BigEndian.PutUint16(second[4:], uint16(len(frame)-header6))
			copy(second[8:], sandbox6.AsSlice())
		}
		before := l.Stats().FramesFromSandbox
		for _, one := range [][]byte{frame, second} {
			must(t, unix.Sendto(int(device.Fd()), one, 0, nil))
		}
		eventually(t, "the reading of a frame", func() bool { return l.Stats().FramesFromSandbox >= before+2 })
		drain(int(device.Fd()))
	})
}

// drain throws away what the link has sent to the sandbox.
func drain(fd int) {
	room := make([]byte, frameBytes)
	for {
		if _, _, err := unix.Recvfrom(fd, room, unix.MSG_DONTWAIT); err != nil {
			return
		}
	}
}
