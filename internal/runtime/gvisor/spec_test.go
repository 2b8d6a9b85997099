package gvisor

import (
	"encoding/json"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/agentsandbox/agentsandbox/internal/guest"
)

func TestRules(t *testing.T) {
	params := specParams{ImagePath: "/cache/image.erofs", DiskBytes: 12345}
	tests := []struct {
		rule  string
		check func(t *testing.T, s *specs.Spec)
	}{
		{"root file system", func(t *testing.T, s *specs.Spec) {
			want := map[string]string{
				"dev.gvisor.spec.rootfs.source":  "/cache/image.erofs",
				"dev.gvisor.spec.rootfs.type":    "erofs",
				"dev.gvisor.spec.rootfs.overlay": "memory",
				"dev.gvisor.spec.rootfs.options": "size=12345",
			}
			if !reflect.DeepEqual(s.Annotations, want) {
				t.Errorf("annotations %v", s.Annotations)
			}
		}},
		{"namespaces", func(t *testing.T, s *specs.Spec) {
			for _, want := range []specs.LinuxNamespaceType{specs.PIDNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.MountNamespace} {
				if !slices.Contains(s.Linux.Namespaces, specs.LinuxNamespace{Type: want}) {
					t.Errorf("no new %s namespace", want)
				}
			}
		}},
		{"mounts", func(t *testing.T, s *specs.Spec) {
			options := map[string][]string{}
			for _, m := range s.Mounts {
				if m.Type == "bind" || m.Source != "" {
					t.Errorf("%s comes from the host: %+v", m.Destination, m)
				}
				if !slices.Contains(m.Options, "nosuid") {
					t.Errorf("%s honours set-user-ID bits", m.Destination)
				}
				options[m.Destination] = m.Options
			}
			if !slices.Contains(options["/sys"], "ro") {
				t.Error("/sys can be written")
			}
			if !slices.ContainsFunc(options["/dev/shm"], func(o string) bool { return strings.HasPrefix(o, "size=") }) {
				t.Error("/dev/shm has no bound")
			}
			if _, ok := options["/tmp"]; ok {
				t.Error("/tmp is outside the quota of the root file system")
			}
		}},
		{"agent", func(t *testing.T, s *specs.Spec) {
			if !slices.Equal(s.Process.Args, []string{guest.AgentPath}) || s.Process.User.UID != 0 || s.Process.Terminal {
				t.Errorf("process %+v", s.Process)
			}
			for _, v := range s.Process.Env {
				if !strings.HasPrefix(v, "PATH=") {
					t.Errorf("the agent's environment has %s", v)
				}
			}
		}},
		{"capabilities", func(t *testing.T, s *specs.Spec) {
			c := s.Process.Capabilities
			if len(c.Inheritable) > 0 || len(c.Ambient) > 0 {
				t.Errorf("capabilities outlive the agent: %+v", c)
			}
			for _, forbidden := range []string{"CAP_NET_RAW", "CAP_NET_ADMIN", "CAP_SYS_MODULE", "CAP_SYS_PTRACE", "CAP_MKNOD", "CAP_SYS_CHROOT"} {
				if slices.Contains(c.Bounding, forbidden) {
					t.Errorf("the agent has %s, which it does not need", forbidden)
				}
			}
			for _, c := range agentCapabilities {
				if c.why == "" {
					t.Errorf("%s has no reason", c.name)
				}
			}
		}},
		{"no new privileges", func(t *testing.T, s *specs.Spec) {
			if !s.Process.NoNewPrivileges {
				t.Error("programs can gain privileges")
			}
		}},
		{"resource limits", func(t *testing.T, s *specs.Spec) {
			want := map[string]uint64{"RLIMIT_NPROC": 256, "RLIMIT_NOFILE": 16384, "RLIMIT_CORE": 0, "RLIMIT_AS": math.MaxUint64, "RLIMIT_DATA": 512 << 30, "RLIMIT_MEMLOCK": 64 << 10, "RLIMIT_FSIZE": math.MaxUint64}
			got := map[string]uint64{}
			for _, l := range s.Process.Rlimits {
				if l.Soft != l.Hard {
					t.Errorf("%s can be raised", l.Type)
				}
				got[l.Type] = l.Hard
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("limits %v", got)
			}
		}},
		{"out of memory", func(t *testing.T, s *specs.Spec) {
			if s.Process.OOMScoreAdj == nil || *s.Process.OOMScoreAdj != 1000 {
				t.Error("the kernel does not kill a sandbox first")
			}
		}},
		{"host name", func(t *testing.T, s *specs.Spec) {
			if s.Hostname != "sandbox" {
				t.Errorf("host name %q", s.Hostname)
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.rule, func(t *testing.T) {
			i := slices.IndexFunc(rules(), func(r rule) bool { return r.name == tt.rule })
			if i < 0 {
				t.Fatal("there is no such rule")
			}
			// Each rule stands alone.
			s := &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{}}
			rules()[i].apply(s, params)
			tt.check(t, s)
			whole, err := newSpec(params)
			if err != nil {
				t.Fatal(err)
			}
			tt.check(t, whole)
		})
	}
	if len(tests) != len(rules()) {
		t.Errorf("%d rules, %d of them tested", len(rules()), len(tests))
	}
}

func TestSpecIsTheSameEveryTime(t *testing.T) {
	p := specParams{ImagePath: "/i", DiskBytes: 1}
	var texts [2]string
	for i := range texts {
		s, err := newSpec(p)
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		texts[i] = string(b)
	}
	if texts[0] != texts[1] {
		t.Error("two specs of the same parameters differ: a snapshot would not fit")
	}
}

func TestSpecRefusesNonsense(t *testing.T) {
	for _, p := range []specParams{{ImagePath: "relative", DiskBytes: 1}, {DiskBytes: 1}, {ImagePath: "/i"}, {ImagePath: "/i", DiskBytes: -1}} {
		if _, err := newSpec(p); err == nil {
			t.Errorf("%+v was taken", p)
		}
	}
}

func TestProtections(t *testing.T) {
	for _, p := range Protections(PlatformSystrap) {
		if p.Name == "" || p.Detail == "" {
			t.Errorf("a protection says nothing: %+v", p)
		}
	}
	if len(Protections(PlatformSystrap)) <= len(rules()) {
		t.Error("only the spec's rules are listed")
	}
}
