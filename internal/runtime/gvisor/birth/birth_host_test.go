package birth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/roottest"
)

// These tests make processes as gVisor does, which needs root.

// newborn is the name that the test program is executed with to be born, and then
// to report what it became.
const newborn = "newborn"

// state is what the process found itself to be.
type state struct {
	Args        []string
	Env         []string
	Descriptors []int
	Root        []string
	Capable     string // all sets of capabilities, from the kernel
	Users       string
	PID         int
	ReadOnly    bool // the root cannot be written
	Status      int  // of the child that took /proc away
	ProcAfter   []string
}

// report stands for gVisor's kernel: it looks around, has /proc taken away, and
// looks again.
func report() int {
	var s state
	s.Args, s.Env, s.PID = os.Args, os.Environ(), os.Getpid()
	s.Root = names("/")
	for _, name := range names("/proc/self/fd") {
		if fd, err := strconv.Atoi(name); err == nil {
			s.Descriptors = append(s.Descriptors, fd)
		}
	}
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		switch name, value, _ := strings.Cut(line, ":"); {
		case strings.HasPrefix(name, "Cap"):
			s.Capable += strings.TrimSpace(value) + " "
		case name == "Uid", name == "Gid", name == "Groups":
			s.Users += strings.Join(strings.Fields(value), " ") + ";"
		}
	}
	s.ReadOnly = unix.Mkdir("/new", 0o755) == unix.EROFS
	const flag = "--proc-mount-sync-fd="
	i := slices.IndexFunc(os.Args, func(a string) bool { return strings.HasPrefix(a, flag) })
	fd, _ := strconv.Atoi(strings.TrimPrefix(os.Args[i], flag))
	if slices.Contains(os.Args, "die-early") {
		return 0
	}
	_, _ = unix.Write(fd, []byte{0})
	var ended unix.WaitStatus
	_, _ = unix.Wait4(0, &ended, 0, nil)
	s.Status = int(ended)
	s.ProcAfter = names("/proc")
	if err := json.NewEncoder(os.Stdout).Encode(s); err != nil {
		return 1
	}
	return 0
}

func names(dir string) []string {
	entries, _ := os.ReadDir(dir)
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// leakedFD is the least number of a descriptor that the process inherits and
// should not: gVisor needs 256 to 258 for itself.
const leakedFD = 256

// bear starts the test program in namespaces of its own, as nobody, with the
// rights that gVisor gives for the first steps. stderr is the path of what it says.
func bear(t *testing.T, args ...string) (cmd *exec.Cmd, out *bytes.Buffer, stderr string) {
	t.Helper()
	program, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	conversation, link := devNull(t), devNull(t)
	defer conversation.Close()
	defer link.Close()
	// gVisor does so too: whoever started the tests may have left files open.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	// As a descriptor that gVisor opens just then is: nobody means to pass it on.
	leaked, err := unix.FcntlInt(program.Fd(), unix.F_DUPFD, leakedFD)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(leaked) })
	says, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer says.Close()
	cmd = exec.Command("/proc/self/exe")
	cmd.ExtraFiles = []*os.File{program, conversation, link, says}
	cmd.Args = slices.Concat([]string{newborn, "boot", fmt.Sprintf("--pass-fd=3:%d", ProgramFD), "--pass-fd=4:3", fmt.Sprintf("--pass-fd=5:%d", LinkFD), fmt.Sprintf("--pass-fd=6:%d", StderrFD)}, args)
	cmd.Env = []string{"ONE=1"}
	out = &bytes.Buffer{}
	cmd.Stdout = out
	one := []syscall.SysProcIDMap{{ContainerID: nobody, HostID: nobody, Size: 1}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:      true,
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWNET,
		UidMappings: one, GidMappings: one,
		Credential:  &syscall.Credential{Uid: nobody, Gid: nobody},
		AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SYS_CHROOT, unix.CAP_SETPCAP, unix.CAP_SYS_PTRACE},
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, out, says.Name()
}

func TestBirth(t *testing.T) {
	cmd, out, _ := bear(t, "the-id")
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var s state
	if err := json.Unmarshal(out.Bytes(), &s); err != nil {
		t.Fatal(err)
	}
	if len(s.Args) != 6 || s.Args[0] != newborn || s.Args[1] != "boot" || s.Args[2] != "--pass-fd=512:3" ||
		s.Args[3] != "--setup-root=false" || s.Args[5] != "the-id" {
		t.Errorf("arguments %q", s.Args)
	}
	if !slices.Equal(s.Env, []string{"ONE=1"}) {
		t.Errorf("environment %q", s.Env)
	}
	// The root has nothing in it but /proc, and after that nothing at all.
	if !slices.Equal(s.Root, []string{"proc"}) || !s.ReadOnly || len(s.ProcAfter) != 0 || s.Status != 0 {
		t.Errorf("root %q, read-only %v, /proc afterwards %q, status %d", s.Root, s.ReadOnly, s.ProcAfter, s.Status)
	}
	if s.PID != 1 {
		t.Errorf("it sees itself as process %d", s.PID)
	}
	if want := strings.Repeat("0000000000000000 ", 5); s.Capable != want {
		t.Errorf("capabilities %s", s.Capable)
	}
	if want := "65534 65534 65534 65534;65534 65534 65534 65534;;"; s.Users != want {
		t.Errorf("users and groups %s", s.Users)
	}
	// Standard streams, the end of the pipe, the one that looks, and the guest's.
	for _, fd := range s.Descriptors {
		if fd > 9 && fd != ConversationFD && fd != KeptLinkFD {
			t.Errorf("descriptor %d is open", fd)
		}
	}
	if !slices.Contains(s.Descriptors, ConversationFD) {
		t.Errorf("the guest's conversation is not among %v", s.Descriptors)
	}
	if !slices.Contains(s.Descriptors, KeptLinkFD) {
		t.Errorf("the server's end of the network is not among %v", s.Descriptors)
	}
}

// A process that ends before it was sealed off leaves no child: Wait would not
// return as long as one has standard output open.
func TestBirthThatEndsEarly(t *testing.T) {
	cmd, _, _ := bear(t, "die-early", "the-id")
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
}

func TestBirthSaysWhyItFailed(t *testing.T) {
	// There is no descriptor 7 to join a group with.
	cmd, _, stderr := bear(t, fmt.Sprintf("--pass-fd=7:%d", GroupFD), "the-id")
	err := cmd.Wait()
	if exit := (&exec.ExitError{}); !errors.As(err, &exit) || exit.ExitCode() != ExitStatus {
		t.Errorf("it ended with %v", err)
	}
	if said, err := os.ReadFile(stderr); err != nil || !strings.HasPrefix(string(said), "birth: control group: bad file descriptor\n") {
		t.Errorf("it said %q, %v", said, err)
	}
}

// Somebody who is not nobody keeps rights by being who he is.
func TestBirthRefusesOthers(t *testing.T) {
	roottest.Need(t, "needs a user who is not nobody")
	if os.Getuid() == nobody {
		t.Fatal("these tests need root")
	}
	if err := dropRights(); err == nil {
		t.Error("went on")
	}
}
