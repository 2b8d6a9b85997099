package border

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/egress/firewall"
)

func newBorder(t *testing.T, mode string, allow, open []string, templates ...string) *Border {
	t.Helper()
	narrowed, err := firewall.ParseTemplates(templates, "narrow", "none")
	if err != nil {
		t.Fatal(err)
	}
	server, err := firewall.ParseServer(mode, allow, open, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := New(Options{Server: server, Templates: narrowed, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// mode is what is in force in the gate of a sandbox.
func mode(b *Border, id string) agentsandbox.NetworkMode { return b.gate(id).Policy().Mode() }

func TestASandboxReachesNothingUntilItsPolicyIsApplied(t *testing.T) {
	b := newBorder(t, "public", nil, nil)
	link, err := b.Network().Connect("a")
	if err != nil {
		t.Fatal(err)
	}
	if !b.HasDevice("a") || mode(b, "a") != agentsandbox.NetworkOff {
		t.Error("a fresh sandbox has a policy")
	}
	if err := b.Apply("a", "", nil, nil); err != nil || mode(b, "a") != agentsandbox.NetworkPublic {
		t.Error(err)
	}
	if err := b.Apply("a", "", &agentsandbox.NetworkPolicy{Mode: agentsandbox.NetworkOff}, nil); err != nil || mode(b, "a") != agentsandbox.NetworkOff {
		t.Error(err)
	}
	if r := b.Report("a"); !r.Device || len(r.Log) != 0 {
		t.Errorf("%+v", r)
	}
	if err := link.Close(); err != nil || b.HasDevice("a") || b.Report("a").Device {
		t.Error("a closed link leaves its gate behind", err)
	}
}

func TestASandboxWithoutADeviceIsOff(t *testing.T) {
	b := newBorder(t, "public", nil, nil)
	if err := b.Apply("a", "", nil, nil); !errors.Is(err, ErrNoDevice) {
		t.Error(err)
	}
	if err := b.Apply("a", "", &agentsandbox.NetworkPolicy{Mode: agentsandbox.NetworkOff}, nil); err != nil {
		t.Error(err)
	}
	if _, err := b.Dial(t.Context(), "a", 80); !errors.Is(err, ErrNoDevice) {
		t.Error(err)
	}
}

// What an earlier server with wider settings allowed is not allowed by this one.
func TestAPolicyThatIsTooWideReachesNothing(t *testing.T) {
	b := newBorder(t, "allowlist", []string{"*.example.org:443"}, []string{"10.0.0.0/8"})
	if _, err := b.Network().Connect("a"); err != nil {
		t.Fatal(err)
	}
	if err := b.Apply("a", "", nil, nil); err != nil || mode(b, "a") != agentsandbox.NetworkAllowlist {
		t.Fatal(err)
	}
	if err := b.Apply("a", "", &agentsandbox.NetworkPolicy{Mode: agentsandbox.NetworkPublic}, nil); agentsandbox.CodeOf(err) != agentsandbox.CodeInvalidRequest {
		t.Error(err)
	}
	if mode(b, "a") != agentsandbox.NetworkOff {
		t.Error("the policy from before is in force after an error")
	}
	if p := b.Server(""); p.Mode != agentsandbox.NetworkAllowlist || len(p.Allow) != 2 || p.Allow[1] != "10.0.0.0/8" {
		t.Errorf("%+v", p)
	}
	if err := b.Check("", &agentsandbox.NetworkPolicy{Mode: agentsandbox.NetworkAllowlist, Allow: []string{"example.com"}}); agentsandbox.CodeOf(err) != agentsandbox.CodeInvalidRequest {
		t.Error(err)
	}
}

func TestATemplateNarrowsWhatItsSandboxesReach(t *testing.T) {
	b := newBorder(t, "public", nil, nil, "narrow=allow:*.example.org", "narrow=deny:x.example.org", "none=off")
	if _, err := b.Network().Connect("a"); err != nil {
		t.Fatal(err)
	}
	for template, want := range map[string]agentsandbox.NetworkMode{"": "public", "another": "public", "narrow": "allowlist", "none": "off"} {
		if err := b.Apply("a", template, nil, nil); err != nil || mode(b, "a") != want || b.Server(template).Mode != want {
			t.Errorf("%q: %s, %s, %v", template, mode(b, "a"), b.Server(template).Mode, err)
		}
	}
	if p := b.Server("narrow"); len(p.Allow) != 1 || p.Allow[0] != "*.example.org" {
		t.Errorf("%+v", p)
	}
	listing := func(entries ...string) *agentsandbox.NetworkPolicy {
		return &agentsandbox.NetworkPolicy{Mode: agentsandbox.NetworkAllowlist, Allow: entries}
	}
	for _, p := range []*agentsandbox.NetworkPolicy{{Mode: agentsandbox.NetworkPublic}, listing("example.com"), listing("example.org"), listing("x.example.org")} {
		if err := b.Check("narrow", p); agentsandbox.CodeOf(err) != agentsandbox.CodeInvalidRequest {
			t.Errorf("%+v is allowed: %v", p, err)
		}
		if err := b.Check("another", p); err != nil {
			t.Errorf("%+v: %v", p, err)
		}
	}
	if err := b.Check("narrow", listing("a.example.org:443")); err != nil {
		t.Error(err)
	}
	if err := b.Check("none", listing()); agentsandbox.CodeOf(err) != agentsandbox.CodeInvalidRequest {
		t.Error(err)
	}
}

func TestATemplateCannotWiden(t *testing.T) {
	server, err := firewall.ParseServer("allowlist", []string{"example.org"}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range []string{"narrow=allow:example.com", "narrow=allow:10.0.0.1"} {
		templates, err := firewall.ParseTemplates([]string{entry}, "narrow")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := New(Options{Server: server, Templates: templates, Logger: slog.New(slog.DiscardHandler)}); agentsandbox.CodeOf(err) != agentsandbox.CodeInvalidRequest {
			t.Errorf("%s: %v", entry, err)
		}
	}
}
