package hostcheck

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/agentsandbox/agentsandbox/internal/roottest"
)

func TestHostOfTheTests(t *testing.T) {
	dir := t.TempDir()
	findings := Check(context.Background(), Options{CacheDir: dir, StateDir: filepath.Join(dir, "not", "made", "yet")})
	seen := map[string]bool{}
	for _, f := range findings {
		if f.Name == "" || f.Detail == "" {
			t.Errorf("a finding says nothing: %+v", f)
		}
		if seen[f.Name] {
			t.Errorf("two findings are called %q", f.Name)
		}
		seen[f.Name] = true
		if f.Required && !f.OK && f.Remedy == "" {
			t.Errorf("%s is missing and has no remedy: %s", f.Name, f.Detail)
		}
	}
	// Tests of this project run where sandboxes run.
	roottest.Need(t, "looks at a host that sandboxes run on")
	for _, f := range Missing(findings) {
		t.Errorf("%s: %s (%s)", f.Name, f.Detail, f.Remedy)
	}
	left, err := filepath.Glob("/sys/fs/cgroup/*/agentsandbox-check-*")
	if err != nil || len(left) > 0 {
		t.Errorf("control groups are left: %v %v", left, err)
	}
}

func TestMissing(t *testing.T) {
	got := Missing([]Finding{{Name: "a", OK: true, Required: true}, {Name: "b", Required: true}, {Name: "c"}})
	if len(got) != 1 || got[0].Name != "b" {
		t.Fatalf("got %+v", got)
	}
}

func TestFindings(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	tests := []struct {
		name    string
		finding Finding
		ok      bool
		says    string // in detail or remedy
	}{
		{"root", userID(0), true, "user 0"},
		{"not root", userID(1000), false, "run as root"},
		{"seccomp", seccomp(file("a", "kill_process kill_thread trap errno allow\n")), true, "trap"},
		{"seccomp without trap", seccomp(file("b", "kill_process allow\n")), false, "CONFIG_SECCOMP_FILTER"},
		{"no seccomp", seccomp(filepath.Join(dir, "none")), false, "CONFIG_SECCOMP_FILTER"},
		{"no Yama", ptrace(filepath.Join(dir, "none")), true, "may trace"},
		{"Yama", ptrace(file("y1", "1\n")), true, "is 1"},
		{"strict Yama", ptrace(file("y2", "2\n")), false, "ptrace_scope to 1"},
		{"memory", memory(file("c", "MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\n")), true, "8.0 GiB"},
		{"little memory", memory(file("d", "MemTotal: 524288 kB\nMemAvailable: 1024 kB\n")), false, "at least"},
		{"odd memory", memory(file("e", "nonsense")), false, "at least"},
		{"no KVM", kvm(filepath.Join(dir, "kvm")), true, "systrap"},
		{"false KVM", kvm(file("kvm-file", "")), true, "no hardware virtualisation"},
		{"RCU", rcu(file("f", "0\n")), true, "administrator"},
		{"expedited RCU", rcu(file("g", "1\n")), true, "is 1"},
		{"room", room("cache directory", dir, 1), true, "free"},
		{"no room", room("cache directory", dir, 1<<62), false, "make room"},
		{"no directory", room("cache directory", "", 1), false, "not set"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.finding.OK != tt.ok {
				t.Errorf("ok is %v: %+v", tt.finding.OK, tt.finding)
			}
			if text := tt.finding.Detail + " " + tt.finding.Remedy; !strings.Contains(text, tt.says) {
				t.Errorf("%q does not say %q", text, tt.says)
			}
		})
	}
}

func TestAtLeast(t *testing.T) {
	for release, want := range map[string]bool{
		"5.11.0-28-amd64": true, "6.1.0": true, "5.10.16": false, "4.19": false, "5": false, "": false, "10.0-rc1": true,
	} {
		if got := atLeast(release, 5, 11); got != want {
			t.Errorf("atLeast(%q) is %v", release, got)
		}
	}
}
