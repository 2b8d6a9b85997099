package cgroup

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

func TestWallOnBothVersions(t *testing.T) {
	t.Run("version 1", func(t *testing.T) {
		p, _, top := fakeParent(t, 1, filesV1)
		dir := filepath.Join(top, "memory", "parent")
		for name, content := range map[string]string{
			"memory.limit_in_bytes": "9223372036854771712", "memory.memsw.limit_in_bytes": "9223372036854771712", "memory.use_hierarchy": "0",
		} {
			writeFile(t, dir, name, content)
		}
		if err := p.SetWall(512 << 20); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{
			"memory.limit_in_bytes": "536870912", "memory.memsw.limit_in_bytes": "536870912", "memory.use_hierarchy": "1",
		} {
			if got := readFile(t, filepath.Join(dir, name)); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		if err := p.SetWall(0); err != nil || readFile(t, filepath.Join(dir, "memory.limit_in_bytes")) != v1NoLimit {
			t.Errorf("taking it away: %v", err)
		}
		wantWallRefused(t, p, dir, "memory.limit_in_bytes")
	})
	t.Run("version 2", func(t *testing.T) {
		p, _, top := fakeParent(t, 2, filesV2)
		dir := filepath.Join(top, "parent")
		for name, content := range map[string]string{"memory.max": "max", "memory.swap.max": "max", "memory.oom.group": "1"} {
			writeFile(t, dir, name, content)
		}
		if err := p.SetWall(512 << 20); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{"memory.max": "536870912", "memory.swap.max": "0", "memory.oom.group": "0"} {
			if got := readFile(t, filepath.Join(dir, name)); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		if err := p.SetWall(0); err != nil || readFile(t, filepath.Join(dir, "memory.max")) != maxText {
			t.Errorf("taking it away: %v", err)
		}
		wantWallRefused(t, p, dir, "memory.max")
	})
}

// wantWallRefused makes the file of the limit one that cannot be written.
func wantWallRefused(t *testing.T, p *Parent, dir, file string) {
	t.Helper()
	path := filepath.Join(dir, file)
	if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := p.SetWall(512 << 20); err == nil || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "all sandboxes together") {
		t.Errorf("a wall that cannot be installed: %v", err)
	}
	if err := p.SetWall(-1); err == nil {
		t.Error("a negative wall was taken")
	}
}

func TestMemoryInUse(t *testing.T) {
	const stat = "cache 5\ntotal_inactive_file 300\ntotal_active_file 40\ninactive_file 200\nactive_file 30\n"
	for version, want := range map[int]int64{1: 1<<20 - 340, 2: 1<<20 - 230} {
		files := map[int]map[string]string{1: filesV1, 2: filesV2}[version]
		p, g, _ := fakeParent(t, version, files)
		memory := g.version.memory(g.dirs)
		if _, err := g.MemoryInUse(0); err == nil {
			t.Error("counted without memory.stat")
		}
		writeFile(t, memory.dir, "memory.stat", "cache 5\n")
		if _, err := g.MemoryInUse(0); err == nil || !strings.Contains(err.Error(), "lacks") {
			t.Errorf("counted with half of memory.stat: %v", err)
		}
		writeFile(t, memory.dir, "memory.stat", stat)
		if n, err := g.MemoryInUse(0); err != nil || n != want {
			t.Errorf("version %d: %d, %v; want %d", version, n, err, want)
		}
		above := p.version.memory(p.dirs)
		writeFile(t, above.dir, above.usage, "5000000")
		if n, err := p.MemoryUse(6_000_000); err != nil || n != 5_000_000 {
			t.Errorf("version %d, when that is enough: %d, %v", version, n, err)
		}
		writeFile(t, above.dir, "memory.stat", stat)
		if n, err := p.MemoryUse(1000); err != nil || n != 5_000_000-(1<<20-want) {
			t.Errorf("version %d: %d, %v", version, n, err)
		}
	}
}

// TestTheKernelHoldsTheWall fills the memory of two groups, each within its own
// limit, and has the kernel end one process at the wall above them.
func TestTheKernelHoldsTheWall(t *testing.T) {
	parent, g := realGroup(t)
	if err := parent.SetWall(64 << 20); err != nil {
		t.Fatal(err)
	}
	if err := g.SetLimits(runtime.Limits{MemoryBytes: 1 << 30}); err != nil {
		t.Fatal(err)
	}
	files, err := g.JoinFiles()
	if err != nil {
		t.Fatal(err)
	}
	script := "for fd in"
	for i := range files {
		script += " " + string(rune('3'+i))
	}
	// tail keeps one endless line in memory.
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", script+"; do echo 0 >&$fd; done; exec tail /dev/zero")
	cmd.ExtraFiles = files
	err = cmd.Run()
	closeAll(files)
	if ctx.Err() != nil || err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("the process ended with %v", err)
	}
	u, err := g.Usage()
	if err != nil || u.OOMKills == 0 || u.MemoryPeakBytes > 64<<20 {
		t.Errorf("%+v, %v", u, err)
	}
	if use, err := parent.MemoryUse(0); err != nil || use > 64<<20 {
		t.Errorf("%d bytes are used, %v", use, err)
	}
}
