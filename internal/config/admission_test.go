package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDefaultHostMemory(t *testing.T) {
	const meminfo = "MemTotal:        8388608 kB\nMemFree: 1 kB\n"
	for name, test := range map[string]struct {
		files map[string]string
		want  string
	}{
		"no limit of its own": {map[string]string{"proc/meminfo": meminfo}, "6144"},
		"version 2, a limit above its own group": {map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "0::/system.slice/agent.service\n",
			"proc/self/mountinfo":                                 "41 31 0:38 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw\n",
			"sys/fs/cgroup/system.slice/memory.max":               "4294967296\n",
			"sys/fs/cgroup/system.slice/agent.service/memory.max": "max\n",
		}, "3072"},
		"version 1, in a container that sees its group as the top": {map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "5:cpu:/x\n4:memory:/docker/abc\n0::/\n",
			"proc/self/mountinfo":                        "32 31 0:29 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "2147483648\n",
		}, "1536"},
		"version 1, no limit": {map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "4:memory:/a\n",
			"proc/self/mountinfo":                          "32 31 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
			"sys/fs/cgroup/memory/a/memory.limit_in_bytes": "9223372036854771712\n",
		}, "6144"},
		"a tiny machine": {map[string]string{"proc/meminfo": "MemTotal: 65536 kB\n"}, "64"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for path, content := range test.files {
				writeTree(t, filepath.Join(root, path), content)
			}
			got, err := defaultHostMemory(root)
			if err != nil || got != test.want {
				t.Errorf("%s MiB, %v; want %s", got, err, test.want)
			}
		})
	}
	if _, err := defaultHostMemory(t.TempDir()); err == nil || !strings.Contains(err.Error(), "set it") {
		t.Errorf("on a machine that tells nothing: %v", err)
	}
}

func TestAServerThatAdmitsNothingIsRefused(t *testing.T) {
	flags := map[string]string{"host_memory_mb": "100", "default_memory_mb": "2048", "reserve_percent": "10"}
	_, err := Load(Sources{Getenv: environment(), Flags: flags})
	if err == nil || !strings.Contains(err.Error(), "host_memory_mb: must be at least 204") {
		t.Errorf("%v", err)
	}
	flags["reserve_percent"] = "4"
	if _, err := Load(Sources{Getenv: environment(), Flags: flags}); err != nil {
		t.Error(err)
	}
}

func writeTree(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
