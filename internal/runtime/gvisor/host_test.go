package gvisor

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
	"github.com/agentsandbox/agentsandbox/internal/template"
)

// Tests in files that end in _host_test.go, and those that call newHost, make
// real sandboxes on this host.

// imageVariable names the image that they start.
const imageVariable = "AGENTSANDBOX_TEST_IMAGE"

// crashVariable turns this test program into a server that is killed.
const crashVariable = "AGENTSANDBOX_TEST_CRASH"

// testCache is shared by all tests of a run, so that one snapshot serves them.
var testCache string

func TestMain(m *testing.M) {
	Main() // a sandbox of these tests is this program, executed again
	if state := os.Getenv(crashVariable); state != "" {
		os.Exit(serveUntilKilled(state, os.Getenv("AGENTSANDBOX_TEST_CACHE")))
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	var err error
	if testCache, err = os.MkdirTemp("", "asbx-cache"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := os.RemoveAll(testCache); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// The snapshots of tests, and what the second has loaded.
const (
	bareSnapshot = "default"
	dataSnapshot = "default+data"
)

// dataLibraries is the set of the default template.
var dataLibraries = template.Default().Preloads[0]

// testRecipe makes the snapshots of tests.
func testRecipe(_ context.Context, name string) (runtime.Recipe, error) {
	if name != bareSnapshot && name != dataSnapshot {
		return runtime.Recipe{}, fmt.Errorf("%w: %q", runtime.ErrNoSnapshot, name)
	}
	path := os.Getenv(imageVariable)
	if path == "" {
		return runtime.Recipe{}, fmt.Errorf("%s is not set: set it to the path of a template's EROFS image, which \"make setup\" builds and \"agentsandbox templates inspect default\" names", imageVariable)
	}
	sum := sha256.Sum256([]byte(path))
	recipe := runtime.Recipe{Image: runtime.Image{Path: path, Digest: "sha256:" + hex.EncodeToString(sum[:])}}
	if name == dataSnapshot {
		recipe.Modules = dataLibraries.Modules
	}
	return recipe, nil
}

func testOptions(stateDir, cacheDir string) Options {
	return Options{StateDir: stateDir, CacheDir: cacheDir, Recipes: testRecipe}
}

// host is a Runtime under test. When the test ends, nothing may be left of it.
type host struct {
	*Runtime
	t        *testing.T
	stateDir string
	log      *bytes.Buffer
	next     atomic.Int32
}

// testLimits are what sandboxes of tests get unless a test says otherwise.
var testLimits = runtime.Limits{MemoryBytes: 1 << 30, MilliCPUs: 1000, Tasks: 2048}

func newHost(t *testing.T) *host { return newHostWith(t, func(*Options) {}) }

func newHostWith(t *testing.T, change func(*Options)) *host {
	t.Helper()
	h := openHost(t, change)
	h.make(bareSnapshot) // outside of what tests measure
	return h
}

// needRoot skips, in the fast tier alone, what makes sandboxes or control groups.
func needRoot(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("it needs root and a template's image: make test")
	}
}

// openHost is a host without a snapshot, unless the cache has some.
func openHost(t *testing.T, change func(*Options)) *host {
	t.Helper()
	needRoot(t)
	// Not t.TempDir: a socket's path must be short.
	dir, err := os.MkdirTemp("", "asbx")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	h := &host{t: t, stateDir: dir, log: &bytes.Buffer{}}
	opts := testOptions(dir, testCache)
	opts.Logger = slog.New(slog.NewTextHandler(h.log, nil))
	change(&opts)
	h.Runtime, err = New(opts)
	must(t, err)
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		h.checkNothingLeft()
		if h.log.Len() > 0 && t.Failed() {
			t.Logf("log:\n%s", h.log)
		}
	})
	if left, err := h.Recover(t.Context(), nil); err != nil || len(left.Adopted)+len(left.Destroyed) > 0 {
		t.Fatalf("a new state directory has %v left, %v", left, err)
	}
	return h
}

// make makes a snapshot for the limits of most tests.
func (h *host) make(name string) {
	h.t.Helper()
	_, err := h.Snapshots().Make(h.t.Context(), name, testLimits, nil)
	must(h.t, err)
}

// start makes a sandbox that ends with the test.
func (h *host) start(limits runtime.Limits) runtime.Sandbox {
	h.t.Helper()
	sb, err := h.Start(h.t.Context(), h.spec(limits))
	must(h.t, err)
	h.t.Cleanup(func() {
		if err := sb.Destroy(context.Background()); err != nil {
			h.t.Errorf("destroy: %v", err)
		}
	})
	return sb
}

func (h *host) spec(limits runtime.Limits) runtime.Spec {
	return runtime.Spec{ID: fmt.Sprintf("exe_test%d-%d", os.Getpid(), h.next.Add(1)), Snapshot: bareSnapshot, Limits: limits}
}

// checkNothingLeft looks everywhere where a sandbox leaves traces.
func (h *host) checkNothingLeft() {
	h.t.Helper()
	for _, left := range traces(h.stateDir) {
		h.t.Errorf("left: %s", left)
	}
}

// traces lists what is left of the sandboxes of a state directory.
func traces(stateDir string) []string {
	var left []string
	for _, dir := range []string{filepath.Join(stateDir, recordsDir), filepath.Join(runDir, groupName(stateDir))} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			left = append(left, err.Error())
		}
		for _, e := range entries {
			left = append(left, filepath.Join(dir, e.Name()))
		}
	}
	groups, err := filepath.Glob("/sys/fs/cgroup/*/" + groupName(stateDir) + "*")
	if err != nil {
		left = append(left, err.Error())
	}
	left = append(left, groups...)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		left = append(left, err.Error())
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, stateDir) {
			left = append(left, "mount "+line)
		}
	}
	for _, pid := range sandboxProcesses(stateDir) {
		left = append(left, "process "+strconv.Itoa(pid))
	}
	return left
}

// sandboxProcesses finds processes that were executed for a state directory,
// zombies excluded: those have no arguments.
func sandboxProcesses(stateDir string) []int {
	var pids []int
	args, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range args {
		b, err := os.ReadFile(path)
		if err == nil && bytes.HasPrefix(b, []byte(sandboxArg0)) && bytes.Contains(b, []byte(groupName(stateDir))) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// children counts the processes that this one has not collected.
func children(t *testing.T) int {
	t.Helper()
	count := 0
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	must(t, err)
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		_, rest, _ := cutLast(string(b), ")")
		if fields := strings.Fields(rest); len(fields) > 1 && fields[1] == strconv.Itoa(os.Getpid()) {
			count++
		}
	}
	return count
}

// ran is what a run in a sandbox came to.
type ran struct {
	stdout, stderr string
	result         runtime.Result
}

var runs atomic.Int64

// try runs code to its end.
func try(ctx context.Context, sb runtime.Sandbox, language agentsandbox.Language, code string) (ran, error) {
	return tryCommand(ctx, sb, runtime.Command{Language: language, Code: code, Timeout: 60 * time.Second, OutputLimit: 1 << 20})
}

// tryCommand runs a command to its end, under an id of its own.
func tryCommand(ctx context.Context, sb runtime.Sandbox, cmd runtime.Command) (ran, error) {
	var out ran
	cmd.ID = fmt.Sprintf("run-%d", runs.Add(1))
	if dataLibraries.Helps(cmd.Language, cmd.Code) { // as the engine does
		cmd.Modules = dataLibraries.Modules
	}
	run, err := sb.Run(ctx, cmd)
	if err != nil {
		return out, err
	}
	defer func() { _ = run.Close() }() // kills what a failed test leaves
	for {
		event, err := run.Next(ctx)
		switch {
		case errors.Is(err, io.EOF) && !errors.Is(err, runtime.ErrSandboxLost):
			return out, nil
		case err != nil:
			return out, err
		case event.Result != nil:
			out.result = *event.Result
		case event.Stream == runtime.Stderr:
			out.stderr += string(event.Data)
		default:
			out.stdout += string(event.Data)
		}
	}
}

// python runs code that must succeed, and returns what it printed.
func python(t *testing.T, sb runtime.Sandbox, code string) string {
	t.Helper()
	out, err := try(t.Context(), sb, agentsandbox.Python, code)
	if err != nil {
		t.Fatalf("run: %v", err)
	}
	if out.result.ExitCode != 0 || out.result.Signal != 0 {
		t.Fatalf("result %+v\n%s", out.result, out.stderr)
	}
	return strings.TrimSpace(out.stdout)
}

// patience bounds every wait for what shall happen. It catches what hangs: a busy
// machine does not reach it.
const patience = 5 * time.Minute

// eventually polls a condition that something else brings about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s did not happen", what)
		}
	}
}

// closed waits for a channel to be closed.
func closed(t *testing.T, what string, ch <-chan struct{}) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(patience):
		buf := make([]byte, 1<<20)
		t.Fatalf("%s did not happen\n%s", what, buf[:goruntime.Stack(buf, true)])
	}
}

// groupName is the name of the parent control group of a state directory.
func groupName(stateDir string) string {
	dir, err := os.Open(stateDir)
	if err != nil {
		return "no such directory"
	}
	defer dir.Close()
	name, err := homeName(dir)
	if err != nil {
		return err.Error()
	}
	return name
}
