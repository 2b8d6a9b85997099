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
	"github.com/agentsandbox/agentsandbox/internal/guest/wire"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

func deadline(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
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
	if err := os.WriteFile(filepath.Join(root, guest.LauncherPath), assets.Launcher(), 0o644); err != nil {
		t.Fatal(err)
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

// waitingPID returns the process that waits, 0 for none.
func (a *Agent) waitingPID() int {
	a.interprets.mu.Lock()
	defer a.interprets.mu.Unlock()
	if it := a.interprets.waiting; it != nil {
		return it.pid
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
	if err := first.PrepareSnapshot(deadline(t)); err != nil {
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
	id := guest.Identity{Hostname: "sbx-7", MachineID: strings.Repeat("5e", 16), Entropy: make([]byte, 32)}
	if err := second.Identify(deadline(t), id); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"hostname": "sbx-7\n", "machine-id": id.MachineID + "\n", "hosts": "127.0.1.1\tsbx-7\n"} {
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
	if err := c.PrepareSnapshot(deadline(t)); !errors.Is(err, runtime.ErrInvalid) {
		t.Errorf("PrepareSnapshot: %v, want ErrInvalid", err)
	}
}

func TestPrepareSaysWhyNoInterpreterWaits(t *testing.T) {
	c := client(t, newAgent(t, func(o *Options) { o.Env = append(o.Env, "PYTHONHOME=/nowhere") }))
	if err := c.PrepareSnapshot(deadline(t)); !errors.Is(err, guest.ErrNotStarted) || !strings.Contains(err.Error(), "encodings") {
		t.Errorf("PrepareSnapshot: %v", err)
	}
	c = client(t, newAgent(t, func(o *Options) { o.Python = "/nowhere/python3" }))
	if err := c.PrepareSnapshot(deadline(t)); !errors.Is(err, guest.ErrNotStarted) || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("PrepareSnapshot: %v", err)
	}
}

func TestWaitingInterpreterIsUsedOnlyWhereItIsAsGoodAsNew(t *testing.T) {
	a := newAgent(t, nil)
	c := client(t, a)
	const pid = "import os; print(os.getpid())"
	ready := func() int {
		t.Helper()
		if err := a.interprets.wait(deadline(t)); err != nil {
			t.Fatal(err)
		}
		return a.waitingPID()
	}
	is := func(got string, waiting int, want bool) {
		t.Helper()
		if (got == strconv.Itoa(waiting)+"\n") != want {
			t.Errorf("process %q ran the code, %d was waiting; the same is %v", got, waiting, want)
		}
	}
	p := ready()
	is(python(t, c, pid, map[string]string{"X": "1"}), p, true)

	p = ready()
	is(python(t, c, pid, map[string]string{"PYTHONOPTIMIZE": "1"}), p, false)
	is(python(t, c, pid, nil), p, true) // it waited on

	p = ready()
	if err := unix.Kill(p, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	is(python(t, c, pid, nil), p, false)

	p = ready()
	if err := unix.Kill(p, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	is(python(t, c, pid, nil), p, false)

	p = ready()
	site := strings.TrimSpace(python(t, c, "import site; print(site.getusersitepackages())", map[string]string{"TZ": "UTC"}))
	if err := os.MkdirAll(site, 0o755); err != nil {
		t.Fatal(err)
	}
	is(python(t, c, pid, nil), p, false)

	p = ready()
	if err := os.WriteFile(filepath.Join(site, "module.py"), []byte("word = 1"), 0o644); err != nil {
		t.Fatal(err)
	}
	is(python(t, c, "import module, os; print(os.getpid())", nil), p, false)
}

// TestRandomStateIsNew checks the promise on which snapshots rest: whatever an
// interpreter has loaded while it waits, runs draw different numbers.
func TestRandomStateIsNew(t *testing.T) {
	a := newAgent(t, nil)
	c := client(t, a)
	site := strings.TrimSpace(python(t, c, "import site; print(site.getusersitepackages())", nil))
	if err := os.MkdirAll(site, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(site, "seed.pth"), []byte("import random; random.seed(1)\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for range 3 {
		if err := a.interprets.wait(deadline(t)); err != nil {
			t.Fatal(err)
		}
		seen[python(t, c, "import sys\nassert 'random' in sys.modules\nimport random; print(random.random())", nil)] = true
	}
	if len(seen) != 3 {
		t.Errorf("the runs drew %v", seen)
	}
}

func TestRunsThatCannotStart(t *testing.T) {
	a := newAgent(t, func(o *Options) { o.Bash = "/nowhere/bash" })
	c := client(t, a)
	for name, tc := range map[string]struct {
		language agentsandbox.Language
		spoil    func()
		want     string
	}{
		"no interpreter": {agentsandbox.Bash, func() {}, "start bash: no such file or directory"},
		"no script":      {agentsandbox.Python, func() { os.RemoveAll(a.scripts.dir) }, "make room for the script"},
	} {
		tc.spoil()
		r, err := c.Run(deadline(t), runtime.Command{ID: "r", Language: tc.language, Code: "1"})
		if err == nil {
			_, err = r.Next(deadline(t))
			r.Close()
		}
		if !errors.Is(err, guest.ErrNotStarted) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.runs) != 0 {
		t.Errorf("%d runs are left", len(a.runs))
	}
}

func TestNotStartedSaysWhatToDo(t *testing.T) {
	for errno, want := range map[unix.Errno]string{
		unix.EAGAIN: "limit of processes", unix.ENOMEM: "no memory", unix.ENOSPC: "file system is full", unix.E2BIG: "environment",
	} {
		if f := failureOf(notStarted("start", errno)); f.Code != guest.FailNotStarted || !strings.Contains(f.Text, want) {
			t.Errorf("%v: %+v", errno, f)
		}
	}
}

// follow opens a stream for a run, as a host does.
func follow(t *testing.T, conn *wire.Conn, req guest.Request) *wire.Stream {
	t.Helper()
	var l opening
	if err := guest.SendDocument(deadline(t), &l, guest.KindRequest, req); err != nil {
		t.Fatal(err)
	}
	s, err := conn.Open(deadline(t), l.kind, l.payload)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

type opening struct {
	kind    uint8
	payload []byte
}

func (o *opening) Send(_ context.Context, kind uint8, payload []byte) error {
	o.kind, o.payload = kind, append([]byte(nil), payload...)
	return nil
}

// take receives numbered messages up to the result, or as many as it is asked
// for, and returns their bytes and the last number.
func take(t *testing.T, s *wire.Stream, after uint64, most int) (string, uint64, bool) {
	t.Helper()
	var out strings.Builder
	for range most {
		m, err := s.Recv(deadline(t))
		if err != nil {
			t.Fatal(err)
		}
		seq, payload, err := guest.ParseSequence(m.Payload)
		if err != nil || seq != after+1 {
			t.Fatalf("message %d after %d, %v", seq, after, err)
		}
		after = seq
		if m.Kind == guest.KindResult {
			return out.String(), after, true
		}
		out.Write(payload)
	}
	return out.String(), after, false
}

func TestRunOutlivesItsConversation(t *testing.T) {
	a := newAgent(t, nil)
	code := "echo one; until test -e go; do sleep 0.01; done; echo two"
	first, err := wire.Dial(deadline(t), serve(t, a), wire.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := follow(t, first, guest.Request{Method: guest.MethodRun, Run: &guest.RunRequest{ID: "r", Language: "bash", CodeBytes: int64(len(code))}})
	if err := s.Send(deadline(t), guest.KindData, []byte(code)); err != nil {
		t.Fatal(err)
	}
	if out, _, over := take(t, s, 0, 1); out != "one\n" || over {
		t.Fatalf("got %q", out)
	}
	first.Close()
	if err := os.WriteFile(filepath.Join(a.workspace, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}

	second, err := wire.Dial(deadline(t), serve(t, a), wire.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { second.Close() })
	// What was not acknowledged comes again; so does the result, to whoever
	// asks, until it was taken.
	for after, want := range []string{"one\ntwo\n", "two\n"} {
		s = follow(t, second, guest.Request{Method: guest.MethodAttach, Run: &guest.RunRequest{ID: "r", After: uint64(after)}})
		if out, _, over := take(t, s, uint64(after), 10); out != want || !over {
			t.Errorf("after %d: %q, %v", after, out, over)
		}
	}
	if err := s.Send(deadline(t), guest.KindAck, guest.AppendSequence(nil, 1)); err != nil {
		t.Fatal(err)
	}
	a.mu.Lock()
	r := a.runs["r"]
	a.mu.Unlock()
	eventually(t, "the acknowledgement arrives", func() bool { return !r.log.holds(0) })
	for _, req := range []*guest.RunRequest{{ID: "r"}, {ID: "r", After: 99}, {ID: "none"}, nil} {
		s := follow(t, second, guest.Request{Method: guest.MethodAttach, Run: req})
		var reset *wire.ResetError
		if _, err := s.Recv(deadline(t)); !errors.As(err, &reset) {
			t.Errorf("%+v: %v, want a reset", req, err)
		}
	}
	s = follow(t, second, guest.Request{Method: guest.MethodAttach, Run: &guest.RunRequest{ID: "r", After: 1}})
	if out, _, over := take(t, s, 1, 10); out != "two\n" || !over {
		t.Errorf("got %q, %v", out, over)
	}
	s.End()
	eventually(t, "a run that was taken is forgotten", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.runs) == 0 && len(a.finished) == 0
	})
}

func TestOutputThatNobodyTakesIsBounded(t *testing.T) {
	a := newAgent(t, nil)
	conn, err := wire.Dial(deadline(t), serve(t, a), wire.Options{})
	if err != nil {
		t.Fatal(err)
	}
	code := "yes"
	s := follow(t, conn, guest.Request{Method: guest.MethodRun, Run: &guest.RunRequest{ID: "r", Language: "bash", CodeBytes: int64(len(code))}})
	if err := s.Send(deadline(t), guest.KindData, []byte(code)); err != nil {
		t.Fatal(err)
	}
	take(t, s, 0, 1)
	conn.Close()
	a.mu.Lock()
	r := a.runs["r"]
	a.mu.Unlock()
	eventually(t, "the log fills up", func() bool {
		r.log.mu.Lock()
		defer r.log.mu.Unlock()
		return r.log.bytes >= logBytes
	})
	r.log.mu.Lock()
	if limit := logBytes + 3*pumpSize; r.log.bytes > limit {
		t.Errorf("the log holds %d bytes, more than %d", r.log.bytes, limit)
	}
	r.log.mu.Unlock()

	again, err := wire.Dial(deadline(t), serve(t, a), wire.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { again.Close() })
	s = follow(t, again, guest.Request{Method: guest.MethodAttach, Run: &guest.RunRequest{ID: "r"}})
	after := uint64(0)
	for received := 0; received < 4*logBytes; {
		out, last, _ := take(t, s, after, 1)
		received += len(out)
		after = last
		if err := s.Send(deadline(t), guest.KindAck, guest.AppendSequence(nil, after)); err != nil {
			t.Fatal(err)
		}
	}
	s.Reset(nil)
	eventually(t, "a run that was given up ends", r.proc.exited)
}

func TestAcknowledgingTooMuchIsRefused(t *testing.T) {
	l := newOutputLog()
	l.append(guest.KindStdout, []byte("a"))
	if err := l.ack(2); err == nil {
		t.Error("message 2 was acknowledged before there was one")
	}
	if err := l.ack(1); err != nil || l.bytes != 0 || len(l.records) != 0 {
		t.Errorf("%v, %d bytes, %d records", err, l.bytes, len(l.records))
	}
	if err := l.ack(1); err != nil {
		t.Errorf("an old acknowledgement: %v", err)
	}
}

func TestOldestFinishedRunsAreForgotten(t *testing.T) {
	a := newAgent(t, nil)
	for i := range maxFinished + 3 {
		r := &run{a: a, req: &guest.RunRequest{ID: strconv.Itoa(i)}, log: newOutputLog(), dropped: make(chan struct{})}
		a.runs[r.req.ID] = r
		a.retire(r)
	}
	if len(a.runs) != maxFinished || a.runs["0"] != nil || a.runs["3"] == nil {
		t.Errorf("%d runs are kept", len(a.runs))
	}
}

func TestFilesThatWereNotIndexedCountByTheirTime(t *testing.T) {
	now := time.Now()
	old := unix.Stat_t{Ctim: unix.NsecToTimespec(now.Add(-time.Minute).UnixNano())}
	fresh := unix.Stat_t{Ctim: unix.NsecToTimespec(now.Add(time.Second).UnixNano())}
	whole := &index{files: map[string]version{"/known": versionOf(&old)}, taken: now}
	partial := &index{files: whole.files, taken: now, partial: true}
	for _, tc := range []struct {
		ix   *index
		path string
		st   *unix.Stat_t
		want bool
	}{
		{whole, "/known", &old, false}, {whole, "/known", &fresh, true}, {whole, "/other", &old, true},
		{partial, "/known", &old, false}, {partial, "/other", &old, false}, {partial, "/other", &fresh, true},
	} {
		if got := tc.ix.isNew(tc.path, tc.st); got != tc.want {
			t.Errorf("partial %v, %s: %v, want %v", tc.ix.partial, tc.path, got, tc.want)
		}
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
	eventually(t, "the upload has begun", func() bool {
		a.uploads.mu.Lock()
		defer a.uploads.mu.Unlock()
		return len(a.uploads.files) == 1
	})
	// The temporary file was there before, and grows meanwhile.
	req := &guest.RunRequest{CollectDirs: [][]byte{[]byte("/workspace")}}
	if changed, omitted := a.changedFiles(req, &index{files: map[string]version{}}); len(changed) != 0 || omitted != 0 {
		t.Errorf("changed: %+v, %d omitted", changed, omitted)
	}
	w.Close()
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	if changed, _ := a.changedFiles(req, &index{files: map[string]version{}}); len(changed) != 1 {
		t.Errorf("afterwards: %+v", changed)
	}
	if len(a.uploads.files) != 0 {
		t.Errorf("%d uploads are left", len(a.uploads.files))
	}
}

func TestNothingIsLeftAfterARun(t *testing.T) {
	a := newAgent(t, nil)
	c := client(t, a)
	before := descriptors(t)
	for range 5 {
		do(t, c, agentsandbox.Bash, "echo x", nil)
		python(t, c, "print(1)", map[string]string{"TZ": "UTC"})
	}
	eventually(t, "every script is removed but that of the interpreter that waits", func() bool {
		left, err := os.ReadDir(a.scripts.dir)
		return err == nil && len(left) == 1 && a.waitingPID() != 0
	})
	// The interpreter that waits holds three: two pipes and a socket.
	if after := descriptors(t); after > before+3 {
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
		if _, err := newUserThreads(&User{UID: 1000, GID: 1000}); err == nil {
			t.Error("newUserThreads succeeds without root")
		}
		return
	}
	threads, err := newUserThreads(&User{UID: 1000, GID: 1000})
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
