package gvisor

import (
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/syscalls/linux"
)

func TestAbsurdAllocationsAreRefused(t *testing.T) {
	const (
		tib  = 1 << 40
		gib  = 1 << 30
		rw   = unix.PROT_READ | unix.PROT_WRITE
		anon = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS
	)
	for _, c := range []struct {
		what    string
		call    func(arch.SyscallArguments) bool
		args    [4]uintptr
		refused bool
	}{
		{"malloc", absurdMap, [4]uintptr{0, tib, rw, anon}, true},
		{"the least", absurdMap, [4]uintptr{0, absurdBytes, rw, anon}, true},
		{"less", absurdMap, [4]uintptr{0, absurdBytes - 4096, rw, anon}, false},
		{"little", absurdMap, [4]uintptr{0, 4096, rw, anon}, false},
		{"shared memory of nobody's", absurdMap, [4]uintptr{0, tib, rw, unix.MAP_SHARED | unix.MAP_ANONYMOUS}, true},
		{"a copy of a file", absurdMap, [4]uintptr{0, tib, rw, unix.MAP_PRIVATE}, true},
		{"a file", absurdMap, [4]uintptr{0, tib, unix.PROT_READ, unix.MAP_PRIVATE}, false},
		{"a shared file", absurdMap, [4]uintptr{0, tib, rw, unix.MAP_SHARED}, false},
		{"a shared file, checked", absurdMap, [4]uintptr{0, tib, rw, unix.MAP_SHARED_VALIDATE}, false},
		{"reserved without access", absurdMap, [4]uintptr{0, tib, unix.PROT_NONE, anon}, false},
		{"reserved by its word", absurdMap, [4]uintptr{0, 20 * tib, rw, anon | unix.MAP_NORESERVE}, false},
		{"made writable", absurdProtect, [4]uintptr{0, tib, rw}, true},
		{"made readable", absurdProtect, [4]uintptr{0, tib, unix.PROT_READ}, false},
		{"a part made writable", absurdProtect, [4]uintptr{0, gib, rw}, false},
		{"realloc", absurdRemap, [4]uintptr{0, gib, tib, 1}, true},
		{"a smaller realloc", absurdRemap, [4]uintptr{0, tib, gib, 1}, false},
	} {
		var args arch.SyscallArguments
		for i, v := range c.args {
			args[i].Value = v
		}
		if got := c.call(args); got != c.refused {
			t.Errorf("%s: refused is %v", c.what, got)
		}
	}
}

// A call that is not in gVisor's table would be changed nowhere.
func TestChangedCallsExist(t *testing.T) {
	for name := range changedCalls {
		if _, err := linux.AMD64.LookupNo(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := linux.ARM64.LookupNo(name); err != nil && name != "getdents" { // which arm64 never had
			t.Errorf("%s on arm64: %v", name, err)
		}
	}
}
