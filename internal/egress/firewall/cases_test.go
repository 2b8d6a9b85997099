package firewall

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/agentsandbox/agentsandbox"
)

// addresses that must not be reached by the default policy, and what they are.
var forbidden = []struct{ name, address string }{
	{"loopback", "127.0.0.1:8000"},
	{"loopback elsewhere", "127.8.9.1:8000"},
	{"this host", "0.0.0.0:8000"},
	{"this network", "0.1.2.3:80"},
	{"private 10", "10.0.0.5:80"},
	{"private 172.16", "172.16.0.1:80"},
	{"private 172.31", "172.31.255.254:80"},
	{"private 192.168", "192.168.1.1:80"},
	{"carrier-grade NAT", "100.64.0.1:80"},
	{"carrier-grade NAT end", "100.127.255.254:80"},
	{"link-local", "169.254.1.1:80"},
	{"metadata", "169.254.169.254:80"},
	{"metadata of containers", "169.254.170.2:80"},
	{"metadata of Azure", "168.63.129.16:80"},
	{"metadata of Alibaba", "100.100.100.200:80"},
	{"metadata of Oracle", "192.0.0.192:80"},
	{"protocol assignments", "192.0.0.8:80"},
	{"documentation 1", "192.0.2.1:80"},
	{"documentation 2", "198.51.100.1:80"},
	{"documentation 3", "203.0.113.1:80"},
	{"6to4 relay", "192.88.99.1:80"},
	{"benchmarking", "198.19.255.1:80"},
	{"multicast", "224.0.0.1:80"},
	{"multicast end", "239.255.255.250:1900"},
	{"reserved", "240.0.0.1:80"},
	{"broadcast", "255.255.255.255:80"},
	{"own address", hostAddr + ":8000"},
	{"own private address", "10.77.0.1:8000"},
	{"own IPv6 address", "[" + hostAddr6 + "]:8000"},
	{"IPv6 loopback", "[::1]:8000"},
	{"IPv6 unspecified", "[::]:8000"},
	{"unique-local", "[fc00::1]:80"},
	{"unique-local fd", "[fdff:ffff::1]:80"},
	{"metadata IPv6", "[fd00:ec2::254]:80"},
	{"metadata IPv6 of Google", "[fd20:ce::254]:80"},
	{"link-local IPv6", "[fe80::1]:80"},
	{"site-local", "[fec0::1]:80"},
	{"multicast IPv6", "[ff02::1]:80"},
	{"documentation IPv6", "[2001:db8::1]:80"},
	{"documentation IPv6 new", "[3fff::1]:80"},
	{"discard", "[100::1]:80"},
	{"ORCHID", "[2001:20::1]:80"},
	{"segment routing", "[5f00::1]:80"},
	{"unassigned IPv6", "[4000::1]:80"},
	{"mapped loopback", "[::ffff:127.0.0.1]:8000"},
	{"mapped metadata", "[::ffff:169.254.169.254]:80"},
	{"mapped private", "[::ffff:10.0.0.5]:80"},
	{"compatible private", "[::10.0.0.5]:80"},
	{"translated private", "[::ffff:0:10.0.0.5]:80"},
	{"NAT64 private", "[64:ff9b::10.0.0.5]:80"},
	{"NAT64 metadata", "[64:ff9b::169.254.169.254]:80"},
	{"NAT64 own", "[64:ff9b::" + hostAddr + "]:8000"},
	{"NAT64 local", "[64:ff9b:1::5db8:1]:80"},
	{"6to4 private", "[2002:a00:5::1]:80"},
	{"6to4 metadata", "[2002:a9fe:a9fe::1]:80"},
	{"Teredo", "[2001:0:5db8:1::f5ff:fffa]:80"},
	{"ISATAP private", "[2a00:1450::5efe:10.0.0.5]:80"},
	{"ISATAP private, global bit", "[2a00:1450::200:5efe:192.168.1.1]:80"},
}

func rangeCases(t *testing.T, w *world) {
	for _, c := range forbidden {
		t.Run(c.name, func(t *testing.T) {
			b := w.box(t, setup{})
			b.refused(c.address, ReasonRange)
			// Nor is it when the session lists it: only the operator opens.
			to := netip.MustParseAddrPort(c.address)
			b = w.allowing(t, netip.PrefixFrom(to.Addr(), to.Addr().BitLen()).String())
			b.refused(c.address, ReasonRange)
			// Nor under a name that an allowed zone answers it for.
			b = w.box(t, setup{})
			name := fmt.Sprintf("rebind%d.example", len(c.name)*1000+int(to.Addr().As16()[15]))
			w.name(name, to.Addr().Unmap().String())
			typ := dnsmessage.TypeA
			if to.Addr().Unmap().Is6() {
				typ = dnsmessage.TypeAAAA
			}
			if rcode, addrs := b.resolve(name, typ); len(addrs) > 0 || rcode != dnsmessage.RCodeSuccess {
				t.Errorf("resolved to %s (%s)", addrs, rcode)
			}
			b.logged(ReasonRange)
		})
	}
	t.Run("all ports of the gateway", func(t *testing.T) {
		b := w.box(t, setup{})
		for port := 1; port < 65536; port += 13 {
			if _, err := b.dial(fmt.Sprintf("10.0.0.1:%d", port)); err == nil {
				t.Fatalf("port %d was reached", port)
			}
		}
	})
	t.Run("a public address is reached", func(t *testing.T) {
		b := w.box(t, setup{})
		b.connect(at(w.address(7), 7))
	})
	t.Run("a public IPv6 address is reached", func(t *testing.T) {
		b := w.box(t, setup{})
		a := netip.MustParseAddr("2606:2800:220:1::7")
		w.expect(a, 7)
		b.connect(at(a, 7))
	})
	t.Run("NAT64 of a public address is reached", func(t *testing.T) {
		b := w.box(t, setup{})
		a := netip.MustParseAddr("64:ff9b::93.190.0.1")
		w.expect(a, 7)
		b.connect(at(a, 7))
	})
	t.Run("a mapped public address is IPv4", func(t *testing.T) {
		b := w.box(t, setup{})
		a := w.address(7)
		b.connect("[::ffff:" + a.String() + "]:7")
	})
	t.Run("deny looks into NAT64", func(t *testing.T) {
		b := w.box(t, setup{deny: []string{"93.191.0.0/16"}})
		b.refused("[64:ff9b::93.191.0.1]:7", ReasonDenied)
	})
	t.Run("an address that appears on the host", func(t *testing.T) {
		b := w.box(t, setup{})
		a := netip.MustParseAddr("93.192.0.1")
		b.gate.fw.own.read = func() ([]netip.Addr, error) { return []netip.Addr{a}, nil }
		b.refused(at(a, 80), ReasonRange)
	})
	t.Run("the host's addresses cannot be read", func(t *testing.T) {
		b := w.box(t, setup{})
		b.gate.fw.own.read = func() ([]netip.Addr, error) { return nil, fmt.Errorf("no netlink") }
		b.refused("93.192.0.2:80", ReasonRange)
	})
	t.Run("refused and unreachable outside", func(t *testing.T) {
		b := w.box(t, setup{})
		b.refused(at(w.address(1234), 1234), ReasonUpstream)
		b.refused("93.185.0.1:80", ReasonUpstream)
	})
}

func nameCases(t *testing.T, w *world) {
	a := w.address(443, 80)
	w.name("www.example.org", a.String())
	w.name("example.org", a.String())
	t.Run("allowed and pinned", func(t *testing.T) {
		b := w.allowing(t, "www.example.org")
		b.pin("www.example.org", a)
	})
	t.Run("case and final dot", func(t *testing.T) {
		b := w.allowing(t, "WWW.Example.ORG.")
		if _, addrs := b.resolve("wWw.eXample.org", dnsmessage.TypeA); len(addrs) != 1 {
			t.Errorf("resolved to %s", addrs)
		}
	})
	t.Run("wildcard covers any depth and not the apex", func(t *testing.T) {
		b := w.allowing(t, "*.example.org")
		b.pin("www.example.org", a)
		b.pin("a.b.example.org", a)
		b.unresolved("example.org", ReasonNotAllowed)
		b.unresolved("notexample.org", ReasonNotAllowed)
	})
	t.Run("a name that is not allowed is not asked for", func(t *testing.T) {
		b := w.allowing(t, "example.org")
		w.name("secret-data.attacker.example", a.String())
		b.unresolved("secret-data.attacker.example", ReasonNotAllowed)
		if w.wasAsked("secret-data.attacker.example") {
			t.Error("the upstream server heard the name")
		}
	})
	t.Run("denied", func(t *testing.T) {
		b := w.box(t, setup{deny: []string{"*.denied.example", "denied.example"}})
		w.name("denied.example", a.String())
		b.unresolved("denied.example", ReasonDenied)
		b.unresolved("x.denied.example", ReasonDenied)
	})
	t.Run("an empty allow-list is nothing", func(t *testing.T) {
		b := w.allowing(t)
		b.unresolved("www.example.org", ReasonNotAllowed)
		b.refused(at(a, 443), ReasonNotAllowed)
	})
	t.Run("off", func(t *testing.T) {
		b := w.box(t, setup{mode: "off"})
		b.unresolved("www.example.org", ReasonOff)
		b.refused(at(a, 443), ReasonOff)
	})
	t.Run("names that are none", func(t *testing.T) {
		b := w.box(t, setup{})
		for _, name := range []string{"127.1", "0x7f000001", "2130706433", "a b", "x_.-"} {
			if rcode, addrs := b.resolve(name, dnsmessage.TypeA); rcode != dnsmessage.RCodeNameError || len(addrs) > 0 {
				t.Errorf("%s: %s %s", name, rcode, addrs)
			}
		}
	})
	t.Run("an alias into a private range", func(t *testing.T) {
		b := w.box(t, setup{})
		w.name("alias.example", "CNAME inside.corp.example")
		w.name("inside.corp.example", "10.0.0.5")
		b.unresolved("alias.example", ReasonRange)
	})
	t.Run("an alias is judged by the name asked for", func(t *testing.T) {
		b := w.allowing(t, "shop.example")
		cdn := w.address(443)
		w.name("shop.example", "CNAME cdn.example")
		w.name("cdn.example", cdn.String())
		if _, addrs := b.resolve("shop.example", dnsmessage.TypeA); !slices.Equal(addrs, []netip.Addr{cdn}) {
			t.Errorf("resolved to %s", addrs)
		}
		b.unresolved("cdn.example", ReasonNotAllowed)
	})
	t.Run("public addresses are kept among private ones", func(t *testing.T) {
		b := w.box(t, setup{})
		w.name("mixed.example", "10.0.0.5", a.String(), "169.254.169.254")
		if _, addrs := b.resolve("mixed.example", dnsmessage.TypeA); !slices.Equal(addrs, []netip.Addr{a}) {
			t.Errorf("resolved to %s", addrs)
		}
	})
	t.Run("rebinding", func(t *testing.T) {
		b := w.allowing(t, "rebind.example")
		b.pin("rebind.example", a)
		w.name("rebind.example", "169.254.169.254")
		clear(b.gate.fw.resolver.cache)
		b.unresolved("rebind.example", ReasonRange)
		b.refused("169.254.169.254:80", ReasonRange)
	})
	t.Run("metadata by name", func(t *testing.T) {
		b := w.box(t, setup{})
		w.name("metadata.google.internal", "169.254.169.254", "fd20:ce::254")
		b.unresolved("metadata.google.internal", ReasonRange)
	})
	t.Run("spoofed hosts file", func(t *testing.T) {
		b := w.allowing(t, "www.example.org")
		b.pin("www.example.org", a)
		b.refused("93.200.0.1:443", ReasonNotAllowed) // whatever /etc/hosts calls it
	})
	t.Run("pins are of one sandbox", func(t *testing.T) {
		w.allowing(t, "www.example.org").pin("www.example.org", a)
		w.allowing(t, "www.example.org").refused(at(a, 443), ReasonNotAllowed)
	})
	t.Run("a port that the name is not allowed at", func(t *testing.T) {
		b := w.allowing(t, "ported.example:443")
		own := w.address(443)
		b.pin("ported.example", own)
		b.refused(at(own, 8080), ReasonNotAllowed)
		b.explained(at(own, 80), ReasonNotAllowed, "network.allow")
		b.connect(at(own, 443))
	})
	t.Run("no such name", func(t *testing.T) {
		b := w.box(t, setup{})
		if rcode, _ := b.resolve("nowhere.example", dnsmessage.TypeA); rcode != dnsmessage.RCodeNameError {
			t.Errorf("answered %s", rcode)
		}
	})
}

func tunnelCases(t *testing.T, w *world) {
	a := w.address()
	w.name("tunnel.example", a.String())
	for _, typ := range []dnsmessage.Type{
		dnsmessage.TypeTXT, dnsmessage.TypeMX, dnsmessage.TypeNS, dnsmessage.TypeCNAME, dnsmessage.TypePTR, dnsmessage.TypeSRV,
		dnsmessage.TypeSOA, 10 /* NULL */, dnsmessage.TypeHTTPS, dnsmessage.TypeSVCB, 65399, dnsmessage.TypeALL, dnsmessage.TypeAXFR,
	} {
		t.Run("type "+typ.String(), func(t *testing.T) {
			b := w.box(t, setup{})
			name := strings.ToLower(strings.TrimPrefix(typ.String(), "Type")) + "x.data.tunnel.example"
			rcode, addrs := b.resolve(name, typ)
			refusal := typ == dnsmessage.TypeALL || typ == dnsmessage.TypeAXFR
			if len(addrs) > 0 || (rcode == dnsmessage.RCodeRefused) != refusal || w.wasAsked(name) {
				t.Errorf("%s %s, asked outside: %t", rcode, addrs, w.wasAsked(name))
			}
		})
	}
	t.Run("ten thousand subdomains", func(t *testing.T) {
		b := w.box(t, setup{limits: Limits{QueriesPerSecond: 100_000}})
		before := w.count()
		for i := range 10_000 {
			b.resolve(fmt.Sprintf("chunk%d.tunnel.example", i), dnsmessage.TypeA)
		}
		if n := w.count() - before; n > DefaultLimits().NamesPerDomain {
			t.Errorf("%d names were asked outside", n)
		}
		b.logged(ReasonLimit)
		b.pin("elsewhere.example.net", a) // other domains go on
	})
	t.Run("long names", func(t *testing.T) {
		b := w.box(t, setup{})
		before := w.count()
		for i := range 200 {
			label := strings.Repeat(string(rune('a'+i%26)), 60)
			b.resolve(fmt.Sprintf("%s.%s.%s.n%d.tunnel.example", label, label, label, i), dnsmessage.TypeA)
		}
		if n := w.count() - before; n*180 > DefaultLimits().NameBytesPerDomain {
			t.Errorf("%d long names were asked outside", n)
		}
	})
	t.Run("customers of one suffix share its budget", func(t *testing.T) {
		b := w.box(t, setup{limits: Limits{NamesPerDomain: 5}})
		for i := range 10 {
			b.resolve(fmt.Sprintf("c%d.github.io", i), dnsmessage.TypeA)
		}
		b.logged(ReasonLimit)
	})
	t.Run("a flood of queries", func(t *testing.T) {
		b := w.box(t, setup{limits: Limits{QueriesPerSecond: 10}})
		refusals := 0
		for range 1000 {
			if rcode, _ := b.resolve("tunnel.example", dnsmessage.TypeA); rcode == dnsmessage.RCodeRefused {
				refusals++
			}
		}
		if refusals < 500 {
			t.Errorf("only %d of 1000 were refused", refusals)
		}
		if entries, _ := b.gate.Log(); len(entries) > 100 {
			t.Errorf("the flood fills the log: %d entries", len(entries))
		}
	})
	t.Run("all queries used up", func(t *testing.T) {
		b := w.box(t, setup{limits: Limits{Queries: 3}})
		for range 3 {
			b.resolve("tunnel.example", dnsmessage.TypeA)
		}
		if rcode, _ := b.resolve("tunnel.example", dnsmessage.TypeA); rcode != dnsmessage.RCodeRefused {
			t.Errorf("answered %s", rcode)
		}
	})
	t.Run("another resolver over TCP", func(t *testing.T) {
		w.box(t, setup{}).refused("93.201.0.1:53", ReasonResolver)
		w.allowing(t, "93.201.0.1:53").refused("93.201.0.1:53", ReasonResolver)
	})
	t.Run("another resolver over TLS", func(t *testing.T) {
		w.box(t, setup{}).refused("93.201.0.1:853", ReasonResolver)
	})
	t.Run("another resolver that the operator opened", func(t *testing.T) {
		own := w.address(53)
		w.box(t, setup{open: []string{own.String() + ":53"}}).connect(at(own, 53))
	})
	malformed := map[string]func([]byte) []byte{
		"empty":             func([]byte) []byte { return nil },
		"cut in the header": func(q []byte) []byte { return q[:7] },
		"a response":        func(q []byte) []byte { q[2] |= 0x80; return q },
		"cut in the name":   func(q []byte) []byte { return q[:16] },
		"two questions":     func(q []byte) []byte { q[5] = 2; return q },
		"no question":       func(q []byte) []byte { q[5] = 0; return q },
		"an update":         func(q []byte) []byte { q[2] |= 5 << 3; return q },
		"class CHAOS":       func(q []byte) []byte { q[len(q)-12] = 3; return q },
		"a name in a loop":  func(q []byte) []byte { q[12], q[13] = 0xc0, 12; return q },
		"counts that lie":   func(q []byte) []byte { q[7] = 200; return q },
		"two EDNS records": func(q []byte) []byte {
			q[11] = 2
			return append(q, q[len(q)-11:]...)
		},
	}
	for name, break_ := range malformed {
		t.Run("malformed: "+name, func(t *testing.T) {
			b := w.box(t, setup{})
			before := w.count()
			answer := b.query(break_(packed(t, "tunnel.example", dnsmessage.TypeA)), false)
			if len(answer) > 0 && (len(answer) < 12 || answer[3]&15 == 0 || binary.BigEndian.Uint16(answer[6:]) != 0) {
				t.Errorf("answered %x", answer)
			}
			if w.count() != before {
				t.Error("asked outside")
			}
			b.logged(ReasonQuery)
		})
	}
}

func upstreamCases(t *testing.T, w *world) {
	a := w.address()
	rewrite := func(change func(m *dnsmessage.Message)) func([]byte, bool) [][]byte {
		return func(answer []byte, _ bool) [][]byte {
			var m dnsmessage.Message
			must(t, m.Unpack(answer))
			change(&m)
			b, err := m.Pack()
			must(t, err)
			return [][]byte{b, answer}
		}
	}
	defer w.setTamper(nil)
	spoof := dnsmessage.AResource{A: [4]byte{93, 202, 0, 1}}
	for name, change := range map[string]func(m *dnsmessage.Message){
		"a wrong id": func(m *dnsmessage.Message) { m.ID ^= 0x5555; m.Answers[0].Body = &spoof },
		"another question": func(m *dnsmessage.Message) {
			m.Questions[0].Name = dnsmessage.MustNewName("other.example.")
			m.Answers[0].Body = &spoof
		},
		"a query": func(m *dnsmessage.Message) { m.Response = false; m.Answers[0].Body = &spoof },
		"records of other names": func(m *dnsmessage.Message) {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName("other.example."), Class: dnsmessage.ClassINET, TTL: 60}, Body: &spoof})
		},
	} {
		t.Run("spoofed answer with "+name, func(t *testing.T) {
			b := w.box(t, setup{})
			w.setTamper(rewrite(change))
			defer w.setTamper(nil)
			b.pin("spoofed.example", a)
		})
	}
	t.Run("garbage", func(t *testing.T) {
		b := w.box(t, setup{})
		w.setTamper(func(answer []byte, _ bool) [][]byte { return [][]byte{{1, 2, 3}, answer[:20], answer} })
		defer w.setTamper(nil)
		b.pin("garbage.example", a)
	})
	t.Run("cut over UDP, whole over TCP", func(t *testing.T) {
		b := w.box(t, setup{})
		w.setTamper(func(answer []byte, overTCP bool) [][]byte {
			if !overTCP {
				answer[2] |= 2
			}
			return [][]byte{answer}
		})
		defer w.setTamper(nil)
		b.pin("cut.example", a)
	})
	t.Run("SERVFAIL", func(t *testing.T) {
		b := w.box(t, setup{})
		w.name("failing.example", a.String())
		w.setTamper(func(answer []byte, _ bool) [][]byte { answer[3] |= 2; return [][]byte{answer} })
		defer w.setTamper(nil)
		if rcode, _ := b.resolve("failing.example", dnsmessage.TypeA); rcode != dnsmessage.RCodeServerFailure {
			t.Errorf("answered %s", rcode)
		}
		b.logged(ReasonUpstream)
	})
	t.Run("no server", func(t *testing.T) {
		b := w.box(t, setup{upstream: "93.185.0.53:53"})
		if rcode, _ := b.resolve("www.example.org", dnsmessage.TypeA); rcode != dnsmessage.RCodeServerFailure {
			t.Errorf("answered %s", rcode)
		}
	})
	t.Run("answers are remembered for their time", func(t *testing.T) {
		b := w.box(t, setup{})
		b.pin("cached.example", a)
		before := w.count()
		b.pin("cached.example", a)
		if w.count() != before {
			t.Error("asked again")
		}
		b.gate.fw.resolver.mu.Lock()
		for q, l := range b.gate.fw.resolver.cache {
			l.expires = time.Now()
			b.gate.fw.resolver.cache[q] = l
		}
		b.gate.fw.resolver.mu.Unlock()
		b.pin("cached.example", a)
		if w.count() == before {
			t.Error("not asked again after the answer's time")
		}
	})
	t.Run("long answers over UDP are cut, and whole over TCP", func(t *testing.T) {
		b := w.box(t, setup{})
		var many []string
		for i := range 40 {
			many = append(many, netip.AddrFrom16([16]byte{0x2a, 1, 15: byte(i)}).String())
		}
		long := strings.Repeat("many.", 20) + "example"
		w.name(long, many...)
		q := packed(t, long, dnsmessage.TypeAAAA)
		q[11] = 0 // without EDNS
		q = q[:len(q)-11]
		short := b.query(q, false)
		if len(short) > plainUDP || short[2]&2 == 0 {
			t.Errorf("%d bytes over UDP, TC %t", len(short), short[2]&2 != 0)
		}
		if _, addrs := b.unpack(b.query(q, true), dnsmessage.TypeAAAA); len(addrs) != maxAnswers {
			t.Errorf("%d addresses over TCP", len(addrs))
		}
	})
}

func policyCases(t *testing.T, w *world) {
	private := netip.MustParseAddr("10.20.30.40")
	w.expect(private, 80, 443, 7)
	w.name("mirror.corp.example", private.String())
	t.Run("opened by address", func(t *testing.T) {
		w.box(t, setup{open: []string{"10.20.30.40"}}).connect(at(private, 7))
	})
	t.Run("opened by range and port", func(t *testing.T) {
		b := w.box(t, setup{open: []string{"10.20.0.0/16:7"}})
		b.connect(at(private, 7))
		b.refused("10.20.30.41:81", ReasonRange)
	})
	for _, entry := range []string{"mirror.corp.example", "*.corp.example"} {
		t.Run("opened by name "+entry, func(t *testing.T) {
			b := w.box(t, setup{open: []string{entry}})
			b.refused("10.20.30.41:7", ReasonRange)
			b.pin("mirror.corp.example", private)
			b.connect(at(private, 7))
		})
	}
	t.Run("an opened name, not resolved", func(t *testing.T) {
		w.box(t, setup{open: []string{"unresolved.corp.example"}}).refused("10.20.30.42:7", ReasonRange)
	})
	t.Run("a name opens no loopback and no metadata", func(t *testing.T) {
		b := w.box(t, setup{open: []string{"evil.corp.example"}})
		w.name("evil.corp.example", "127.0.0.1", "169.254.169.254", "::1")
		b.unresolved("evil.corp.example", ReasonRange)
	})
	t.Run("a wildcard opens no address of the host", func(t *testing.T) {
		b := w.box(t, setup{open: []string{"*.corp.example"}})
		w.name("own.corp.example", hostAddr)
		b.unresolved("own.corp.example", ReasonRange)
	})
	t.Run("a range opens no metadata and no address of the host", func(t *testing.T) {
		b := w.box(t, setup{open: []string{"169.254.0.0/16", "10.0.0.0/8", "fd00::/8"}})
		b.refused("169.254.169.254:80", ReasonRange)
		b.refused("10.77.0.1:8000", ReasonRange)
		b.refused("[fd00:ec2::254]:80", ReasonRange)
	})
	t.Run("deny wins over open", func(t *testing.T) {
		w.box(t, setup{open: []string{"10.0.0.0/8"}, deny: []string{"10.20.30.43"}}).explained("10.20.30.43:80", ReasonDenied, "whoever runs the server")
	})
	t.Run("opened is still narrowed by the session", func(t *testing.T) {
		b := w.box(t, setup{open: []string{"10.20.30.44"}, session: &agentsandbox.NetworkPolicy{Mode: "allowlist", Allow: []string{"example.org"}}})
		b.explained("10.20.30.44:80", ReasonNotAllowed, "in no allow-list of the session")
	})
	t.Run("server and session both must allow", func(t *testing.T) {
		a := w.address(7)
		b := w.box(t, setup{mode: "allowlist", allow: []string{"93.184.0.0/16"},
			session: &agentsandbox.NetworkPolicy{Mode: "allowlist", Allow: []string{a.String(), "93.203.0.1"}}})
		b.connect(at(a, 7))
		b.refused("93.203.0.1:7", ReasonNotAllowed)
		b.refused(at(w.address(), 7), ReasonNotAllowed)
	})
	t.Run("range with ports", func(t *testing.T) {
		a := w.address(7)
		b := w.allowing(t, a.String()+"/32:7-8")
		b.connect(at(a, 7))
		b.refused(at(a, 9), ReasonNotAllowed)
	})
	t.Run("deny by address and port", func(t *testing.T) {
		a := w.address(7)
		b := w.box(t, setup{deny: []string{"0.0.0.0/0:25", "[::/0]:25"}})
		b.refused(at(a, 25), ReasonDenied)
		b.refused("[2606:2800::1]:25", ReasonDenied)
		b.connect(at(a, 7))
	})
}
