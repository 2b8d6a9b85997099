package gvisor

import (
	"bytes"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/bpf"

	"github.com/agentsandbox/agentsandbox/internal/runtime/gvisor/filter"
)

// The filter that the host's kernel has of a sandbox's process is the one that is
// ready, which package filter's tests show to be what gVisor makes by itself.
func TestFilterInForce(t *testing.T) {
	h := newHost(t)
	pid := h.start(testLimits).(*sandbox).m.process.pid
	args, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	must(t, err)
	_, after, _ := strings.Cut(string(args), "--controller-fd=")
	number, _, _ := strings.Cut(after, "\x00")
	controller, err := strconv.ParseUint(number, 10, 32)
	must(t, err)
	want, err := filter.Program(1, uint32(controller))
	must(t, err)
	if want == nil {
		if goruntime.GOARCH == "amd64" {
			t.Fatal("no filter is ready")
		}
		return // gVisor made it
	}
	if got := filterOf(t, pid); !bytes.Equal(got, bpf.ToBytecode(want)) {
		t.Errorf("another filter is in force: %d bytes", len(got))
	}
}

// filterOf reads the filter that a process installed last.
func filterOf(t *testing.T, pid int) []byte {
	t.Helper()
	goruntime.LockOSThread() // who traces is a thread
	defer goruntime.UnlockOSThread()
	must(t, unix.PtraceAttach(pid))
	defer func() { must(t, unix.PtraceDetach(pid)) }()
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, unix.WALL, nil); err != nil || !status.Stopped() {
		t.Fatalf("the process did not stop: %v, %v", status, err)
	}
	const maxInstructions = 4096 // the kernel takes no more
	code := make([]unix.SockFilter, maxInstructions)
	n, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SECCOMP_GET_FILTER, uintptr(pid), 0, uintptr(unsafe.Pointer(&code[0])), 0, 0)
	if errno != 0 {
		t.Fatalf("the process's filter: %v", errno)
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&code[0])), int(n)*int(unsafe.Sizeof(code[0])))
}
