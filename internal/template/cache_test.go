package template

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	reader "github.com/erofs/go-erofs"

	"github.com/agentsandbox/agentsandbox/internal/roottest"
	"github.com/agentsandbox/agentsandbox/internal/template/debian"
)

// childVariable makes the test binary build in a cache directory instead of
// running tests: "DIR LOG", with " block" to stop in the middle for ever.
const childVariable = "AGENTSANDBOX_TEST_TEMPLATE_CHILD"

func TestMain(m *testing.M) {
	if job := strings.Fields(os.Getenv(childVariable)); len(job) > 0 {
		os.Exit(child(job[0], job[1], len(job) > 2))
	}
	os.Exit(m.Run())
}

func child(dir, log string, block bool) int {
	c, err := testCache(dir, log, func() {
		if block {
			fmt.Println("in the middle")
			io.Copy(io.Discard, os.Stdin) // until it is killed
		}
	})
	if err == nil {
		var image Image
		if image, err = c.Build(context.Background(), testDefinition, testFiles, nil); err == nil {
			fmt.Println(image.Digest)
			return 0
		}
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

var (
	testDefinition = Definition{Name: "test", Packages: []string{"git"}}
	testFiles      = []File{{Path: "/usr/lib/agent/agent", Mode: 0o755, Data: []byte("agent")}}
)

// testCache is a cache, of a machine with the root directory dir, whose bases are
// small trees. Each tree made adds a line to
// the file log; middle is called half-way.
func testCache(dir, log string, middle func()) (*Cache, error) {
	c, err := NewCache(filepath.Join(dir, "cache"), slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	c.host = dir
	c.tree = func(_ context.Context, b debian.Builder, spec debian.Spec) (string, []Package, error) {
		f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return "", nil, err
		}
		defer f.Close()
		fmt.Fprintln(f, "tree")
		tree := filepath.Join(b.Work, "tree")
		if err := os.MkdirAll(filepath.Join(tree, "etc"), 0o755); err != nil {
			return "", nil, err
		}
		if err := os.WriteFile(filepath.Join(tree, "etc/issue"), []byte(strings.Join(spec.Packages, " ")), 0o644); err != nil {
			return "", nil, err
		}
		middle()
		return tree, []Package{{Name: "git", Version: "1", Kind: "deb"}}, nil
	}
	return c, nil
}

type fixture struct {
	*Cache
	t        *testing.T
	dir, log string
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "etc"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "etc/os-release"), []byte("ID=debian\nVERSION_CODENAME=bookworm\nVERSION_ID=12\n"), 0o644))
	f := &fixture{t: t, dir: dir, log: filepath.Join(dir, "log")}
	c, err := testCache(dir, f.log, func() {})
	must(t, err)
	f.Cache = c
	return f
}

func (f *fixture) build(def Definition, files []File) Image {
	f.t.Helper()
	image, err := f.Build(f.t.Context(), def, files, nil)
	must(f.t, err)
	return image
}

// trees says how many trees were made so far.
func (f *fixture) trees() int {
	data, err := os.ReadFile(f.log)
	if !errors.Is(err, fs.ErrNotExist) {
		must(f.t, err)
	}
	return strings.Count(string(data), "\n")
}

// temporary lists what is in the cache's directory for temporary files.
func (f *fixture) temporary() []string {
	names, err := filepath.Glob(filepath.Join(f.Cache.dir, "tmp", "*"))
	must(f.t, err)
	return names
}

func (f *fixture) read(image Image, name string) string {
	f.t.Helper()
	file, err := os.Open(image.Path)
	must(f.t, err)
	defer file.Close()
	fsys, err := reader.Open(file)
	must(f.t, err)
	data, err := fs.ReadFile(fsys, name)
	must(f.t, err)
	return string(data)
}

func TestBuild(t *testing.T) {
	f := newFixture(t)
	if _, ok, err := f.Lookup(testDefinition, testFiles); ok || err != nil {
		t.Errorf("found before it was built: %v, %v", ok, err)
	}
	var steps []string
	image, err := f.Build(t.Context(), testDefinition, testFiles, func(s Step) { steps = append(steps, s.Name) })
	must(t, err)
	if got := f.read(image, "usr/lib/agent/agent"); got != "agent" {
		t.Errorf("the agent is %q", got)
	}
	if got := f.read(image, "etc/issue"); got != "git" {
		t.Errorf("the base's file is %q", got)
	}
	if got := f.read(image, strings.TrimPrefix(debian.CABundle, "/")); !strings.HasPrefix(got, "-----BEGIN CERTIFICATE") {
		t.Errorf("the certificate authorities are %.40q", got)
	}
	if !slices.Contains(steps, "write the base") || !slices.Contains(steps, "write the image") {
		t.Errorf("progress: %v", steps)
	}
	if image.Name != "test" || len(image.Packages) != 1 || image.BuiltAt.IsZero() || !strings.HasPrefix(image.Digest, "sha256:") || image.SizeBytes%4096 != 0 {
		t.Errorf("manifest: %+v", image)
	}

	again, err := f.Build(t.Context(), testDefinition, testFiles, func(s Step) { t.Errorf("work was done: %v", s) })
	must(t, err)
	if again.Digest != image.Digest || !again.BuiltAt.Equal(image.BuiltAt) {
		t.Errorf("built again: %+v", again)
	}
	if found, ok, err := f.Lookup(testDefinition, testFiles); !ok || err != nil || found.Digest != image.Digest {
		t.Errorf("lookup: %v, %v, %v", found, ok, err)
	}
	other := f.build(testDefinition, []File{{Path: "/usr/lib/agent/agent", Mode: 0o755, Data: []byte("new agent")}})
	if other.Digest == image.Digest || f.read(other, "usr/lib/agent/agent") != "new agent" {
		t.Error("another agent made the same image")
	}
	if f.trees() != 1 {
		t.Errorf("%d trees were made, want one", f.trees())
	}
	if left := f.temporary(); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

func TestBuildFailure(t *testing.T) {
	f := newFixture(t)
	broken := errors.New("no network")
	works := f.tree
	f.tree = func(_ context.Context, b debian.Builder, _ debian.Spec) (string, []Package, error) {
		must(t, os.WriteFile(filepath.Join(b.Work, "half"), []byte("x"), 0o644))
		return "", nil, broken
	}
	if _, err := f.Build(t.Context(), testDefinition, nil, nil); !errors.Is(err, broken) || !strings.Contains(err.Error(), "build the template test") {
		t.Errorf("got error %v", err)
	}
	if left := f.temporary(); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
	f.tree = works
	f.build(testDefinition, nil)

	through := []File{{Path: "/etc/issue/below", Mode: 0o644}}
	if _, err := f.Build(t.Context(), testDefinition, through, nil); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("a file below a file: got error %v", err)
	}
	if left := f.temporary(); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

func TestDamagedImageIsMadeAgain(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"truncated":   func(dir string) error { return os.Truncate(filepath.Join(dir, imageFile), 4096) },
		"image gone":  func(dir string) error { return os.Remove(filepath.Join(dir, imageFile)) },
		"no manifest": func(dir string) error { return os.Remove(filepath.Join(dir, manifestFile)) },
		"no JSON":     func(dir string) error { return os.WriteFile(filepath.Join(dir, manifestFile), []byte("{"), 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			image := f.build(testDefinition, testFiles)
			must(t, damage(filepath.Dir(image.Path)))
			if _, _, err := f.Lookup(testDefinition, testFiles); err == nil || !strings.Contains(err.Error(), "damaged") {
				t.Errorf("lookup: got error %v", err)
			}
			if list, err := f.List(t.Context()); err != nil || len(list) != 0 {
				t.Errorf("list: %v, %v", list, err)
			}
			if again := f.build(testDefinition, testFiles); again.Digest != image.Digest || f.trees() != 1 {
				t.Errorf("digest %s, was %s; %d trees", again.Digest, image.Digest, f.trees())
			}
		})
	}
}

// startChild runs this test binary as another process that builds.
func (f *fixture) startChild(extra string) (*exec.Cmd, *bufio.Reader) {
	f.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+f.dir+" "+f.log+" "+extra)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(f.t, err)
	in, err := cmd.StdinPipe()
	must(f.t, err)
	f.t.Cleanup(func() { in.Close() })
	must(f.t, cmd.Start())
	return cmd, bufio.NewReader(out)
}

func TestProcessesShareOneResult(t *testing.T) {
	f := newFixture(t)
	type result struct {
		cmd *exec.Cmd
		out *bufio.Reader
	}
	var children []result
	for range 4 {
		cmd, out := f.startChild("")
		children = append(children, result{cmd, out})
	}
	mine := f.build(testDefinition, testFiles)
	for _, c := range children {
		line, err := c.out.ReadString('\n')
		must(t, err)
		if strings.TrimSpace(line) != mine.Digest {
			t.Errorf("a child built %q, not %s", line, mine.Digest)
		}
		must(t, c.cmd.Wait())
	}
	if f.trees() != 1 {
		t.Errorf("%d trees were made, want one", f.trees())
	}
	if left := f.temporary(); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

// A build that waits for another one says so, gives up when it is told to, and
// takes over, after removing what is left, when the other one is killed.
func TestInterruptedBuild(t *testing.T) {
	f := newFixture(t)
	cmd, out := f.startChild("block")
	if line, err := out.ReadString('\n'); err != nil || line != "in the middle\n" {
		t.Fatalf("the child said %q, %v", line, err)
	}
	busy := f.temporary()
	if len(busy) == 0 {
		t.Fatal("the child has no temporary directory")
	}

	ctx, cancel := context.WithCancel(t.Context())
	waited := false
	_, err := f.Build(ctx, testDefinition, testFiles, func(s Step) {
		waited = waited || s.Name == "wait"
		cancel()
	})
	if !waited || !errors.Is(err, context.Canceled) {
		t.Errorf("waited: %v, error %v", waited, err)
	}
	f.sweep(t.Context())
	if now := f.temporary(); !slices.Equal(now, busy) {
		t.Errorf("a running build's files were touched: %v, were %v", now, busy)
	}

	must(t, cmd.Process.Signal(syscall.SIGKILL))
	if err := cmd.Wait(); err == nil {
		t.Error("the child was not killed")
	}
	f.build(testDefinition, testFiles)
	if f.trees() != 2 {
		t.Errorf("%d trees were made, want two", f.trees())
	}
	if left := f.temporary(); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

func TestSweepLeavesWhatIsNotOurs(t *testing.T) {
	f := newFixture(t)
	foreign := filepath.Join(f.Cache.dir, "tmp", "build-of-somebody")
	must(t, os.Mkdir(foreign, 0o755))
	f.build(testDefinition, testFiles)
	if _, err := os.Stat(foreign); err != nil {
		t.Error(err)
	}
}

func TestRemoveTreeStopsAtMounts(t *testing.T) {
	roottest.Need(t, "mounts a file system")
	dir := t.TempDir()
	inside := filepath.Join(dir, "proc")
	must(t, os.Mkdir(inside, 0o755))
	must(t, syscall.Mount("tmpfs", inside, "tmpfs", 0, ""))
	t.Cleanup(func() {
		if err := syscall.Unmount(inside, 0); err != nil {
			t.Error(err)
		}
	})
	must(t, os.WriteFile(filepath.Join(inside, "host"), nil, 0o644))
	if err := removeTree(dir); err == nil || !strings.Contains(err.Error(), "still mounted") {
		t.Errorf("got error %v", err)
	}
	if _, err := os.Stat(filepath.Join(inside, "host")); err != nil {
		t.Error(err)
	}
}

func TestRemove(t *testing.T) {
	f := newFixture(t)
	image := f.build(testDefinition, testFiles)
	release, err := image.Hold()
	must(t, err)
	never := func(Image) error { t.Error("the hook was called for an image in use"); return nil }
	if removed, err := f.Remove(t.Context(), "test", never); !errors.Is(err, ErrInUse) || len(removed) != 0 {
		t.Errorf("removed %v, error %v", removed, err)
	}
	release()

	refused := errors.New("a snapshot is in use")
	if _, err := f.Remove(t.Context(), "test", func(Image) error { return refused }); !errors.Is(err, refused) {
		t.Errorf("got error %v", err)
	}
	if _, err := os.Stat(image.Path); err != nil {
		t.Fatal(err)
	}

	var hooked string
	removed, err := f.Remove(t.Context(), image.Digest[:len("sha256:")+minPrefix], func(i Image) error { hooked = i.Digest; return nil })
	must(t, err)
	if len(removed) != 1 || removed[0].Digest != image.Digest || hooked != image.Digest {
		t.Errorf("removed %v, hook saw %q", removed, hooked)
	}
	if _, err := image.Hold(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("hold of a removed image: %v", err)
	}
	for _, kind := range []string{"images", "bases", "tmp"} {
		if left, err := os.ReadDir(filepath.Join(f.Cache.dir, kind)); err != nil || len(left) > 0 {
			t.Errorf("%s: %v, %v", kind, left, err)
		}
	}
	if _, err := f.Remove(t.Context(), "test", nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("removed twice: %v", err)
	}
	if f.build(testDefinition, testFiles); f.trees() != 2 {
		t.Errorf("%d trees were made, want two", f.trees())
	}
}

func TestInspectAndPrune(t *testing.T) {
	f := newFixture(t)
	old := f.build(testDefinition, nil)
	held := f.build(testDefinition, []File{{Path: "/held", Mode: 0o644}})
	release, err := held.Hold()
	must(t, err)
	defer release()
	other := testDefinition
	other.Name, other.Packages = "other", []string{"curl"}
	kept := f.build(other, nil)
	current := f.build(testDefinition, testFiles)

	if got, err := f.Inspect(t.Context(), "test"); err != nil || got.Key != current.Key {
		t.Errorf("inspect by name: %v, %v; want the newest", got, err)
	}
	if got, err := f.Inspect(t.Context(), old.Key[:12]); err != nil || got.Key != old.Key {
		t.Errorf("inspect by key: %v, %v", got, err)
	}
	for _, ref := range []string{"nothing", "", "0000", strings.Repeat("0", 64)} {
		if _, err := f.Inspect(t.Context(), ref); !errors.Is(err, ErrNotFound) {
			t.Errorf("inspect %q: got error %v", ref, err)
		}
	}
	// Of another version of the server, which is not running now.
	stopped := f.build(testDefinition, []File{{Path: "/stopped", Mode: 0o644}})
	releaseStopped, err := stopped.Hold()
	must(t, err)
	prune := func(unused time.Duration) (keys []string) {
		t.Helper()
		removed, err := f.Prune(t.Context(), current, unused, nil)
		must(t, err)
		for _, i := range removed {
			keys = append(keys, i.Key)
		}
		return keys
	}
	lock := filepath.Join(f.Cache.dir, "locks", useLock("images", stopped.Key))
	mark := func(at time.Time) { must(t, os.Chtimes(lock, at, at)) }
	marked := func(by string) {
		t.Helper()
		info, err := os.Stat(lock)
		must(t, err)
		if time.Since(info.ModTime()) > time.Minute {
			t.Errorf("%s did not note that the image is in use", by)
		}
	}
	mark(time.Now().Add(-time.Hour))
	releaseStopped()
	marked("the end of a hold")
	if got := prune(time.Hour); got != nil {
		t.Errorf("pruned %v, which are new", got)
	}
	mark(time.Now().Add(time.Hour)) // later than now is later than built
	if got := prune(0); !slices.Equal(got, []string{old.Key}) {
		t.Errorf("pruned %v; want %v alone", got, old.Key)
	}
	mark(time.Now().Add(-time.Hour))
	releaseAgain, err := stopped.Hold()
	must(t, err)
	marked("a hold")
	releaseAgain()
	if got := prune(0); !slices.Equal(got, []string{stopped.Key}) {
		t.Errorf("pruned %v; want %v", got, stopped.Key)
	}
	list, err := f.List(t.Context())
	must(t, err)
	var keys []string
	for _, i := range list {
		keys = append(keys, i.Key)
	}
	if want := []string{current.Key, kept.Key, held.Key}; !slices.Equal(keys, want) {
		t.Errorf("list: %v, want %v", keys, want)
	}
	if bases, err := f.list(t.Context(), "bases"); err != nil || len(bases) != 2 {
		t.Errorf("bases: %v, %v", bases, err)
	}
}
