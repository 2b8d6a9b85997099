package gvisor

import (
	"runtime/debug"
	"runtime/metrics"
	"sync"

	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/syscalls/linux"

	"github.com/agentsandbox/agentsandbox/internal/guest"
)

// changedCalls are the system calls that the kernel of a sandbox serves otherwise than
// gVisor does, by name, with what makes ours of gVisor's.
//
//   - Listings of the workspace leave out the names under which runs see their code:
//     they stand there so that everything that names a script leads to the workspace,
//     and are no files of the user's.
//   - Allocations that no host could serve fail.
//   - The agent can have the kernel give back memory, see guest.ReleaseMemory.
var changedCalls = map[string]func(kernel.SyscallFn) kernel.SyscallFn{
	"getdents":   func(list kernel.SyscallFn) kernel.SyscallFn { return withoutScripts(list, 18) },
	"getdents64": func(list kernel.SyscallFn) kernel.SyscallFn { return withoutScripts(list, 19) },
	"mmap":       func(call kernel.SyscallFn) kernel.SyscallFn { return refusing(call, absurdMap) },
	"mprotect":   func(call kernel.SyscallFn) kernel.SyscallFn { return refusing(call, absurdProtect) },
	"mremap":     func(call kernel.SyscallFn) kernel.SyscallFn { return refusing(call, absurdRemap) },
	"prctl":      releasingMemory,
}

// changeCalls puts changedCalls in the place of gVisor's. It is called once, in the
// process of a sandbox, before gVisor starts.
func changeCalls() {
	for _, table := range []*kernel.SyscallTable{linux.AMD64, linux.ARM64} {
		for number, call := range table.Table {
			if change := changedCalls[call.Name]; change != nil {
				call.Fn = change(call.Fn)
				table.Table[number] = call
			}
		}
		table.Init()
	}
}

// freshHeap is what the heap of a sandbox's kernel holds before the first run, in
// bytes: 10 to 17 MiB were seen.
const freshHeap = 16 << 20

// releasingMemory is prctl with one more option, for the agent alone: the kernel of
// the sandbox collects its own garbage and returns the memory to the host, if its heap
// has grown by more than the first argument, in bytes, since the last time. What pipes
// and sockets hold is in that heap, and would count against the sandbox long after the
// processes are gone.
func releasingMemory(call kernel.SyscallFn) kernel.SyscallFn {
	var mu sync.Mutex
	left := int64(freshHeap) // by the last time; guarded by mu
	return func(t *kernel.Task, number uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		if args[0].Int() != guest.ReleaseMemory || t.ThreadGroup() != t.Kernel().GlobalInit() {
			return call(t, number, args)
		}
		mu.Lock()
		defer mu.Unlock()
		held := heapHeld()
		left = min(left, held)
		if held-left >= args[1].Int64() {
			debug.FreeOSMemory()
			left = heapHeld()
		}
		return 0, nil, nil
	}
}

// heapHeld is the memory of the host that the heap of this process holds, in bytes,
// whether it is in use or not.
func heapHeld() (bytes int64) {
	samples := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(samples)
	for _, s := range samples {
		bytes += int64(s.Value.Uint64())
	}
	return bytes
}
