package firewall

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/agentsandbox/agentsandbox"
)

// FuzzQuery feeds queries of any form to a gate that may resolve nothing: it must
// neither crash, nor ask outside, nor answer with an address.
func FuzzQuery(f *testing.F) {
	for _, typ := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeTXT} {
		q, err := packQuery(1, question{"www.example.org", typ})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(q, false)
		f.Add(q, true)
	}
	p, err := Narrow(Server{Mode: agentsandbox.NetworkAllowlist})
	if err != nil {
		f.Fatal(err)
	}
	// Nothing listens at the upstream server: asking it would take seconds.
	fw := New(Config{Upstreams: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1")}, Log: slog.New(slog.DiscardHandler), Limits: Limits{QueriesPerSecond: 1 << 20, Queries: 1 << 40}})
	g := fw.Gate("fuzz", p, nil)
	f.Fuzz(func(t *testing.T, raw []byte, overTCP bool) {
		answer := g.DNS(context.Background(), bytes.Clone(raw), overTCP)
		if answer == nil {
			return
		}
		var m dnsmessage.Message
		if err := m.Unpack(answer); err != nil {
			t.Fatalf("answered %x to %x: %v", answer, raw, err)
		}
		if !m.Response || len(m.Answers) > 0 || m.RCode == dnsmessage.RCodeSuccess || !overTCP && len(answer) > maxUDP {
			t.Fatalf("answered %+v to %x", m, raw)
		}
	})
}

// FuzzFirstBytes feeds first bytes of any form: whatever they are taken for, none
// may be lost.
func FuzzFirstBytes(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n"))
	f.Add([]byte("\x16\x03\x01\x00\x04\x01\x00\x00\x00"))
	f.Add([]byte("\r\n\r\n"))
	f.Fuzz(func(t *testing.T, first []byte) {
		classify(first, true)
		if kind, decided := classify(first, false); len(first) > 0 && (!decided || kind == "http") {
			t.Fatalf("%q: %s %t", first, kind, decided)
		}
		if len(first) == 0 || len(first) > maxHello {
			return
		}
		h, err := readHello(first[:1], bytes.NewReader(first[1:]))
		if !bytes.HasPrefix(first, h.raw) || len(h.raw) == 0 {
			t.Fatalf("read %q of %q (%v)", h.raw, first, err)
		}
	})
}
