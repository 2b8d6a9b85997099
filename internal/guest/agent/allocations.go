package agent

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// gVisor grants memory as it is used, and any amount of it in advance; of limits it
// knows RLIMIT_AS, which counts what costs nothing too: a map of a file of a
// tebibyte, and what run times reserve. Linux refuses what is obviously more than
// there is (overcommit_memory 0), and so do we, by a filter of system calls that
// every process of the sandbox inherits.

// absurdGiB is from how many GiB on a single allocation fails. It is a multiple of
// 4, so that the upper half of a length tells.
const absurdGiB = 512

// absurdHigh is the upper half of such a length.
const absurdHigh = absurdGiB / 4

// Places in what a filter is given, struct seccomp_data.
const (
	dataNumber = 0
	dataArgs   = 16
	high       = 4 // of an argument's eight bytes
)

func argument(n uint32) uint32 { return dataArgs + 8*n }

// RefuseAbsurdAllocations makes allocations fail with ENOMEM that no host could
// serve: memory of a process's own, writable, of absurdGiB at once, that it did not
// ask for with MAP_NORESERVE. It holds for this process, all its threads, and all
// that they start.
func RefuseAbsurdAllocations() error {
	filter := absurdFilter()
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return fmt.Errorf("bound allocations: %w", errno)
	}
	return nil
}

func absurdFilter() []unix.SockFilter {
	const (
		load  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		least = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
		has   = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
		and   = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
		end   = unix.BPF_RET | unix.BPF_K
	)
	// A jump goes over as many instructions as Jt says, or Jf.
	return []unix.SockFilter{
		{Code: load, K: dataNumber},
		{Code: equal, K: unix.SYS_MMAP, Jt: 3},
		{Code: equal, K: unix.SYS_MPROTECT, Jt: 11},
		{Code: equal, K: unix.SYS_MREMAP, Jt: 14},
		{Code: end, K: unix.SECCOMP_RET_ALLOW},

		// 5: mmap(address, length, protection, flags, …)
		{Code: load, K: argument(1) + high},
		{Code: least, K: absurdHigh, Jf: 13},
		{Code: load, K: argument(2)},
		{Code: has, K: unix.PROT_WRITE, Jf: 11},
		{Code: load, K: argument(3)},
		{Code: has, K: unix.MAP_NORESERVE, Jt: 9},
		{Code: has, K: unix.MAP_ANONYMOUS, Jt: 9},
		{Code: and, K: unix.MAP_TYPE},
		{Code: equal, K: unix.MAP_PRIVATE, Jt: 7, Jf: 6},

		// 14: mprotect(address, length, protection)
		{Code: load, K: argument(1) + high},
		{Code: least, K: absurdHigh, Jf: 4},
		{Code: load, K: argument(2)},
		{Code: has, K: unix.PROT_WRITE, Jt: 3, Jf: 2},

		// 18: mremap(address, length, new length, …)
		{Code: load, K: argument(2) + high},
		{Code: least, K: absurdHigh, Jt: 1},

		{Code: end, K: unix.SECCOMP_RET_ALLOW},
		{Code: end, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOMEM)},
	}
}
