package gvisor

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"strconv"
	"sync"
	"time"
	"unsafe"

	"github.com/google/subcommands"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/runsc/cli"
	"gvisor.dev/gvisor/runsc/cmd"
	"gvisor.dev/gvisor/runsc/cmd/util"
	"gvisor.dev/gvisor/runsc/specutils"

	"github.com/agentsandbox/agentsandbox/internal/runtime/gvisor/birth"
	"github.com/agentsandbox/agentsandbox/internal/runtime/gvisor/filter"
)

// A sandbox's process executes two programs: a small one, which makes it safe
// and is embedded here, and then this very program again, which becomes gVisor's
// kernel. This file is how both come to run, and what happens in the second
// before anything else of the program does.

const (
	// sandboxArg0 is the name that gVisor executes a program with to make a
	// sandbox; the sub-command is then "boot".
	sandboxArg0 = "runsc-sandbox"
	// sandboxGCPercent makes the garbage collector of a sandbox's kernel wait
	// longer: its start is one burst of allocations that mostly stay. Measured:
	// 160 to 127 ms per start.
	sandboxGCPercent = 400
	// settleTime is how long after its start a sandbox's kernel gives back what the
	// start has left in its heap. Measured: 16.9 to 11.5 MiB of anonymous memory. Who
	// lives shorter than that does not pay for it.
	settleTime = 5 * time.Second
)

// Main must be the first call of main (and of TestMain) in every program that
// uses this package. In a process that was made to become a sandbox it does not
// return; in any other it does at once.
//
// Only the sub-command that a sandbox needs is there: "boot". gVisor's file
// server ("gofer") is not: no sandbox of ours has one. Nor is "umount", which is
// done by package birth.
func Main() {
	if !isReexec(os.Args) {
		return
	}
	// For ps and top: the kernel named the process after the descriptor that it was
	// executed from. Of no further use, so an error is of none either.
	_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&processName[0])), 0, 0, 0)
	debug.SetGCPercent(sandboxGCPercent)
	time.AfterFunc(settleTime, debug.FreeOSMemory)
	filter.Register()
	changeCalls()
	cli.Run(map[util.SubCommand]string{new(cmd.Boot): "sandbox"}, []subcommands.Command{})
	os.Exit(birth.ExitStatus) // cli.Run exits by itself
}

// processName ends with a zero byte, for the kernel.
var processName = [...]byte{'s', 'a', 'n', 'd', 'b', 'o', 'x', 0}

func isReexec(args []string) bool { return len(args) > 0 && args[0] == sandboxArg0 }

// The first program is built before the one that embeds it, see package birth.
//
//go:generate env CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -buildid=" -o bin/birth ../../../cmd/agentsandbox-birth

//go:embed bin
var programs embed.FS

// firstProgram makes the first program a file that lives as long as this process
// and that nobody can change, in memory, so that it needs no directory from which
// the user nobody may execute programs. gVisor knows one path of a program, which
// is global to the process.
var firstProgram = sync.OnceValue(func() error {
	code, err := programs.ReadFile("bin/birth")
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("the first program of sandboxes was not built into this one: build it with make build")
	}
	if err != nil {
		return fmt.Errorf("first program of sandboxes: %w", err)
	}
	fd, err := sealedProgram(code)
	if err != nil {
		return fmt.Errorf("first program of sandboxes: %w", err)
	}
	specutils.ExePath = "/proc/self/fd/" + strconv.Itoa(fd)
	return nil
})

// seal makes a file in memory one that nobody can change. Linux refuses that with
// EBUSY while it holds pages of the file itself: pages that were just written wait
// in a list of the processor that wrote them, and on a busy machine the 150 ms for
// which the kernel waits are not always enough (mm/memfd.c).
func seal(f *os.File) error {
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	for tries := 0; ; tries++ {
		_, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals)
		if !errors.Is(err, unix.EBUSY) || tries == 20 {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// sealedProgram returns a descriptor of a program in memory.
//
// The number of the descriptor is higher than any that a sandbox's process uses.
// A process inherits room for as many descriptors as its parent uses; where it
// has to make more room for itself, the kernel lets every thread of it come to
// rest first, which takes 7 ms.
func sealedProgram(code []byte) (int, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate("agentsandbox-birth", flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) {
		// Before Linux 6.3 there was no such flag: all could be executed.
		fd, err = unix.MemfdCreate("agentsandbox-birth", flags)
	}
	if err != nil {
		return 0, err
	}
	f := os.NewFile(uintptr(fd), "agentsandbox-birth")
	defer f.Close()
	if _, err := f.Write(code); err != nil {
		return 0, err
	}
	if err := seal(f); err != nil {
		return 0, err
	}
	const above = birth.KeptLinkFD + 1
	high, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, above)
	if errors.Is(err, unix.EINVAL) {
		return 0, fmt.Errorf("no descriptor from %d on can be had: raise the limit of open files (ulimit -n)", above)
	}
	return high, err
}
