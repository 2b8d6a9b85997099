package gvisor

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

func TestIsReexec(t *testing.T) {
	tests := []struct {
		args []string
		want bool
	}{
		{[]string{"runsc-sandbox", "--root=/x", "boot", "id"}, true},
		{[]string{"/proc/self/exe", "umount", "--sync-fd=3", "/proc"}, true},
		{[]string{"agentsandbox", "boot"}, false},
		{[]string{"agentsandbox", "umount", "/"}, false},
		{[]string{"/proc/self/exe", "serve"}, false},
		{[]string{"runsc-gofer", "gofer"}, false},
		{nil, false},
	}
	for _, tt := range tests {
		if isReexec(tt.args) != tt.want {
			t.Errorf("%q: %v", tt.args, !tt.want)
		}
	}
}

// handOver makes a descriptor that nobody else closes, as the process finds it.
func handOver(t *testing.T, f *os.File) int {
	t.Helper()
	fd, err := syscall.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	return fd
}

func TestBorn(t *testing.T) {
	group, err := os.Create(filepath.Join(t.TempDir(), "cgroup.procs"))
	if err != nil {
		t.Fatal(err)
	}
	path := group.Name()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.WriteString(write, "--cpu-num=3\n--total-memory=7")
	must(t, err)
	must(t, write.Close())
	conversation, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { must(t, syscall.Close(conversationHostFD)) }()
	got, err := born([]string{
		"runsc-sandbox", "boot", "--setup-root",
		fmt.Sprintf("--pass-fd=%d:%d", handOver(t, group), groupFD+1),
		fmt.Sprintf("--pass-fd=%d:3", handOver(t, conversation)),
		fmt.Sprintf("--pass-fd=%d:%d", handOver(t, read), birthFD),
		"the-id",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"runsc-sandbox", "boot", "--setup-root", "--pass-fd=512:3", "--cpu-num=3", "--total-memory=7", "the-id"}
	if !slices.Equal(got, want) {
		t.Errorf("arguments %q", got)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "0" {
		t.Errorf("the group got %q, %v", b, err)
	}
	// The second execution finds nothing to do.
	again, err := born(got)
	if err != nil || !slices.Equal(again, got) {
		t.Errorf("the second time: %q, %v", again, err)
	}
}

func TestBornFailsWithoutItsGroup(t *testing.T) {
	closed, err := os.Open(os.DevNull) // cannot be written
	if err != nil {
		t.Fatal(err)
	}
	arg := fmt.Sprintf("--pass-fd=%d:%d", handOver(t, closed), groupFD)
	if _, err := born([]string{"runsc-sandbox", "boot", arg, "id"}); err == nil {
		t.Fatal("a process that could not join its group went on")
	}
}

func TestBootArguments(t *testing.T) {
	args := strings.Join(bootArguments(runtime.Limits{MemoryBytes: 512 << 20}, 1, false), " ")
	if args != "--cpu-num=1 --total-memory=536870912 --total-host-memory=536870912" {
		t.Errorf("got %s", args)
	}
	if args := bootArguments(runtime.Limits{}, 1, true); len(args) != 1 {
		t.Errorf("without limits: %q", args)
	}
}

func TestCoresFor(t *testing.T) {
	for milli, want := range map[int64]int{1: 1, 500: 1, 1000: 1} {
		if got := coresFor(runtime.Limits{MilliCPUs: milli}); got != want {
			t.Errorf("%d thousandths: %d", milli, got)
		}
	}
	if all := coresFor(runtime.Limits{}); coresFor(runtime.Limits{MilliCPUs: 1 << 40}) != all || all < 1 {
		t.Error("a sandbox sees more processors than the host has")
	}
}
