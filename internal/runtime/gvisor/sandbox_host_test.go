package gvisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
	"github.com/agentsandbox/agentsandbox/internal/runtime/gvisor/birth"
)

// What the daemon has open must not reach a sandbox, and a sandbox's process
// must have no rights on the host.
func TestProcessInheritsNothing(t *testing.T) {
	h := newHost(t)
	secret, err := os.Create(filepath.Join(t.TempDir(), "secret"))
	must(t, err)
	defer secret.Close()
	t.Setenv("SECRET_OF_THE_DAEMON", "s")
	sb := h.start(testLimits).(*sandbox)
	proc := filepath.Join("/proc", strconv.Itoa(sb.m.process.pid))

	allowed := []string{"/dev/null", "socket:", "pipe:", "anon_inode:", "/memfd:"}
	if recipe, err := testRecipe(t.Context(), bareSnapshot); err == nil {
		allowed = append(allowed, recipe.Image.Path)
	}
	mine := map[string]string{}
	for fd, target := range descriptors(t, "/proc/self") {
		mine[target] = fd
	}
	conversations := 0
	for fd, target := range descriptors(t, proc) {
		ok := false
		for _, prefix := range allowed {
			ok = ok || strings.HasPrefix(target, prefix)
		}
		if !ok {
			t.Errorf("descriptor %s is %s", fd, target)
		}
		if fd == strconv.Itoa(birth.ConversationFD) {
			conversations++
		}
		// Pipes and sockets of this process: only the standard streams that lead
		// nowhere may be shared.
		if n, _ := strconv.Atoi(fd); mine[target] != "" && (strings.HasPrefix(target, "pipe:") || strings.HasPrefix(target, "socket:")) && (n < 256 || n > 258) {
			t.Errorf("descriptor %s is %s, which this process has as %s", fd, target, mine[target])
		}
	}
	if conversations != 1 {
		t.Error("the conversation does not have its number")
	}
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	must(t, err)
	for _, line := range []string{
		"Uid:\t65534\t65534\t65534\t65534", "Gid:\t65534\t65534\t65534\t65534", "CapEff:\t0000000000000000",
		"CapPrm:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2",
	} {
		if !strings.Contains(string(status), line+"\n") {
			t.Errorf("the process's status lacks %q", line)
		}
	}
	environ, err := os.ReadFile(filepath.Join(proc, "environ"))
	must(t, err)
	if strings.Contains(string(environ), "SECRET_OF_THE_DAEMON") {
		t.Errorf("environment %q", environ)
	}
	for _, ns := range []string{"user", "pid", "mnt", "ipc", "uts", "net"} {
		host, err := os.Readlink("/proc/self/ns/" + ns)
		must(t, err)
		inside, err := os.Readlink(filepath.Join(proc, "ns", ns))
		must(t, err)
		if host == inside {
			t.Errorf("the %s namespace is the host's", ns)
		}
	}
	score, err := os.ReadFile(filepath.Join(proc, "oom_score_adj"))
	must(t, err)
	if strings.TrimSpace(string(score)) != strconv.Itoa(oomScore) {
		t.Errorf("oom_score_adj is %s", score)
	}
	root, err := os.ReadDir(filepath.Join(proc, "root"))
	must(t, err)
	for _, e := range root {
		if e.Name() != "proc" {
			t.Errorf("the process sees /%s", e.Name())
		}
	}
	if left, err := os.ReadDir(filepath.Join(proc, "root", "proc")); err != nil || len(left) > 0 {
		t.Errorf("the process still sees /proc: %d entries, %v", len(left), err)
	}
	name, err := os.ReadFile(filepath.Join(proc, "comm"))
	must(t, err)
	if string(name) != "sandbox\n" {
		t.Errorf("ps shows %q", name)
	}
}

func descriptors(t *testing.T, proc string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(proc, "fd"))
	must(t, err)
	all := map[string]string{}
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join(proc, "fd", e.Name())); err == nil {
			all[e.Name()] = target
		}
	}
	return all
}

func TestStandardStreamsOfTheDaemon(t *testing.T) {
	before := [3]*os.File{os.Stdin, os.Stdout, os.Stderr}
	t.Run("while open", func(t *testing.T) {
		newHost(t)
		for i, now := range []*os.File{os.Stdin, os.Stdout, os.Stderr} {
			if now == before[i] {
				t.Errorf("standard stream %d would reach sandboxes, and change its owner", i)
			}
		}
		if _, err := os.Stdout.WriteString("x"); err == nil {
			t.Error("what is printed meanwhile is swallowed without an error")
		}
	})
	if after := [3]*os.File{os.Stdin, os.Stdout, os.Stderr}; after != before {
		t.Error("the standard streams are not back")
	}
}

func TestIdentityIsFresh(t *testing.T) {
	h := newHost(t)
	const code = `
import os, random, uuid, socket, tempfile, ssl
print(socket.gethostname())
print(open('/etc/machine-id').read().strip())
print(os.urandom(16).hex())
print(random.random())
print(uuid.uuid4())
print(ssl.RAND_bytes(16).hex())
print(tempfile.mktemp())
`
	a := strings.Split(python(t, h.start(testLimits), code), "\n")
	b := strings.Split(python(t, h.start(testLimits), code), "\n")
	if len(a) != 7 || len(b) != 7 {
		t.Fatalf("got %q and %q", a, b)
	}
	for i := range a {
		if a[i] == b[i] || a[i] == "" {
			t.Errorf("line %d is the same in two sandboxes: %q", i+1, a[i])
		}
	}
}

// Programs see their grant, not the host.
func TestGrantIsVisible(t *testing.T) {
	h := newHost(t)
	sb := h.start(runtime.Limits{MemoryBytes: 512 << 20, MilliCPUs: 1000, Tasks: 1024})
	got := python(t, sb, `
import os
kib = next(int(l.split()[1]) for l in open('/proc/meminfo') if l.startswith('MemTotal'))
print(os.cpu_count(), kib, os.getuid(), os.path.exists('/work'))`)
	if want := fmt.Sprintf("1 %d 1000 False", 512<<10); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// The wall holds when the inner limit does not.
func TestMemoryWallEndsTheSandbox(t *testing.T) {
	h := newHost(t)
	sb, neighbour := h.start(runtime.Limits{MemoryBytes: 256 << 20, MilliCPUs: 1000, Tasks: 2048}), h.start(testLimits)
	sb.(*sandbox).memory.limit.Store(0)
	out, err := try(t.Context(), sb, agentsandbox.Python, "a = []\nwhile True: a.append(bytearray(b'x') * (1 << 20))")
	if !errors.Is(err, runtime.ErrSandboxLost) {
		t.Errorf("the run ended with %v, %+v", err, out)
	}
	closed(t, "the end of the sandbox", sb.Done())
	usage, err := sb.Usage()
	must(t, err)
	// A kernel that has to kill may take a few pages beyond the wall meanwhile.
	const over = 1 << 20
	if usage.OOMKills == 0 || usage.MemoryPeakBytes < 256<<20 || usage.MemoryPeakBytes > MemoryWall(256<<20)+over {
		t.Errorf("usage %+v", usage)
	}
	if _, err := sb.Stat(t.Context(), "/"); !errors.Is(err, runtime.ErrSandboxLost) {
		t.Errorf("afterwards: %v", err)
	}
	if err := sb.SetLimits(t.Context(), testLimits); !errors.Is(err, runtime.ErrSandboxLost) {
		t.Errorf("limits of a lost sandbox: %v", err)
	}
	if got := python(t, neighbour, "print('alive')"); got != "alive" {
		t.Errorf("the neighbour says %q", got)
	}
	must(t, sb.Destroy(t.Context()))
	if _, err := sb.Usage(); !errors.Is(err, runtime.ErrSandboxLost) {
		t.Errorf("the counters of a destroyed sandbox: %v", err)
	}
}

func TestAbsurdAllocationFailsGently(t *testing.T) {
	sb := newHost(t).start(testLimits)
	got := python(t, sb, "try:\n  'a' * 10**12\nexcept MemoryError:\n  print('refused')")
	if got != "refused" {
		t.Errorf("got %q", got)
	}
	if got := python(t, sb, "print(1)"); got != "1" {
		t.Errorf("afterwards: %q", got)
	}
}

func TestForkBombIsBounded(t *testing.T) {
	h := newHost(t)
	limits := runtime.Limits{MemoryBytes: 2 << 30, MilliCPUs: 1000, Tasks: 1024}
	sb := h.start(limits).(*sandbox)
	out, err := try(t.Context(), sb, agentsandbox.Python, `
import os, signal
n = 0
try:
    while True:
        pid = os.fork()
        if pid == 0:
            signal.pause()
        n += 1
except OSError as e:
    print(e.errno, n > 100, flush=True)
os.kill(0, signal.SIGKILL)`)
	must(t, err)
	if !strings.Contains(out.stdout, "11 True") {
		t.Errorf("printed %q, result %+v", out.stdout, out.result)
	}
	pids, err := sb.m.group.Pids()
	must(t, err)
	if int64(len(pids)) > limits.Tasks {
		t.Errorf("%d processes on the host", len(pids))
	}
	if got := python(t, sb, "print('usable')"); got != "usable" {
		t.Errorf("afterwards: %q", got)
	}
}

func TestDiskQuota(t *testing.T) {
	h := newHostWith(t, func(o *Options) { o.DiskBytes = 64 << 20 })
	got := python(t, h.start(testLimits), `
import errno
for path in ('/workspace/a', '/tmp/b'):
    try:
        with open(path, 'wb') as f:
            for _ in range(200): f.write(b'x' * (1 << 20)); f.flush()
        print('all of it')
    except OSError as e:
        print(errno.errorcode[e.errno])`)
	if got != "ENOSPC\nENOSPC" {
		t.Errorf("got %q", got)
	}
}

func TestLimitsChange(t *testing.T) {
	h := newHost(t)
	sb := h.start(testLimits).(*sandbox)
	must(t, sb.SetLimits(t.Context(), runtime.Limits{MemoryBytes: 2 << 30, MilliCPUs: 2000, Tasks: 3000}))
	must(t, sb.SetLimits(t.Context(), runtime.Limits{MemoryBytes: 300 << 20, MilliCPUs: 500, Tasks: 500}))
	if err := sb.SetLimits(t.Context(), runtime.Limits{MemoryBytes: 1 << 20}); err == nil || !strings.Contains(err.Error(), "memory") {
		t.Errorf("a limit below what is in use was taken: %v", err)
	}
	if got := python(t, sb, "print(1)"); got != "1" {
		t.Errorf("afterwards: %q", got)
	}
}

func TestStartFailures(t *testing.T) {
	h := newHost(t)
	tests := []struct {
		name string
		spec runtime.Spec
		says string
	}{
		{"bad id", runtime.Spec{ID: "../x", Snapshot: bareSnapshot}, "letters"},
		{"unknown snapshot", runtime.Spec{ID: "a", Snapshot: "none"}, "no such snapshot"},
		{"too little memory", runtime.Spec{ID: "b", Snapshot: bareSnapshot, Limits: runtime.Limits{MemoryBytes: 4 << 20}}, "memory limit"},
		{"too few tasks", runtime.Spec{ID: "c", Snapshot: bareSnapshot, Limits: runtime.Limits{Tasks: 2}}, "task limit"},
		{"almost enough tasks", runtime.Spec{ID: "e", Snapshot: bareSnapshot, Limits: runtime.Limits{Tasks: 14}}, "task limit"},
		{"negative limit", runtime.Spec{ID: "d", Snapshot: bareSnapshot, Limits: runtime.Limits{Tasks: -2}}, "negative"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			sb, err := h.Start(t.Context(), tt.spec)
			if err == nil || sb != nil {
				t.Fatal("it started")
			}
			if !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "\n\n") {
				t.Errorf("%q does not say %q", err, tt.says)
			}
			if left := sandboxProcesses(h.stateDir); len(left) > 0 {
				t.Errorf("processes %v are left", left)
			}
		})
	}
	sb := h.start(testLimits)
	if _, err := h.Start(t.Context(), runtime.Spec{ID: sb.ID(), Snapshot: bareSnapshot}); err == nil {
		t.Error("two sandboxes have one id")
	}
	if got := python(t, sb, "print(1)"); got != "1" {
		t.Errorf("the first of that id: %q", got)
	}
}

func TestCancelledStart(t *testing.T) {
	h := newHost(t)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.Start(gone, h.spec(testLimits)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	// Cancelled when the process has joined its group, in the middle of its start.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	spec := h.spec(testLimits)
	group, err := h.parent.Group(spec.ID)
	must(t, err)
	result := make(chan error, 1)
	go func() { _, err := h.Start(ctx, spec); result <- err }()
	eventually(t, "a process in the group", func() bool { pids, _ := group.Pids(); return len(pids) > 0 })
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	// The server has a group and a mark of its own.
	left := slices.DeleteFunc(traces(h.stateDir), func(trace string) bool {
		return strings.HasPrefix(trace, "/sys/fs/cgroup") || filepath.Base(trace) == ownerFile
	})
	if len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// A sandbox whose process is killed, or whose conversation breaks, is done.
func TestDone(t *testing.T) {
	h := newHost(t)
	ends := map[string]func(*sandbox){
		"process":      func(s *sandbox) { must(t, s.m.process.kill()) },
		"conversation": func(s *sandbox) { must(t, s.client.Close()) },
		"destroyed":    func(s *sandbox) { must(t, s.Destroy(t.Context())) },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			sb := h.start(testLimits).(*sandbox)
			select {
			case <-sb.Done():
				t.Fatal("done before its end")
			default:
			}
			end(sb)
			closed(t, "done", sb.Done())
			if _, err := try(t.Context(), sb, agentsandbox.Bash, "true"); !errors.Is(err, runtime.ErrSandboxLost) {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

func TestDestroyFromManySides(t *testing.T) {
	h := newHost(t)
	sb := h.start(testLimits)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	var wg sync.WaitGroup
	for i := range 8 {
		ctx := t.Context()
		if i%2 == 0 {
			ctx = gone // must not leave the work half done
		}
		wg.Go(func() {
			if err := sb.Destroy(ctx); err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	must(t, sb.Destroy(t.Context()))
	closed(t, "done", sb.Done())
}

func TestNothingIsLeftOfTwenty(t *testing.T) {
	h := newHost(t)
	cycle := func(n int) {
		var wg sync.WaitGroup
		for range n {
			wg.Go(func() {
				sb, err := h.Start(t.Context(), h.spec(testLimits))
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := try(t.Context(), sb, agentsandbox.Python, "print(1)"); err != nil {
					t.Error(err)
				}
				if err := sb.Destroy(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	cycle(2) // what is made once and kept
	goruntime.GC()
	// Sandboxes that a test released and took over again are zombies of this
	// process, which does not wait for what is not its own.
	before := children(t)
	goroutines, files := goruntime.NumGoroutine(), len(descriptors(t, "/proc/self"))
	for range 5 {
		cycle(4)
	}
	eventually(t, "the end of every goroutine and descriptor", func() bool {
		// gVisor leaves the descriptors that Go keeps of processes to the collector.
		goruntime.GC()
		return goruntime.NumGoroutine() <= goroutines && len(descriptors(t, "/proc/self")) <= files
	})
	if n := children(t); n > before {
		t.Errorf("%d children before, %d after", before, n)
	}
	groups, err := h.parent.List()
	if err != nil || len(groups) > 0 {
		t.Errorf("groups %v are left: %v", groups, err)
	}
}

// TestKernelGivesBackWhatItsStartTook checks that a sandbox that lives does not keep
// the garbage of its start.
func TestKernelGivesBackWhatItsStartTook(t *testing.T) {
	h := newHost(t)
	sb := h.start(testLimits).(*sandbox)
	anonymous := func() int {
		status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(sb.m.process.pid), "status"))
		must(t, err)
		_, rest, _ := strings.Cut(string(status), "\nRssAnon:")
		kilobytes, err := strconv.Atoi(strings.Fields(rest)[0])
		must(t, err)
		return kilobytes
	}
	first := anonymous()
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		now := anonymous()
		if now < first*5/6 {
			t.Logf("from %d to %d KiB", first, now)
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d KiB after the start, and still %d", first, now)
		}
	}
}
