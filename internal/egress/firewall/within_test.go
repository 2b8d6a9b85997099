package firewall

import (
	"strings"
	"testing"

	"github.com/agentsandbox/agentsandbox"
)

func TestRequestsCanOnlyNarrow(t *testing.T) {
	public, err := ParseServer("public", nil, []string{"mirror.example:443", "10.1.0.0/16"}, []string{"*.evil.example", "203.0.113.0/24:25"})
	if err != nil {
		t.Fatal(err)
	}
	listed, err := ParseServer("allowlist", []string{"*.example.org:443", "198.51.100.0/24"}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		server Server
		allow  string
		want   string // part of the refusal; "": none
	}{
		{public, "example.org", ""},
		{public, "*.example.org:443", ""},
		{public, "mirror.example", ""},
		{public, "a.evil.example", "is denied on this server, by *.evil.example"},
		{public, "*.evil.example", "is denied"},
		{public, "evil.example", ""},
		{public, "203.0.113.7:25", "is denied"},
		{public, "0.0.0.0/0", ""},
		{public, "::/0", ""},
		{public, "10.1.2.3", ""},
		{public, "127.0.0.1", "is a loopback address"},
		{public, "169.254.169.254", "is a cloud metadata address"},
		{listed, "a.example.org:443", ""},
		{listed, "*.example.org:443", ""},
		{listed, "*.b.example.org:443", ""},
		{listed, "a.example.org", "is more than this server allows"},
		{listed, "example.org:443", "is more than this server allows"},
		{listed, "198.51.100.7:80", "is a documentation address"},
		{listed, "198.51.0.0/16", "is more than this server allows"},
	} {
		err := test.server.Check(&agentsandbox.NetworkPolicy{Mode: agentsandbox.NetworkAllowlist, Allow: []string{"first.example.org:443", test.allow}})
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s %s: %v", test.server.Mode, test.allow, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "network.allow[1]")):
			t.Errorf("%s %s: %v, want %q about network.allow[1]", test.server.Mode, test.allow, err, test.want)
		}
	}
	if err := listed.Check(&agentsandbox.NetworkPolicy{Mode: agentsandbox.NetworkPublic}); err == nil {
		t.Error("a wider mode passes")
	}
	if err := listed.Check(nil); err != nil {
		t.Error(err)
	}
}
