package gvisor

import (
	"bytes"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
	"github.com/agentsandbox/agentsandbox/internal/runtime/gvisor/birth"
)

func TestIsReexec(t *testing.T) {
	tests := []struct {
		args []string
		want bool
	}{
		{[]string{"runsc-sandbox", "--root=/x", "boot", "id"}, true},
		{[]string{"agentsandbox", "boot"}, false},
		{[]string{"/proc/self/exe", "umount", "--sync-fd=3", "/proc"}, false},
		{[]string{"runsc-gofer", "gofer"}, false},
		{nil, false},
	}
	for _, tt := range tests {
		if isReexec(tt.args) != tt.want {
			t.Errorf("%q: %v", tt.args, !tt.want)
		}
	}
}

// What every sandbox executes first, with rights, cannot be changed by anybody.
func TestSealedProgram(t *testing.T) {
	code := []byte("#!/bin/true\n")
	fd, err := sealedProgram(code)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "program")
	defer f.Close()
	if fd <= birth.KeptLinkFD {
		t.Errorf("its number is %d: a sandbox's process has to make room for its descriptors", fd)
	}
	if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("it is inherited: %d, %v", flags, err)
	}
	path := "/proc/self/fd/" + strconv.Itoa(fd)
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, code) {
		t.Errorf("it is %q, %v", got, err)
	}
	if _, err := f.WriteAt([]byte("x"), 0); err == nil {
		t.Error("it can be written")
	}
	if err := f.Truncate(0); err == nil {
		t.Error("it can be cut")
	}
}

func TestBootArguments(t *testing.T) {
	args := strings.Join(bootArguments(runtime.Limits{MemoryBytes: 512 << 20}, 1, false), " ")
	if !strings.HasPrefix(args, "--cpu-num=1 --total-memory=536870912 --total-host-memory=536870912") {
		t.Errorf("got %s", args)
	}
	if slices.ContainsFunc(bootArguments(runtime.Limits{}, 1, true), func(a string) bool { return strings.Contains(a, "memory") }) {
		t.Error("without limits, memory is bounded")
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
