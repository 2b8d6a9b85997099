package gvisor

import (
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/syscalls/linux"
)

// changedCalls are the system calls that the kernel of a sandbox serves otherwise than
// gVisor does, by name, with what makes ours of gVisor's.
//
//   - Listings of the workspace leave out the names under which runs see their code:
//     they stand there so that everything that names a script leads to the workspace,
//     and are no files of the user's.
//   - Allocations that no host could serve fail.
var changedCalls = map[string]func(kernel.SyscallFn) kernel.SyscallFn{
	"getdents":   func(list kernel.SyscallFn) kernel.SyscallFn { return withoutScripts(list, 18) },
	"getdents64": func(list kernel.SyscallFn) kernel.SyscallFn { return withoutScripts(list, 19) },
	"mmap":       func(call kernel.SyscallFn) kernel.SyscallFn { return refusing(call, absurdMap) },
	"mprotect":   func(call kernel.SyscallFn) kernel.SyscallFn { return refusing(call, absurdProtect) },
	"mremap":     func(call kernel.SyscallFn) kernel.SyscallFn { return refusing(call, absurdRemap) },
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
