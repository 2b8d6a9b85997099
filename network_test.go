package agentsandbox_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/agentsandbox/agentsandbox"
)

func TestParseNetworkTarget(t *testing.T) {
	for _, c := range []struct{ entry, name, prefix, ports string }{
		{"example.org", "example.org", "", "0-0"},
		{"Example.ORG.", "example.org", "", "0-0"},
		{"*.example.org", "*.example.org", "", "0-0"},
		{"example.org:443", "example.org", "", "443-443"},
		{"*.example.org:8000-8099", "*.example.org", "", "8000-8099"},
		{"_dmarc.example.org", "_dmarc.example.org", "", "0-0"},
		{"203.0.113.7", "", "203.0.113.7/32", "0-0"},
		{"203.0.113.0/24:443", "", "203.0.113.0/24", "443-443"},
		{"::ffff:10.0.0.1", "", "10.0.0.1/32", "0-0"},
		{"::ffff:10.0.0.0/104", "", "10.0.0.0/8", "0-0"},
		{"2001:db8::1", "", "2001:db8::1/128", "0-0"},
		{"2001:db8::/32", "", "2001:db8::/32", "0-0"},
		{"[2001:db8::1]:443", "", "2001:db8::1/128", "443-443"},
		{"[2001:db8::/32]:1-65535", "", "2001:db8::/32", "1-65535"},
		{"[2001:db8::1]", "", "2001:db8::1/128", "0-0"},
	} {
		got, err := agentsandbox.ParseNetworkTarget(c.entry)
		if err != nil {
			t.Errorf("%s: %v", c.entry, err)
			continue
		}
		name := got.Name
		if got.Below {
			name = "*." + name
		}
		prefix := ""
		if got.Prefix.IsValid() {
			prefix = got.Prefix.String()
		}
		if ports := fmt.Sprintf("%d-%d", got.FirstPort, got.LastPort); name != c.name || prefix != c.prefix || ports != c.ports || got.String() != c.entry {
			t.Errorf("%s: %s %s %s", c.entry, name, prefix, ports)
		}
	}
	for _, entry := range []string{
		"", ".", "*", "*.", "a..b", ".a", "-a.example", "a-.example", "a b", "a/b", "ex*mple.org", "a.*.org", "*example.org", "münchen.example",
		"http://example.org", "example.org/path", "user@example.org", "example.org:", "example.org:0", "example.org:65536", "example.org:http",
		"example.org:90-80", "example.org:-1", "10.0.0.1/8", "10.0.0.0/33", "10.0.0", "127.1", "0x7f.0x1", "2130706433", "fe80::1%eth0", "[::1", "[::1]443",
		"[example.org]:443", "2001:db8::1:zz", "::ffff:0:0/95", strings.Repeat("a", 64) + ".example", strings.Repeat("a.", 127) + "aa", "a\x00b", "a\nb",
	} {
		if got, err := agentsandbox.ParseNetworkTarget(entry); err == nil {
			t.Errorf("%q was taken as %+v", entry, got)
		} else if !strings.Contains(err.Error(), fmt.Sprintf("%q", entry)) {
			t.Errorf("%q: the error does not name it: %v", entry, err)
		}
	}
	for _, entry := range []string{"http://example.org", "https://example.org:443/path", "tcp://203.0.113.7"} {
		if _, err := agentsandbox.ParseNetworkTarget(entry); err == nil || !strings.Contains(err.Error(), "is a URL: write the host") {
			t.Errorf("%q: %v", entry, err)
		}
	}
}

func TestNetworkTargetMatches(t *testing.T) {
	for _, c := range []struct {
		entry, name, addr string
		port              uint16
		want              bool
	}{
		{"example.org", "example.org", "", 1, true},
		{"example.org", "a.example.org", "", 1, false},
		{"*.example.org", "a.example.org", "", 1, true},
		{"*.example.org", "a.b.example.org", "", 1, true},
		{"*.example.org", "example.org", "", 1, false},
		{"*.example.org", "badexample.org", "", 1, false},
		{"*.example.org", ".example.org", "", 1, false},
		{"example.org:80", "example.org", "", 81, false},
		{"10.0.0.0/8", "", "10.1.2.3", 1, true},
		{"10.0.0.0/8", "", "::ffff:10.1.2.3", 1, true},
		{"10.0.0.0/8", "", "11.0.0.0", 1, false},
		{"10.0.0.0/8", "10.0.0.1", "", 1, false},
		{"0.0.0.0/0", "", "::1", 1, false},
		{"::/0", "", "1.2.3.4", 1, false},
	} {
		target, err := agentsandbox.ParseNetworkTarget(c.entry)
		if err != nil {
			t.Fatal(err)
		}
		var addr netip.Addr
		if c.addr != "" {
			addr = netip.MustParseAddr(c.addr)
		}
		if got := target.Port(c.port) && (target.MatchName(c.name) || target.MatchAddress(addr)); got != c.want {
			t.Errorf("%+v: %t", c, got)
		}
	}
}

func TestNetworkPolicyValidate(t *testing.T) {
	for want, p := range map[string]agentsandbox.NetworkPolicy{
		"":                {Mode: "allowlist", Allow: []string{"a.example"}, Deny: []string{"b.example"}},
		"network.mode":    {Mode: "on"},
		"network.allow":   {Mode: "public", Allow: []string{"a.example"}},
		"network.deny[1]": {Mode: "public", Deny: []string{"a.example", "b..example"}},
		"at most":         {Mode: "allowlist", Allow: make([]string, agentsandbox.MaxNetworkTargets+1)},
	} {
		err := p.Validate()
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
}

func TestSecretValueIsNeverShown(t *testing.T) {
	var s agentsandbox.Secret
	if err := json.Unmarshal([]byte(`{"name":"TOKEN","value":"hidden","hosts":["a.example"]}`), &s); err != nil {
		t.Fatal(err)
	}
	if s.Value.Reveal() != "hidden" {
		t.Error("the value was not read")
	}
	text, err := json.Marshal(map[string]any{"s": s, "p": &s})
	if err != nil {
		t.Fatal(err)
	}
	shown := string(text) + fmt.Sprintf("%v %+v %#v %s %q", s, &s, s, s.Value, s.Value) + s.Value.LogValue().String()
	if strings.Contains(shown, "hidden") || !strings.Contains(shown, "[redacted]") {
		t.Error(shown)
	}
}

func TestValidateSecrets(t *testing.T) {
	value := agentsandbox.NewSecretValue
	for want, s := range map[string]agentsandbox.Secret{
		"":                     {Name: "A", Value: value("v"), Hosts: []string{"*.a.example:443"}, Header: "Authorization: Bearer"},
		"name":                 {Name: "A-B", Value: value("v"), Hosts: []string{"a.example"}},
		"secrets.A.value":      {Name: "A", Hosts: []string{"a.example"}},
		"control character":    {Name: "A", Value: value("v\r\nHost: b"), Hosts: []string{"a.example"}},
		"secrets.A.hosts must": {Name: "A", Value: value("v")},
		"is an address":        {Name: "A", Value: value("v"), Hosts: []string{"10.0.0.1"}},
		"secrets.A.hosts[0]":   {Name: "A", Value: value("v"), Hosts: []string{"a..b"}},
		"secrets.A.header":     {Name: "A", Value: value("v"), Hosts: []string{"a.example"}, Header: "Host"},
	} {
		err := agentsandbox.ValidateSecrets([]agentsandbox.Secret{s})
		if (want == "") != (err == nil) || err != nil && !strings.Contains(strings.Replace(err.Error(), ": must", " must", 1), want) {
			t.Errorf("want %q: %v", want, err)
		}
		if err != nil && strings.Contains(err.Error(), "Host: b") {
			t.Errorf("the error shows the value: %v", err)
		}
	}
}
