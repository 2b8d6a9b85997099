package cgroup

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox/internal/roottest"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

func TestDetect(t *testing.T) {
	all, some := t.TempDir(), t.TempDir()
	writeFile(t, all, "cgroup.controllers", "cpuset cpu io memory hugetlb pids rdma\n")
	writeFile(t, some, "cgroup.controllers", "cpu pids\n")
	v1 := func(controllers, dir string) string {
		return fmt.Sprintf("32 31 0:29 / %s rw,relatime - cgroup cgroup rw,%s\n", dir, controllers)
	}
	v2 := func(dir string) string {
		return fmt.Sprintf("41 31 0:38 / %s rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n", dir)
	}
	separate := v1("cpu", "/c/cpu") + v1("cpuacct", "/c/acct") + v1("memory", "/c/mem") + v1("pids", "/c/pids")
	tests := []struct {
		name, mounts string
		version      int
		dirs         map[string]string
		err          string
	}{
		{name: "unified", mounts: "22 1 254:1 / / rw - ext4 /dev/vda rw\n" + v2(all), version: 2, dirs: map[string]string{Unified: all}},
		{name: "separate hierarchies", mounts: separate, version: 1, dirs: map[string]string{"cpu": "/c/cpu", "cpuacct": "/c/acct", "memory": "/c/mem", "pids": "/c/pids"}},
		{name: "two controllers in one hierarchy", mounts: v1("cpu,cpuacct", "/c/both") + v1("memory", "/c/mem") + v1("pids", "/c/pids"), version: 1, dirs: map[string]string{"cpu,cpuacct": "/c/both", "memory": "/c/mem", "pids": "/c/pids"}},
		{name: "hybrid, controllers in version 1", mounts: separate + v2(some), version: 1, dirs: map[string]string{"cpu": "/c/cpu", "cpuacct": "/c/acct", "memory": "/c/mem", "pids": "/c/pids"}},
		{name: "hybrid, controllers in version 2", mounts: v1("name=systemd", "/c/systemd") + v2(all), version: 2, dirs: map[string]string{Unified: all}},
		{name: "white space in a path", mounts: v1("cpu", `/c\040c`) + v1("cpuacct", "/a") + v1("memory", "/m") + v1("pids", "/p"), version: 1, dirs: map[string]string{"cpu": "/c c", "cpuacct": "/a", "memory": "/m", "pids": "/p"}},
		{name: "none", mounts: "22 1 254:1 / / rw - ext4 /dev/vda rw\n", err: "none are mounted"},
		{name: "a controller is missing", mounts: v1("cpu,cpuacct", "/c/both") + v1("memory", "/c/mem"), err: "pids"},
		{name: "not delegated", mounts: v2(some), err: "memory"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, err := Detect(strings.NewReader(tt.mounts))
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v does not say %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if h.Version != tt.version || !maps.Equal(h.Dirs, tt.dirs) {
				t.Errorf("got %+v", h)
			}
		})
	}
}

// fakeGroup makes a parent and a group in a directory tree that looks like the
// kernel's, with files that keep what is written to them.
func fakeGroup(t *testing.T, version int, files map[string]string) (*Group, string) {
	t.Helper()
	_, g, top := fakeParent(t, version, files)
	return g, top
}

func fakeParent(t *testing.T, version int, files map[string]string) (*Parent, *Group, string) {
	t.Helper()
	top := t.TempDir()
	host := Host{Version: version, Dirs: map[string]string{}}
	switch version {
	case 1:
		for _, c := range neededV1 {
			host.Dirs[c] = filepath.Join(top, c)
		}
	case 2:
		host.Dirs[Unified] = top
		writeFile(t, top, "cgroup.subtree_control", "cpu memory pids")
		writeFile(t, filepath.Join(top, "parent"), "cgroup.subtree_control", "")
	}
	for _, dir := range host.Dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	parent, err := host.Open("parent")
	if err != nil {
		t.Fatal(err)
	}
	g, err := parent.Group("one")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Create(); err != nil {
		t.Fatal(err)
	}
	for path, content := range files {
		dir := g.dirs[Unified]
		if version == 1 {
			controller, _, _ := strings.Cut(path, ".")
			if strings.HasPrefix(path, "cpuacct") {
				controller = "cpuacct"
			}
			dir = g.dirs[controller]
		}
		writeFile(t, dir, path, content)
	}
	return parent, g, top
}

var (
	filesV1 = map[string]string{
		"memory.limit_in_bytes": "9223372036854771712\n", "memory.memsw.limit_in_bytes": "9223372036854771712\n",
		"memory.usage_in_bytes": "1048576\n", "memory.max_usage_in_bytes": "2097152\n",
		"memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
		"cpu.cfs_quota_us":   "-1\n", "cpu.cfs_period_us": "100000\n", "cpuacct.usage": "1500000000\n", "pids.max": "max\n", "pids.events": "max 7\n",
	}
	filesV2 = map[string]string{
		"memory.max": "max\n", "memory.swap.max": "max\n", "memory.oom.group": "0\n", "memory.current": "1048576\n",
		"memory.peak": "2097152\n", "memory.events": "low 0\nhigh 0\nmax 5\noom 4\noom_kill 3\n",
		"cpu.max": "max 100000\n", "cpu.stat": "usage_usec 1500000\nuser_usec 1\n", "pids.max": "max\n", "pids.events": "max 7\n",
	}
)

func TestLimitsOnBothVersions(t *testing.T) {
	limits := runtime.Limits{MemoryBytes: 256 << 20, MilliCPUs: 1500, Tasks: 77}
	want := map[int]map[string]string{
		1: {"memory/memory.limit_in_bytes": "268435456", "memory/memory.memsw.limit_in_bytes": "268435456", "cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000", "pids/pids.max": "77"},
		2: {"memory.max": "268435456", "memory.swap.max": "0", "memory.oom.group": "1", "cpu.max": "150000 100000", "pids.max": "77"},
	}
	unlimited := map[int]map[string]string{
		1: {"memory/memory.limit_in_bytes": "-1", "memory/memory.memsw.limit_in_bytes": "-1", "cpu/cpu.cfs_quota_us": "-1", "pids/pids.max": "max"},
		2: {"memory.max": "max", "cpu.max": "max 100000", "pids.max": "max"},
	}
	for version, files := range map[int]map[string]string{1: filesV1, 2: filesV2} {
		t.Run(fmt.Sprintf("version %d", version), func(t *testing.T) {
			g, top := fakeGroup(t, version, files)
			at := func(file string) string {
				if version == 1 {
					controller, name := filepath.Split(file)
					return filepath.Join(top, controller, "parent", "one", name)
				}
				return filepath.Join(top, "parent", "one", file)
			}
			for _, step := range []struct {
				limits runtime.Limits
				want   map[string]string
			}{{limits, want[version]}, {runtime.Limits{}, unlimited[version]}} {
				if err := g.SetLimits(step.limits); err != nil {
					t.Fatal(err)
				}
				for file, value := range step.want {
					if got := readFile(t, at(file)); got != value {
						t.Errorf("%s is %q, want %q", file, got, value)
					}
				}
			}
			u, err := g.Usage()
			if err != nil {
				t.Fatal(err)
			}
			if (u != runtime.Usage{MemoryBytes: 1 << 20, MemoryPeakBytes: 2 << 20, CPU: 1500 * time.Millisecond, OOMKills: 3}) {
				t.Errorf("usage is %+v", u)
			}
			if n, err := g.Refused(); err != nil || n != 7 {
				t.Errorf("%d tasks were refused, %v", n, err)
			}
			if err := g.SetLimits(runtime.Limits{Tasks: -1}); err == nil {
				t.Error("a negative limit was taken")
			}
		})
	}
}

// A limit that cannot be installed must be refused, with the name of its file.
func TestMissingLimitIsRefused(t *testing.T) {
	for version, files := range map[int]map[string]string{1: filesV1, 2: filesV2} {
		for _, file := range []string{"pids.max", "cpu.cfs_quota_us", "cpu.max", "memory.limit_in_bytes", "memory.max"} {
			if _, ok := files[file]; !ok {
				continue
			}
			t.Run(fmt.Sprintf("version %d %s", version, file), func(t *testing.T) {
				g, _ := fakeGroup(t, version, files)
				for _, dir := range g.dirs {
					path := filepath.Join(dir, file)
					if err := os.Remove(path); err == nil {
						// A directory in its place refuses to be written.
						if err := os.Mkdir(path, 0o755); err != nil {
							t.Fatal(err)
						}
					}
				}
				err := g.SetLimits(runtime.Limits{MemoryBytes: 1 << 30, MilliCPUs: 1000, Tasks: 10})
				if err == nil || !strings.Contains(err.Error(), file) {
					t.Fatalf("error %v does not name %s", err, file)
				}
			})
		}
	}
}

func TestReadBack(t *testing.T) {
	page := os.Getpagesize()
	tests := []struct {
		want, got string
		same      bool
	}{
		{"max", "max", true},
		{"1048576", "1048576", true},
		{fmt.Sprint(1<<20 + page - 1), "1048576", true},
		{"1048576", "524288", false},
		{"1048576", "9223372036854771712", false},
		{v1NoLimit, "9223372036854771712", true},
		{v1NoLimit, "1048576", false},
		{"max", "1048576", false},
		{"1048576", "max", false},
	}
	for _, tt := range tests {
		if sameBytes(tt.want, tt.got) != tt.same {
			t.Errorf("asked for %s, read %s: %v", tt.want, tt.got, !tt.same)
		}
	}
}

func TestDelegation(t *testing.T) {
	top := t.TempDir()
	writeFile(t, top, "cgroup.subtree_control", "cpuset cpu\n")
	writeFile(t, filepath.Join(top, "parent"), "cgroup.subtree_control", "")
	if _, err := (Host{Version: 2, Dirs: map[string]string{Unified: top}}).Open("parent"); err != nil {
		t.Fatal(err)
	}
	if got := readFile(t, filepath.Join(top, "cgroup.subtree_control")); got != "+memory +pids" {
		t.Errorf("at the top %q was asked for", got)
	}
	if got := readFile(t, filepath.Join(top, "parent", "cgroup.subtree_control")); got != "+cpu +memory +pids" {
		t.Errorf("in the parent %q was asked for", got)
	}
}

func TestNamesStayBelowTheParent(t *testing.T) {
	for _, name := range []string{"", ".", "..", "a/b", "../x", "a\x00", "a\nb"} {
		if _, err := (Host{Version: 1, Dirs: map[string]string{}}).Open(name); err == nil {
			t.Errorf("a parent called %q was taken", name)
		}
		if _, err := (&Parent{}).Group(name); err == nil {
			t.Errorf("a group called %q was taken", name)
		}
	}
}

// realGroup makes a group of the host's kernel.
func realGroup(t *testing.T) (*Parent, *Group) {
	t.Helper()
	roottest.Need(t, "makes a control group")
	parent, err := Open(fmt.Sprintf("agentsandbox-test-%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	g, err := parent.Group("g")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Create(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := g.Remove(ctx); err != nil {
			t.Error(err)
		}
		if err := parent.Remove(); err != nil {
			t.Error(err)
		}
	})
	return parent, g
}

func TestKernelTakesLimits(t *testing.T) {
	parent, g := realGroup(t)
	if names, err := parent.List(); err != nil || !slices.Equal(names, []string{"g"}) {
		t.Errorf("groups: %v %v", names, err)
	}
	for _, l := range []runtime.Limits{
		{MemoryBytes: 100<<20 + 1, MilliCPUs: 250, Tasks: 9},
		{MemoryBytes: 300 << 20, MilliCPUs: 2000, Tasks: 99}, // up
		{MemoryBytes: 50 << 20, MilliCPUs: 1, Tasks: 2},      // down
		{}, // none
	} {
		if err := g.SetLimits(l); err != nil {
			t.Fatalf("%+v: %v", l, err)
		}
	}
	if u, err := g.Usage(); err != nil || u.OOMKills != 0 {
		t.Errorf("usage of an empty group: %+v %v", u, err)
	}
	if err := g.Create(); err == nil {
		t.Error("a group was made twice")
	}
}

// A process that writes to the join files is in the group, bounded by it, and
// killed with it.
func TestJoinAndKill(t *testing.T) {
	_, g := realGroup(t)
	if err := g.SetLimits(runtime.Limits{Tasks: 20}); err != nil {
		t.Fatal(err)
	}
	files, err := g.JoinFiles()
	if err != nil {
		t.Fatal(err)
	}
	script := "for fd in"
	for i := range files {
		script += fmt.Sprint(" ", i+3)
	}
	// Two processes: the shell and its child.
	cmd := exec.Command("/bin/sh", "-c", script+"; do echo 0 >&$fd; done; echo joined; sleep 1000; exit 0")
	cmd.ExtraFiles = files
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	closeAll(files)
	if _, err := out.Read(make([]byte, 64)); err != nil {
		t.Fatal(err)
	}
	if held, err := g.Holds(cmd.Process.Pid); err != nil || !held {
		t.Errorf("the process is not in its groups: %v %v", held, err)
	}
	if held, err := g.Holds(os.Getpid()); err != nil || held {
		t.Errorf("this process is in the groups: %v %v", held, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if err := g.Remove(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("the process ended with %v", err)
	}
	if err := g.Remove(ctx); err != nil {
		t.Errorf("removing again: %v", err)
	}
	if pids, err := g.Pids(); err != nil || len(pids) != 0 {
		t.Errorf("processes of a group that is gone: %v %v", pids, err)
	}
}

func writeFile(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := fs.ReadFile(os.DirFS(filepath.Dir(path)), filepath.Base(path))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}
