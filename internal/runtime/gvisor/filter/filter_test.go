package filter

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"gvisor.dev/gvisor/pkg/bpf"
	"gvisor.dev/gvisor/pkg/seccomp"
	"gvisor.dev/gvisor/runsc/boot/filter/config"

	"github.com/agentsandbox/agentsandbox/internal/roottest"
)

// referenceVariable turns this test program into a process that writes the filter
// that gVisor makes in it, for the descriptor that the variable holds.
const referenceVariable = "AGENTSANDBOX_TEST_REFERENCE"

func TestMain(m *testing.M) {
	if fd := os.Getenv(referenceVariable); fd != "" {
		if err := writeReference(os.Stdout, fd); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// writeReference makes the filter as gVisor does that has none ready.
func writeReference(w io.Writer, fd string) error {
	controller, err := strconv.ParseUint(fd, 10, 32)
	if err != nil {
		return err
	}
	opts := options(nil)
	opts.Platform = opts.Platform.(withValues).SeccompInfo
	opts.ControllerFD = uint32(controller)
	rules, denied := config.Rules(opts)
	program := &seccomp.Program{
		RuleSets: []seccomp.RuleSet{{Rules: denied}, {Rules: rules, Action: seccomp.Allow}},
		Options:  config.SeccompOptions(opts),
	}
	instructions, _, err := program.Build()
	if err != nil {
		return err
	}
	_, err = w.Write(bpf.ToBytecode(instructions))
	return err
}

// What is ready must be, to the last bit, what gVisor would make in the process of
// a sandbox, which is number 1 of its namespace.
func TestReadyIsGVisors(t *testing.T) {
	roottest.Need(t, "makes a namespace")
	for _, controller := range []uint32{3, 11} {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{referenceVariable + "=" + strconv.Itoa(int(controller))}
		cmd.Stderr = os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
		want, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Program(1, controller)
		if err != nil {
			t.Fatal(err)
		}
		if got == nil {
			if len(programs) > 0 {
				t.Fatal("the filter that is ready is not for the settings of sandboxes")
			}
			return // nothing for this architecture
		}
		if !bytes.Equal(bpf.ToBytecode(got), want) {
			t.Errorf("control server on %d: the filter is not gVisor's: run go generate ./internal/runtime/gvisor/filter", controller)
		}
	}
}

// The generated file is the one of this gVisor.
func TestReadyIsCompiledAnew(t *testing.T) {
	if len(programs) == 0 {
		return // nothing for this architecture
	}
	now, err := Compile()
	if err != nil {
		t.Fatal(err)
	}
	ready := programs[0]
	if now.Name != ready.Name || len(now.VarOffsets) != len(ready.VarOffsets) {
		t.Fatalf("compiled: %s, %v; ready: %s, %v", now.Name, now.VarOffsets, ready.Name, ready.VarOffsets)
	}
	for name, offsets := range now.VarOffsets {
		if !slices.Equal(offsets, ready.VarOffsets[name]) {
			t.Errorf("variable %s stands at %v, compiled at %v", name, ready.VarOffsets[name], offsets)
		}
	}
}

func TestRegister(t *testing.T) {
	Register()
	for _, p := range programs {
		if _, ok := ready[p.Name]; !ok {
			t.Errorf("gVisor does not find %s", p.Name)
		}
	}
	if len(ready) != len(programs) {
		t.Errorf("%d filters are ready", len(ready))
	}
}

// A gVisor with another rule must not get a filter with the number of the process
// that compiled it.
func TestReplacePID(t *testing.T) {
	rules := seccomp.MakeSyscallRules(map[uintptr]seccomp.SyscallRule{syscall.SYS_RT_TGSIGQUEUEINFO: seccomp.MatchAll{}})
	if err := replacePID(rules, 1); err == nil {
		t.Error("a rule that is not known was replaced")
	}
}
