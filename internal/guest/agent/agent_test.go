package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/guest/assets"
	"github.com/agentsandbox/agentsandbox/internal/guest/proc"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

func deadline(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits until a check holds.
func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	ctx := deadline(t)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !check() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not in time: %s", what)
		}
	}
}

// newAgent makes an agent below a temporary directory. The whole contract is
// tested through the fake runtime; these tests are about what only the agent
// knows.
func newAgent(t *testing.T, change func(*Options)) *Agent {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{agentsandbox.Workspace, "/etc", guest.Home, guest.LauncherDir} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range assets.Launchers() {
		if err := os.WriteFile(filepath.Join(root, f.Path), f.Data, f.Mode); err != nil {
			t.Fatal(err)
		}
	}
	opts := Options{
		Root:        root,
		Python:      "/usr/bin/python3",
		Bash:        "/bin/bash",
		LauncherDir: filepath.Join(root, guest.LauncherDir),
		Env:         []string{"PATH=/usr/bin:/bin", "HOME=" + filepath.Join(root, guest.Home), "LANG=C.UTF-8"},
		Logger:      slog.New(slog.DiscardHandler),
	}
	if _, err := os.Stat(opts.Python); err != nil {
		if opts.Python, err = exec.LookPath("python3"); err != nil {
			t.Fatal(err)
		}
	}
	if change != nil {
		change(&opts)
	}
	a, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

func socketpair(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		if conns[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return conns[0], conns[1]
}

// serve lets the agent hold one conversation and returns the host's end.
func serve(t *testing.T, a *Agent) net.Conn {
	t.Helper()
	host, inside := socketpair(t)
	var wg sync.WaitGroup
	wg.Go(func() { _ = a.Serve(context.Background(), inside) })
	t.Cleanup(func() {
		host.Close()
		wg.Wait()
	})
	return host
}

func client(t *testing.T, a *Agent) *guest.Client {
	t.Helper()
	c, err := guest.NewClient(deadline(t), serve(t, a))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

var serial int

// do runs code to its end and returns what it printed.
func do(t *testing.T, c *guest.Client, language agentsandbox.Language, code string, env map[string]string) string {
	t.Helper()
	serial++
	r, err := c.Run(deadline(t), runtime.Command{ID: fmt.Sprintf("run%d", serial), Language: language, Code: code, Env: env})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var out strings.Builder
	for {
		e, err := r.Next(deadline(t))
		if err != nil {
			t.Fatal(err)
		}
		if e.Result != nil {
			return out.String()
		}
		out.Write(e.Data)
	}
}

func python(t *testing.T, c *guest.Client, code string, env map[string]string) string {
	t.Helper()
	return do(t, c, agentsandbox.Python, code, env)
}

// scriptDir is where the agent has its scripts.
func scriptDir(a *Agent) string { return filepath.Join(a.opts.Root, guest.ScriptDir) }

// waitingPID returns the interpreter that waits, if no run is under way; 0: none.
func (a *Agent) waitingPID() int {
	programs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range programs {
		line, _ := os.ReadFile(path)
		if args := strings.Split(string(line), "\x00"); len(args) > 2 && args[1] == "-P" && strings.HasPrefix(args[2], scriptDir(a)) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			return pid
		}
	}
	return 0
}

func TestConversationsFollowEachOtherOnOneSocket(t *testing.T) {
	a := newAgent(t, nil)
	host, inside := socketpair(t)
	t.Cleanup(func() { host.Close() })
	var wg sync.WaitGroup
	served := make(chan error, 2)
	wg.Go(func() {
		for range 2 {
			served <- a.Serve(context.Background(), inside)
		}
	})
	t.Cleanup(wg.Wait)

	first, err := guest.NewClient(deadline(t), host)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.PrepareSnapshot(deadline(t), nil); err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Fatalf("the agent ended the first conversation with %v", err)
	}
	<-first.Done()
	if _, err := first.Stat(deadline(t), "/"); !errors.Is(err, runtime.ErrSandboxLost) {
		t.Errorf("the first conversation goes on: %v", err)
	}
	waiting := a.waitingPID()
	if waiting == 0 {
		t.Fatal("no interpreter waits")
	}

	second, err := guest.NewClient(deadline(t), host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { second.Close() })
	id := guest.Identity{Hostname: "sbx-7", MachineID: strings.Repeat("5e", 16), Entropy: make([]byte, 32), Resolver: "192.0.0.1"}
	if err := second.Identify(deadline(t), id); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"hostname": "sbx-7\n", "machine-id": id.MachineID + "\n", "hosts": "127.0.1.1\tsbx-7\n", "resolv.conf": "nameserver 192.0.0.1\n"} {
		got, err := os.ReadFile(a.path("/etc/" + name))
		if err != nil || !strings.HasSuffix(string(got), want) {
			t.Errorf("/etc/%s: %q, %v", name, got, err)
		}
	}
	if got := python(t, second, "import os; print(os.getpid())", nil); got != strconv.Itoa(waiting)+"\n" {
		t.Errorf("process %q ran the code, %d had waited for it", got, waiting)
	}
	eventually(t, "another interpreter waits", func() bool { p := a.waitingPID(); return p != 0 && p != waiting })
}

func TestPrepareRefusesWhileSomethingRuns(t *testing.T) {
	a := newAgent(t, nil)
	c := client(t, a)
	r, err := c.Run(deadline(t), runtime.Command{ID: "r", Language: agentsandbox.Bash, Code: "echo ready; sleep 1000"})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.Next(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if err := c.PrepareSnapshot(deadline(t), nil); !errors.Is(err, runtime.ErrInvalid) {
		t.Errorf("PrepareSnapshot: %v, want ErrInvalid", err)
	}
}

func TestUploadsAreNotCollected(t *testing.T) {
	a := newAgent(t, nil)
	c := client(t, a)
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		_, err := c.WriteFile(deadline(t), "/workspace/upload", r)
		written <- err
	}()
	if _, err := w.Write(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	uploads := func() int {
		a.uploads.mu.Lock()
		defer a.uploads.mu.Unlock()
		return len(a.uploads.files)
	}
	eventually(t, "the upload has begun", func() bool { return uploads() == 1 })
	// The temporary file was there before, and grows meanwhile.
	req := &guest.RunRequest{CollectDirs: [][]byte{[]byte("/workspace")}}
	if changed, omitted := a.changedFiles(req); len(changed) != 0 || len(omitted) != 0 {
		t.Errorf("changed: %+v, %v omitted", changed, omitted)
	}
	w.Close()
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	if changed, _ := a.changedFiles(req); len(changed) != 0 {
		t.Errorf("afterwards: %+v", changed)
	}
	eventually(t, "no upload is left", func() bool { return uploads() == 0 })
}

func TestNothingIsLeftAfterARun(t *testing.T) {
	a := newAgent(t, nil)
	c := client(t, a)
	before := descriptors(t)
	for range 5 {
		do(t, c, agentsandbox.Bash, "echo x", nil)
		python(t, c, "print(1)", map[string]string{"TZ": "UTC"})
	}
	eventually(t, "every script is removed but those of the interpreter and the shell that wait", func() bool {
		left, err := os.ReadDir(scriptDir(a))
		return err == nil && len(left) == 2 && a.waitingPID() != 0
	})
	// The interpreter and the shell that wait hold four each: two pipes, an eventfd and a socket.
	if after := descriptors(t); after > before+8 {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// TestChildrenInheritNothing compares what a run has open with what this test
// was started with.
func TestChildrenInheritNothing(t *testing.T) {
	a := newAgent(t, nil)
	c := client(t, a)
	inherited := 0
	for fd := 3; fd < 1024; fd++ {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			inherited++
		}
	}
	code := "import os\nn = 0\nfor fd in range(3, 1024):\n    try: os.fstat(fd); n += 1\n    except OSError: pass\nprint(n)"
	for range 2 {
		if got := python(t, c, code, nil); got != strconv.Itoa(inherited)+"\n" {
			t.Errorf("the code has %q descriptors besides its streams, want %d", got, inherited)
		}
	}
	if got := do(t, c, agentsandbox.Bash, "n=0; for fd in /proc/$$/fd/*; do case ${fd##*/} in 0|1|2|255) ;; *) test -e $fd && n=$((n+1)) ;; esac; done; echo $n", nil); got != strconv.Itoa(inherited)+"\n" {
		t.Errorf("bash has %q descriptors besides its streams and script, want %d", got, inherited)
	}
}

func TestUserThreads(t *testing.T) {
	if os.Geteuid() != 0 {
		// Only root can try: without it, becoming the user has to fail clearly.
		if _, err := newUserThreads(&proc.User{UID: 1000, GID: 1000}); err == nil {
			t.Error("newUserThreads succeeds without root")
		}
		return
	}
	threads, err := newUserThreads(&proc.User{UID: 1000, GID: 1000})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	locked := filepath.Join(dir, "locked")
	if err := os.WriteFile(locked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err = threads.do(func() error {
		_, err := os.ReadFile(locked)
		return err
	})
	if !errors.Is(err, unix.EACCES) {
		t.Errorf("the user reads root's file: %v", err)
	}
	if err := threads.do(func() error {
		var r, e, s int
		r, e, s = unix.Getresuid()
		if r != 0 || e != 1000 || s != 0 {
			return fmt.Errorf("ids %d, %d, %d", r, e, s)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if os.Geteuid() != 0 {
		t.Error("other threads changed too")
	}
}
