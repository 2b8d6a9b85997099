package firewall

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/agentsandbox/agentsandbox"
)

func policyOf(t *testing.T, server Server, requests ...*agentsandbox.NetworkPolicy) *Policy {
	t.Helper()
	p, err := Narrow(server, requests...)
	must(t, err)
	return p
}

func serverOf(t *testing.T, mode string, allow, open, deny []string) Server {
	t.Helper()
	s, err := ParseServer(mode, allow, open, deny)
	must(t, err)
	return s
}

func TestConnect(t *testing.T) {
	list := func(entries ...string) []string { return entries }
	for _, c := range []struct {
		what              string
		mode              string
		allow, open, deny []string
		session           *agentsandbox.NetworkPolicy
		name, to          string
		want              Reason
	}{
		{what: "public", mode: "public", to: "93.1.1.1:443", want: ReasonAllowed},
		{what: "off", mode: "off", to: "93.1.1.1:443", want: ReasonOff},
		{what: "session off", mode: "public", session: &agentsandbox.NetworkPolicy{Mode: "off"}, to: "93.1.1.1:443", want: ReasonOff},
		{what: "nothing listed", mode: "allowlist", to: "93.1.1.1:443", want: ReasonNotAllowed},
		{what: "by name", mode: "allowlist", allow: list("a.example"), name: "a.example", to: "93.1.1.1:443", want: ReasonAllowed},
		{what: "by another name", mode: "allowlist", allow: list("a.example"), name: "b.example", to: "93.1.1.1:443", want: ReasonNotAllowed},
		{what: "by no name", mode: "allowlist", allow: list("a.example"), to: "93.1.1.1:443", want: ReasonNotAllowed},
		{what: "by name and port", mode: "allowlist", allow: list("a.example:443"), name: "a.example", to: "93.1.1.1:80", want: ReasonNotAllowed},
		{what: "by ports", mode: "allowlist", allow: list("a.example:80-90"), name: "a.example", to: "93.1.1.1:90", want: ReasonAllowed},
		{what: "beyond ports", mode: "allowlist", allow: list("a.example:80-90"), name: "a.example", to: "93.1.1.1:91", want: ReasonNotAllowed},
		{what: "by wildcard", mode: "allowlist", allow: list("*.example"), name: "a.b.example", to: "93.1.1.1:91", want: ReasonAllowed},
		{what: "deny wins", mode: "allowlist", allow: list("*.example"), deny: list("a.example"), name: "a.example", to: "93.1.1.1:91", want: ReasonDenied},
		{what: "session deny wins", mode: "public", session: &agentsandbox.NetworkPolicy{Mode: "public", Deny: list("93.0.0.0/8:22")}, to: "93.1.1.1:22", want: ReasonDenied},
		{what: "session deny of another port", mode: "public", session: &agentsandbox.NetworkPolicy{Deny: list("93.0.0.0/8:22")}, to: "93.1.1.1:23", want: ReasonAllowed},
		{what: "session lists beyond the server's", mode: "allowlist", allow: list("a.example"), session: &agentsandbox.NetworkPolicy{Mode: "allowlist", Allow: list("b.example")}, name: "b.example", to: "93.1.1.1:80", want: ReasonNotAllowed},
		{what: "session without a list", mode: "allowlist", allow: list("a.example"), session: &agentsandbox.NetworkPolicy{}, name: "a.example", to: "93.1.1.1:80", want: ReasonAllowed},
		{what: "opened counts as listed", mode: "allowlist", open: list("10.0.0.5"), to: "10.0.0.5:80", want: ReasonAllowed},
		{what: "session cannot open", mode: "public", session: &agentsandbox.NetworkPolicy{Mode: "allowlist", Allow: list("10.0.0.5")}, to: "10.0.0.5:80", want: ReasonRange},
		{what: "DNS elsewhere", mode: "public", to: "93.1.1.1:53", want: ReasonResolver},
		{what: "DNS elsewhere, opened without a port", mode: "public", open: list("93.1.1.1"), to: "93.1.1.1:53", want: ReasonResolver},
		{what: "DNS elsewhere, opened", mode: "public", open: list("93.1.1.1:53"), to: "93.1.1.1:53", want: ReasonAllowed},
		{what: "IPv6 range", mode: "allowlist", allow: list("[2a00::/16]:443"), to: "[2a00::1]:443", want: ReasonAllowed},
		{what: "IPv6 range, another port", mode: "allowlist", allow: list("[2a00::/16]:443"), to: "[2a00::1]:80", want: ReasonNotAllowed},
		{what: "metadata by a range", mode: "public", open: list("169.254.0.0/16"), to: "169.254.169.254:80", want: ReasonRange},
		{what: "metadata by itself", mode: "public", open: list("169.254.169.254"), to: "169.254.169.254:80", want: ReasonAllowed},
		{what: "loopback by a range", mode: "public", open: list("127.0.0.0/8"), to: "127.0.0.1:80", want: ReasonAllowed},
	} {
		t.Run(c.what, func(t *testing.T) {
			p := policyOf(t, serverOf(t, c.mode, c.allow, c.open, c.deny), c.session)
			to := netip.MustParseAddrPort(c.to)
			if v := p.connect(c.name, to, kindOf(to.Addr())); v.Reason != c.want || v.Allowed != (c.want == ReasonAllowed) || v.Rule == "" {
				t.Errorf("%+v, want %s", v, c.want)
			}
		})
	}
}

func TestNarrowRefusesWider(t *testing.T) {
	for _, c := range []struct{ server, session, want string }{
		{"off", "public", "network.mode"},
		{"off", "allowlist", "network.mode"},
		{"allowlist", "public", "network.mode"},
		{"public", "everything", "network.mode"},
	} {
		_, err := Narrow(Server{Mode: agentsandbox.NetworkMode(c.server)}, &agentsandbox.NetworkPolicy{Mode: agentsandbox.NetworkMode(c.session)})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s over %s: %v", c.session, c.server, err)
		}
	}
	template := &agentsandbox.NetworkPolicy{Mode: "off"}
	if _, err := Narrow(Server{Mode: "public"}, template, &agentsandbox.NetworkPolicy{Mode: "public"}); err == nil {
		t.Error("a session widened its template")
	}
	if p := policyOf(t, Server{Mode: "public"}, template, nil); p.Mode() != "off" {
		t.Errorf("mode %s", p.Mode())
	}
}

func TestServerErrorsNameTheEntry(t *testing.T) {
	for _, c := range []struct {
		mode              string
		allow, open, deny []string
		want              string
	}{
		{"some", nil, nil, nil, "egress_mode"},
		{"public", []string{"a.example"}, nil, nil, "egress_allow"},
		{"allowlist", []string{"a.example", "10.0.0.1/8"}, nil, nil, `egress_allow[1]: "10.0.0.1/8" has bits set below its length: write 10.0.0.0/8`},
		{"public", nil, []string{"fe80::1%eth0"}, nil, "egress_open[0]"},
		{"public", nil, nil, []string{"a.example:0"}, "egress_deny[0]"},
	} {
		if _, err := ParseServer(c.mode, c.allow, c.open, c.deny); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestKindOf(t *testing.T) {
	for _, c := range forbidden {
		to := netip.MustParseAddrPort(c.address).Addr().Unmap()
		if strings.HasPrefix(c.name, "own") || c.name == "NAT64 own" {
			continue
		}
		if k := kindOf(to); k.class == classPublic || k.name == "" {
			t.Errorf("%s %s counts as public", c.name, to)
		}
	}
	for _, public := range []string{
		"1.1.1.1", "8.8.8.8", "11.0.0.1", "100.63.255.255", "100.128.0.1", "126.255.255.255", "128.0.0.1", "169.253.0.1",
		"172.15.0.1", "172.32.0.1", "192.167.0.1", "192.169.0.1", "198.17.0.1", "198.20.0.1", "223.255.255.255",
		"2606:4700::1111", "2a00::1", "2001:4860:4860::8888", "64:ff9b::8.8.8.8", "2003::1",
	} {
		if k := kindOf(netip.MustParseAddr(public)); k.class != classPublic {
			t.Errorf("%s counts as %s", public, k.name)
		}
	}
}

func TestInner(t *testing.T) {
	for outer, want := range map[string]string{
		"64:ff9b::10.0.0.5":              "10.0.0.5",
		"64:ff9b:1:2::10.0.0.5":          "10.0.0.5",
		"2002:a00:5::1":                  "10.0.0.5",
		"2001:0:1:2:3:4:f5ff:fffa":       "10.0.0.5",
		"::10.0.0.5":                     "10.0.0.5",
		"::ffff:0:10.0.0.5":              "10.0.0.5",
		"2a00::5efe:10.0.0.5":            "10.0.0.5",
		"2a00::200:5efe:10.0.0.5":        "10.0.0.5",
		"2a00::1":                        "",
		"2a00:0:0:0:1200:5efe:a00:5":     "",
		"fe80::5efe:10.0.0.5":            "10.0.0.5",
		"2606:2800:220:1:248:1893:25c8:": "",
	} {
		a, err := netip.ParseAddr(outer)
		if err != nil {
			continue
		}
		in, ok := inner(a)
		if ok != (want != "") || ok && in.String() != want {
			t.Errorf("%s holds %s (%t), want %q", outer, in, ok, want)
		}
	}
}

func TestRegistered(t *testing.T) {
	for name, want := range map[string]string{
		"a.b.example.com":        "example.com",
		"example.com":            "example.com",
		"a.example.co.uk":        "example.co.uk",
		"me.github.io":           "github.io",
		"x.y.s3.amazonaws.com":   "amazonaws.com",
		"com":                    "com",
		"host":                   "host",
		"a.b.internal":           "b.internal",
		"files.pythonhosted.org": "pythonhosted.org",
	} {
		if got := registered(name); got != want {
			t.Errorf("%s is registered as %s, want %s", name, got, want)
		}
	}
}

func TestClassify(t *testing.T) {
	for first, want := range map[string]string{
		"":                               "tcp undecided",
		"\x16":                           "tls",
		"G":                              "tcp undecided",
		"GET ":                           "http",
		"get\t":                          "http",
		"\r\n\r\n":                       "tcp undecided",
		"\r\nGET / HTTP/1.1":             "http",
		"BREW / HTTP/1.1":                "http",
		"BREW / ":                        "tcp undecided",
		"BREW / http/":                   "http",
		"EHLO me\r\n":                    "tcp",
		"SSH-2.0-x\r\n":                  "tcp",
		"PRI * HTTP/2.0\r\n":             "h2c",
		"\x00\x00":                       "tcp",
		"abc\x00":                        "tcp",
		"abc\x80":                        "tcp",
		"GET\x0b/\x0bHTTP/1.1":           "http",
		"\xa0GET\xa0/":                   "http",
		"\x1cBREW\x85/":                  "tcp undecided",
		"\x1cBREW\x85/\x85HTTP/1.1":      "http",
		"BREW /\x01\x02":                 "tcp undecided",
		"PRI":                            "tcp undecided",
		"PRI\t":                          "h2c",
		"*1\r\n$4\r\nPING\r\n":           "tcp",
		"GETS key\r\n":                   "tcp",
		"\r\n \r\nBREW / HTTP/1.1\r\n":   "http",
		strings.Repeat("a", 40):          "tcp undecided",
		"a b" + strings.Repeat("a", 100): "tcp undecided",
		strings.Repeat("a b", maxFirst):  "tcp undecided",
	} {
		kind, decided := classify([]byte(first), true)
		if !decided {
			kind += " undecided"
		}
		if kind != want {
			t.Errorf("%q is %s, want %s", first, kind, want)
		}
	}
	if kind, decided := classify([]byte("GET / HTTP/1.1"), false); kind != "tcp" || !decided {
		t.Error("where names do not matter, HTTP was looked at")
	}
}

func TestParseResolv(t *testing.T) {
	got := parseResolv("# a comment\nsearch corp.example\nnameserver 10.0.0.53\nnameserver fe80::1%eth0\nnameserver nonsense\nnameserver\noptions ndots:5\n")
	if len(got) != 2 || got[0].String() != "10.0.0.53:53" || got[1].String() != "[fe80::1%eth0]:53" {
		t.Errorf("%v", got)
	}
}

func TestTemplates(t *testing.T) {
	for _, bad := range [][]string{
		{"narrow"}, {"=off"}, {"other=off"}, {"narrow=public"}, {"narrow=allow"}, {"narrow=allow:"}, {"narrow=deny:"}, {"narrow=off:x"},
		{"narrow=allow:*bad"}, {"narrow=off", "narrow=allow:a.example"}, {"narrow=allow:a.example", "narrow=off"},
	} {
		if _, err := ParseTemplates(bad, "narrow"); agentsandbox.CodeOf(err) != agentsandbox.CodeInvalidRequest || !strings.Contains(err.Error(), "egress_template") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	templates, err := ParseTemplates([]string{"narrow=allow:*.example", "narrow=allow:[2a00::/16]:443", "narrow=deny:b.example", "closed=off", "closed=deny:x.example"}, "narrow", "closed")
	must(t, err)
	narrowed, err := serverOf(t, "public", nil, nil, nil).Narrowed(templates["narrow"])
	must(t, err)
	session := &agentsandbox.NetworkPolicy{Mode: "allowlist", Allow: []string{"a.example", "b.example"}}
	for _, c := range []struct {
		session  *agentsandbox.NetworkPolicy
		name, to string
		want     Reason
		rule     string
	}{
		{nil, "a.example", "93.1.1.1:443", ReasonAllowed, "template allow *.example"},
		{nil, "", "[2a00::1]:443", ReasonAllowed, "template allow"},
		{nil, "a.other", "93.1.1.1:443", ReasonNotAllowed, "of the template"},
		{nil, "b.example", "93.1.1.1:443", ReasonDenied, "template deny b.example"},
		{session, "a.example", "93.1.1.1:443", ReasonAllowed, "session allow a.example"},
		{session, "c.example", "93.1.1.1:443", ReasonNotAllowed, "of the session"},
		{&agentsandbox.NetworkPolicy{Deny: []string{"a.example"}}, "a.example", "93.1.1.1:443", ReasonDenied, "session deny"},
	} {
		to := netip.MustParseAddrPort(c.to)
		if v := policyOf(t, narrowed, c.session).connect(c.name, to, kindOf(to.Addr())); v.Reason != c.want || !strings.Contains(v.Rule, c.rule) {
			t.Errorf("%s %s: %+v, want %s by %s", c.name, c.to, v, c.want, c.rule)
		}
	}
}
