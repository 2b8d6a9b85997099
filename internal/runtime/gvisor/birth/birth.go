// Package birth is the first program that a sandbox's process runs: a small one,
// which joins the sandbox's control groups, moves into an empty root, gives up
// every right, and then executes gVisor's kernel in its place.
//
// gVisor could do the same with its own program, and would execute it three
// times for one sandbox; each costs milliseconds before its first line runs. This
// one costs one, and its work must stay small for that: the package owns what has
// to happen as root of the sandbox's namespaces, and knows nothing of gVisor but
// the arguments of its boot command. Nothing here may import gVisor.
//
// It fails closed: at the first thing that does not work the process says what it
// was, ends with [ExitStatus], and no sandbox comes up.
package birth

import (
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ExitStatus is the exit status of a process that could not be born.
const ExitStatus = 113

// What the process needs travels as descriptors. gVisor lets its caller pass
// files on to the guest, each under a number in the guest; those from
// StderrFD on are meant for this program, and taken out of the arguments
// again, so that neither gVisor nor the guest ever sees them.
const (
	// StderrFD becomes the standard error of this program and the next.
	StderrFD = LinkFD - 1
	// LinkFD is the server's end of the sandbox's network, kept open for the next
	// server.
	LinkFD = ArgumentsFD - 1
	// ArgumentsFD is a pipe with extra arguments for gVisor's boot command, one
	// in a line.
	ArgumentsFD = 1 << 20
	// ProgramFD is the program to execute in the end.
	ProgramFD = ArgumentsFD + 1
	// GroupFD and those above it are files of control groups to join.
	GroupFD = ArgumentsFD + 2
)

// ConversationFD is the number that the one file for the guest, its conversation
// with the server, gets in the sandbox's process. A snapshot remembers it, so it
// must be the same in every process, and out of the way of the numbers that
// gVisor uses (from 256 on it keeps the standard streams).
const ConversationFD = 512

// KeptLinkFD is the number of the server's end of the sandbox's network in the
// sandbox's process. Nothing there uses it: it is kept open, so that a server
// that comes after this one can take it from there. The process gains nothing by
// it, since the other end is its own.
const KeptLinkFD = ConversationFD + 1

// passFlag is the flag of gVisor's boot command for a file passed to the guest.
const passFlag = "--pass-fd="

// Main does it all and does not return.
func Main() {
	fmt.Fprintln(os.Stderr, "birth:", run(os.Args))
	os.Exit(ExitStatus)
}

// run returns only if something failed.
func run(args []string) error {
	// Groups and rights belong to a thread. This is the one that executes the
	// next program, which ends all others.
	runtime.LockOSThread()
	if err := keepOnlyPassed(args); err != nil {
		return err
	}
	o, err := open(args)
	if err != nil {
		return err
	}
	// First, so that all that follows is counted and limited.
	if err := o.join(); err != nil {
		return err
	}
	extra, err := o.readArguments()
	if err != nil {
		return err
	}
	if err := enterEmptyRoot(emptyRoot); err != nil {
		return err
	}
	signal, err := unmountProcLater()
	if err != nil {
		return err
	}
	extra = append(extra, "--setup-root=false", "--proc-mount-sync-fd="+strconv.Itoa(signal))
	if err := dropRights(); err != nil {
		return err
	}
	// /proc/self/fd, because the program has no path in the empty root.
	err = unix.Exec("/proc/self/fd/"+strconv.Itoa(o.program), withExtra(o.args, extra), os.Environ())
	return fmt.Errorf("the sandbox's program: %w", err)
}

// orders is what the arguments say.
type orders struct {
	args      []string // for gVisor
	arguments int      // descriptor; -1: none
	program   int      // descriptor
	groups    []int    // descriptors
}

// open takes the descriptors for this program out of the arguments, and gives
// the guest's its number.
func open(args []string) (orders, error) {
	o := orders{args: make([]string, 0, len(args)+8), arguments: -1, program: -1}
	conversation := false
	for _, arg := range args {
		host, guest, ok := passedFile(arg)
		switch {
		case !ok:
			o.args = append(o.args, arg)
		case guest == ArgumentsFD:
			o.arguments = host
		case guest == ProgramFD:
			o.program = host
		case guest == StderrFD:
			if err := moveDescriptor(host, unix.Stderr); err != nil {
				return o, err
			}
		case guest == LinkFD:
			if err := moveDescriptor(host, KeptLinkFD); err != nil {
				return o, err
			}
		case guest >= GroupFD:
			o.groups = append(o.groups, host)
		case conversation:
			return o, errors.New("there are two files for the guest")
		default:
			if err := moveDescriptor(host, ConversationFD); err != nil {
				return o, err
			}
			conversation = true
			o.args = append(o.args, passFlag+strconv.Itoa(ConversationFD)+":"+strconv.Itoa(guest))
		}
	}
	if o.program < 0 {
		return o, errors.New("there is no program to execute")
	}
	unix.CloseOnExec(o.program)
	return o, nil
}

// keepOnlyPassed has every descriptor closed at the next execution that nobody
// meant to pass on. gVisor opens some without O_CLOEXEC, the server's connection to
// the kernel of another sandbox among them, and a process that is started in that
// moment inherits them. What is meant has the numbers from 3 on without a gap, with
// the passed files as the last ones.
func keepOnlyPassed(args []string) error {
	last := 2
	for _, arg := range args {
		if host, _, ok := passedFile(arg); ok {
			last = max(last, host)
		}
	}
	if err := unix.CloseRange(uint(last+1), math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("inherited descriptors: %w", err)
	}
	return nil
}

// join moves this thread into the control groups.
func (o *orders) join() error {
	for _, fd := range o.groups {
		_, err := unix.Write(fd, []byte("0"))
		if err = errors.Join(err, unix.Close(fd)); err != nil {
			return fmt.Errorf("control group: %w", err)
		}
	}
	return nil
}

// maxArguments bounds what is read of the pipe, in bytes.
const maxArguments = 4 << 10

func (o *orders) readArguments() ([]string, error) {
	if o.arguments < 0 {
		return nil, nil
	}
	text := make([]byte, 0, maxArguments)
	for {
		n, err := unix.Read(o.arguments, text[len(text):cap(text)])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("arguments: %w", err)
		}
		if n == 0 {
			break
		}
		if text = text[:len(text)+n]; len(text) == cap(text) {
			return nil, fmt.Errorf("arguments: more than %d bytes", maxArguments)
		}
	}
	return strings.Fields(string(text)), unix.Close(o.arguments)
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

// withExtra puts extra flags before the last argument, which is the name of the
// sandbox. A later flag wins over an earlier one of the same name.
func withExtra(args, extra []string) []string {
	if len(args) == 0 {
		return extra
	}
	last := len(args) - 1
	return append(append(append([]string{}, args[:last]...), extra...), args[last])
}
