package gvisor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/google/subcommands"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/runsc/cli"
	"gvisor.dev/gvisor/runsc/cmd"
	"gvisor.dev/gvisor/runsc/cmd/util"
	"gvisor.dev/gvisor/runsc/specutils"
)

// A sandbox is a process that executes this very program again. This file is
// what happens there, before anything else of the program runs.

const (
	// sandboxArg0 is the name that gVisor executes the program with to make a
	// sandbox; the sub-command is then "boot".
	sandboxArg0 = "runsc-sandbox"
	// umountCommand is the sub-command of the small helper that takes /proc away
	// from a sandbox before guest code runs.
	umountCommand = "umount"
	// sandboxGCPercent makes the garbage collector of a sandbox's kernel wait
	// longer: its start is one burst of allocations that mostly stay. Measured:
	// 160 to 127 ms per start.
	sandboxGCPercent = 400
	// birthExit is the exit status of a sandbox that could not do its first acts.
	birthExit = 113
)

// Main must be the first call of main (and of TestMain) in every program that
// uses this package. In a process that gVisor executed to become a sandbox it
// does not return; in any other it does at once.
//
// Only the sub-commands that a sandbox needs are there: "boot" and "umount".
// gVisor's file server ("gofer") is not: no sandbox of ours has one.
func Main() {
	if !isReexec(os.Args) {
		return
	}
	debug.SetGCPercent(sandboxGCPercent)
	args, err := born(os.Args)
	if err != nil {
		// Nobody reads the standard error of a sandbox; its parent sees the
		// conversation end, and the exit status.
		os.Exit(birthExit)
	}
	os.Args = args
	cli.Run(map[util.SubCommand]string{new(cmd.Boot): "sandbox", new(cmd.Umount): "sandbox"}, []subcommands.Command{})
	os.Exit(birthExit) // cli.Run exits by itself
}

func isReexec(args []string) bool {
	if len(args) == 0 {
		return false
	}
	return args[0] == sandboxArg0 || len(args) > 1 && args[0] == specutils.ExePath && args[1] == umountCommand
}

// The first acts of a sandbox's process travel as descriptors. gVisor lets its
// caller pass files on to the guest, each under a number in the guest; those
// from birthFD on are meant for us, and taken out of the arguments again, so
// that neither gVisor nor the guest ever sees them.
const (
	// birthFD is a pipe with extra arguments for gVisor's boot command, one in a
	// line.
	birthFD = 1 << 20
	// groupFD and those above it are files of control groups to join.
	groupFD = birthFD + 1
	// conversationHostFD is the number that the guest's conversation gets in the
	// sandbox's process. A snapshot remembers it, so it must be the same in every
	// process, and out of the way of the numbers that gVisor uses (from 256 on it
	// keeps the standard streams).
	conversationHostFD = 512
)

// born does the first acts of a sandbox's process: it joins its control groups,
// so that all it will ever use is counted and limited, and completes its
// arguments. It returns the arguments for gVisor. The second execution, as
// nobody, has no such descriptors any more and passes through.
func born(args []string) ([]string, error) {
	out := make([]string, 0, len(args)+2)
	var extra []string
	for i, arg := range args {
		host, guest, ok := passedFile(arg)
		if !ok {
			out = append(out, arg)
			continue
		}
		if guest < birthFD {
			if err := moveDescriptor(host, conversationHostFD); err != nil {
				return nil, err
			}
			out = append(out, fmt.Sprintf("%s%d:%d", passFlag, conversationHostFD, guest))
			continue
		}
		f := os.NewFile(uintptr(host), arg)
		if f == nil {
			return nil, fmt.Errorf("argument %d: descriptor %d is not open", i, host)
		}
		var err error
		if guest == birthFD {
			extra, err = readArguments(f)
		} else {
			_, err = f.WriteString("0")
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
	}
	return withExtra(out, extra), nil
}

// moveDescriptor gives a descriptor another number, kept by the next program.
func moveDescriptor(from, to int) error {
	if from == to {
		return nil
	}
	if err := unix.Dup3(from, to, 0); err != nil {
		return fmt.Errorf("descriptor %d: %w", from, err)
	}
	return unix.Close(from)
}

// passFlag is the flag of gVisor's boot command for a file passed to the guest.
const passFlag = "--pass-fd="

// passedFile reads an argument that gVisor makes of a passed file: host and
// guest number.
func passedFile(arg string) (host, guest int, ok bool) {
	value, ok := strings.CutPrefix(arg, passFlag)
	if !ok {
		return 0, 0, false
	}
	h, g, ok := strings.Cut(value, ":")
	if !ok {
		return 0, 0, false
	}
	host, err1 := strconv.Atoi(h)
	guest, err2 := strconv.Atoi(g)
	return host, guest, err1 == nil && err2 == nil && host >= 0
}

// maxArguments bounds what is read of the birth pipe.
const maxArguments = 4 << 10

func readArguments(r io.Reader) ([]string, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxArguments))
	if err != nil {
		return nil, err
	}
	return strings.Fields(string(b)), nil
}

// withExtra puts extra flags before the last argument, which is the name of the
// sandbox. A later flag wins over an earlier one of the same name.
func withExtra(args, extra []string) []string {
	if len(extra) == 0 {
		return args
	}
	last := len(args) - 1
	return append(append(append([]string{}, args[:last]...), extra...), args[last])
}
