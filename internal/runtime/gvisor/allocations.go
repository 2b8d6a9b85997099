package gvisor

import (
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
)

// gVisor grants memory as it is used, and any amount of it in advance; of limits it
// knows RLIMIT_AS, which counts what costs nothing too: a map of a file of a
// tebibyte, and what run times reserve. Linux refuses what is obviously more than
// there is (overcommit_memory 0), and so do we.

// absurdBytes is from where on a single allocation fails.
const absurdBytes = 512 << 30

// refusing is a system call that fails with ENOMEM where absurd says so: for memory of
// a process's own, writable, of absurdBytes at once, that it did not ask for with
// MAP_NORESERVE.
func refusing(call kernel.SyscallFn, absurd func(arch.SyscallArguments) bool) kernel.SyscallFn {
	return func(t *kernel.Task, number uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		if absurd(args) {
			return 0, nil, linuxerr.ENOMEM
		}
		return call(t, number, args)
	}
}

// absurdMap looks at mmap(address, length, protection, flags, …).
func absurdMap(args arch.SyscallArguments) bool {
	if args[1].Uint64() < absurdBytes || args[2].Uint()&unix.PROT_WRITE == 0 {
		return false
	}
	flags := args[3].Uint()
	if flags&unix.MAP_NORESERVE != 0 {
		return false
	}
	return flags&unix.MAP_ANONYMOUS != 0 || flags&unix.MAP_TYPE == unix.MAP_PRIVATE
}

// absurdProtect looks at mprotect(address, length, protection).
func absurdProtect(args arch.SyscallArguments) bool {
	return args[1].Uint64() >= absurdBytes && args[2].Uint()&unix.PROT_WRITE != 0
}

// absurdRemap looks at mremap(address, length, new length, …).
func absurdRemap(args arch.SyscallArguments) bool { return args[2].Uint64() >= absurdBytes }
