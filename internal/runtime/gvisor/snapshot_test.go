package gvisor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"gvisor.dev/gvisor/pkg/sentry/state/checkpointfiles"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// fakeMaker writes files that look like a snapshot's.
type fakeMaker struct {
	made  atomic.Int32
	fail  error
	begun chan struct{} // if set, gets a message when a making begins
	goOn  chan struct{} // if set, a making waits for it
}

func (f *fakeMaker) makeSnapshot(ctx context.Context, dir, template string, _ runtime.Variant, cores int, progress Progress) error {
	progress("pretending")
	if f.begun != nil {
		f.begun <- struct{}{}
		<-f.goOn
	}
	if f.fail != nil {
		return f.fail
	}
	f.made.Add(1)
	for _, name := range []string{checkpointfiles.StateFileName, checkpointfiles.PagesMetadataFileName, checkpointfiles.PagesFileName} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("content of "+name), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func testSnapshots(t *testing.T, cacheDir string, m maker) *snapshots {
	t.Helper()
	s, err := newSnapshots(Options{
		CacheDir: cacheDir, DiskBytes: 1 << 20, Platform: PlatformSystrap,
		Images: func(_ context.Context, template string) (Image, error) {
			return Image{Path: "/images/" + template, Digest: "sha256:" + template}, nil
		},
	}, m)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSnapshotIsMadeOnce(t *testing.T) {
	ctx, cache, m := context.Background(), t.TempDir(), &fakeMaker{}
	first := testSnapshots(t, cache, m)
	second := testSnapshots(t, cache, m) // another server of this machine
	var wg sync.WaitGroup
	var dirs sync.Map
	for i := range 8 {
		s := []*snapshots{first, second}[i%2]
		wg.Go(func() {
			snap, err := s.get(ctx, "default", runtime.Bare, 1, 0, nil)
			if err != nil {
				t.Error(err)
				return
			}
			dirs.Store(snap.dir, true)
		})
	}
	wg.Wait()
	count := 0
	dirs.Range(func(any, any) bool { count++; return true })
	if m.made.Load() != 1 || count != 1 {
		t.Errorf("made %d times, in %d places", m.made.Load(), count)
	}
	if _, err := first.get(ctx, "default", runtime.Bare, 2, 0, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := first.get(ctx, "default", runtime.Bare, 1, 64<<20, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := first.get(ctx, "other", runtime.Bare, 1, 0, nil); err != nil {
		t.Fatal(err)
	}
	if m.made.Load() != 4 {
		t.Errorf("other inputs share a snapshot: made %d times", m.made.Load())
	}
}

func TestSnapshotIsAnnouncedToWaiters(t *testing.T) {
	ctx, cache := context.Background(), t.TempDir()
	m := &fakeMaker{begun: make(chan struct{}), goOn: make(chan struct{})}
	first, second := testSnapshots(t, cache, m), testSnapshots(t, cache, m)
	done := make(chan error, 2)
	go func() { _, err := first.get(ctx, "default", runtime.Bare, 1, 0, nil); done <- err }()
	<-m.begun
	waiting := make(chan string, 10)
	go func() {
		_, err := second.get(ctx, "default", runtime.Bare, 1, 0, func(step string) { waiting <- step })
		done <- err
	}()
	if step := <-waiting; !strings.Contains(step, "another server") {
		t.Errorf("the second server says %q", step)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := second.get(cancelled, "default", runtime.Bare, 1, 0, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled wait ends with %v", err)
	}
	close(m.goOn)
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if m.made.Load() != 1 {
		t.Errorf("made %d times", m.made.Load())
	}
}

func TestDamagedSnapshotIsMadeAgain(t *testing.T) {
	damages := map[string]func(t *testing.T, dir string){
		"a file is gone": func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, checkpointfiles.PagesFileName))) },
		"a file is cut off": func(t *testing.T, dir string) {
			must(t, os.Truncate(filepath.Join(dir, checkpointfiles.StateFileName), 3))
		},
		"a byte has changed": func(t *testing.T, dir string) { flip(t, filepath.Join(dir, checkpointfiles.PagesFileName)) },
		"the manifest is gone": func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, manifestFile)))
		},
		"the manifest is nonsense": func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, manifestFile), []byte("{"), 0o600))
		},
		"everything is gone": func(t *testing.T, dir string) { must(t, os.RemoveAll(filepath.Dir(dir))) },
	}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			ctx, cache, m := context.Background(), t.TempDir(), &fakeMaker{}
			snap, err := testSnapshots(t, cache, m).get(ctx, "default", runtime.Bare, 1, 0, nil)
			must(t, err)
			damage(t, snap.dir)
			again := testSnapshots(t, cache, m) // a new process, which has checked nothing
			if _, err := again.get(ctx, "default", runtime.Bare, 1, 0, nil); err != nil {
				t.Fatal(err)
			}
			if _, err := again.get(ctx, "default", runtime.Bare, 1, 0, nil); err != nil {
				t.Fatal(err)
			}
			if m.made.Load() != 2 {
				t.Errorf("made %d times", m.made.Load())
			}
		})
	}
}

func TestReplaceHappensOnce(t *testing.T) {
	ctx, m := context.Background(), &fakeMaker{}
	s := testSnapshots(t, t.TempDir(), m)
	old, err := s.get(ctx, "default", runtime.Bare, 1, 0, nil)
	must(t, err)
	// Two starts found the same snapshot wanting.
	first, err := s.replace(ctx, "default", old)
	must(t, err)
	second, err := s.replace(ctx, "default", old)
	must(t, err)
	if m.made.Load() != 2 || first.made != second.made || first.made == old.made {
		t.Errorf("made %d times", m.made.Load())
	}
}

func TestFailedMakingLeavesNothing(t *testing.T) {
	cache := t.TempDir()
	m := &fakeMaker{fail: errors.New("no")}
	s := testSnapshots(t, cache, m)
	if _, err := s.get(context.Background(), "default", runtime.Bare, 1, 0, nil); !errors.Is(err, m.fail) {
		t.Fatalf("got %v", err)
	}
	// Nor does one that was interrupted, once the next is made.
	dir := s.imageDir("sha256:default")
	m.fail = nil
	snap, err := s.get(context.Background(), "default", runtime.Bare, 1, 0, nil)
	must(t, err)
	must(t, os.RemoveAll(snap.dir))
	must(t, os.MkdirAll(filepath.Join(dir, buildPrefix+snap.key+"-123", "x"), 0o700))
	if _, err := s.get(context.Background(), "default", runtime.Bare, 1, 0, nil); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, buildPrefix+"*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
	must(t, RemoveSnapshots(cache, "sha256:default"))
	must(t, RemoveSnapshots(cache, "sha256:default"))
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("snapshots of a removed image are left: %v", err)
	}
}

func TestEveryInputChangesTheName(t *testing.T) {
	base := inputs{Format: 1, ImageDigest: "d", GVisorVersion: "v", GVisorFlags: []string{"f"}, GuestProtocol: 1, Cores: 1, CPUFeatures: "c", Spec: []byte(`{}`)}
	changes := map[string]func(*inputs){
		"format":   func(i *inputs) { i.Format++ },
		"image":    func(i *inputs) { i.ImageDigest += "x" },
		"gVisor":   func(i *inputs) { i.GVisorVersion += "x" },
		"flags":    func(i *inputs) { i.GVisorFlags = []string{"g"} },
		"protocol": func(i *inputs) { i.GuestProtocol++ },
		"cores":    func(i *inputs) { i.Cores++ },
		"features": func(i *inputs) { i.CPUFeatures += "x" },
		"spec":     func(i *inputs) { i.Spec = []byte(`{"a":1}`) },
	}
	key, err := base.key()
	must(t, err)
	for name, change := range changes {
		other := base
		change(&other)
		if got, err := other.key(); err != nil || got == key {
			t.Errorf("%s does not matter: %v", name, err)
		}
	}
	if v := gvisorVersion(); !strings.HasPrefix(v, "v0.0.0-") {
		t.Errorf("the version of gVisor is %q", v)
	}
}

func TestCPUFeatures(t *testing.T) {
	digest := func(text string) string {
		path := filepath.Join(t.TempDir(), "cpuinfo")
		must(t, os.WriteFile(path, []byte(text), 0o600))
		got, err := cpuFeatures(path)
		if err != nil {
			return "error"
		}
		return got
	}
	x86 := digest("processor\t: 0\nflags\t\t: fpu vme avx2\nbogomips\t: 1\n")
	if x86 == "error" || x86 != digest("flags : fpu  vme avx2\n") || x86 == digest("flags : fpu vme\n") {
		t.Error("features are not what names the processor")
	}
	if digest("Features\t: fp asimd\n") == "error" {
		t.Error("features of ARM are not found")
	}
	if digest("model name : x\n") != "error" {
		t.Error("a processor without features was taken")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func flip(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	b[0] ^= 1
	must(t, os.WriteFile(path, b, 0o600))
}
