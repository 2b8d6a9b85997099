package gvisor

import (
	"encoding/binary"
	"strings"

	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/guest"
)

// withoutScripts is a system call that lists a directory, without those names.
// nameAt is where the name stands in an entry.
func withoutScripts(list kernel.SyscallFn, nameAt int) kernel.SyscallFn {
	return func(t *kernel.Task, number uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		for {
			n, control, err := list(t, number, args)
			if n == 0 || err != nil || !isWorkspace(t, args[0].Int()) {
				return n, control, err
			}
			all := make([]byte, n)
			if _, err := t.CopyInBytes(args[1].Pointer(), all); err != nil {
				return n, control, nil //nolint:nilerr // the program took its memory away meanwhile
			}
			kept := dropScripts(all, nameAt)
			if len(kept) == int(n) {
				return n, control, nil
			}
			if len(kept) == 0 {
				continue // no entry would say that there are no more
			}
			_, err = t.CopyOutBytes(args[1].Pointer(), kept)
			return uintptr(len(kept)), control, err
		}
	}
}

// isWorkspace tells whether a descriptor is of the workspace.
func isWorkspace(t *kernel.Task, fd int32) bool {
	file := t.GetFile(fd)
	if file == nil {
		return false
	}
	defer file.DecRef(t)
	return file.MappedName(t) == agentsandbox.Workspace
}

// dropScripts returns the entries of a list without those of scripts.
func dropScripts(list []byte, nameAt int) []byte {
	kept := make([]byte, 0, len(list))
	for len(list) > nameAt {
		size := int(binary.NativeEndian.Uint16(list[16:]))
		if size <= nameAt || size > len(list) {
			break // other threads of the program have written to it
		}
		name, _, _ := strings.Cut(string(list[nameAt:size]), "\x00")
		if name != guest.ScriptName+".py" && name != guest.ScriptName+".sh" {
			kept = append(kept, list[:size]...)
		}
		list = list[size:]
	}
	return kept
}
