package snapshot

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

const (
	stateFile = "state"
	pagesFile = "pages"
)

// maker writes files that look like a snapshot's.
type maker struct {
	made  atomic.Int32
	fail  error
	begun chan struct{} // if set, gets a message when a making begins
	goOn  chan struct{} // if set, a making waits for it
}

func (m *maker) fill(_ context.Context, dir string) error {
	if m.begun != nil {
		m.begun <- struct{}{}
		<-m.goOn
	}
	if m.fail != nil {
		return m.fail
	}
	m.made.Add(1)
	for _, name := range []string{stateFile, pagesFile} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("content of "+name), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// server is a process that uses a cache directory.
type server struct {
	*Store
	*maker
}

func (s server) get(ctx context.Context, in Inputs, progress ...func(string)) (*Snapshot, error) {
	tell := func(string) {}
	if len(progress) > 0 {
		tell = progress[0]
	}
	return s.Make(ctx, in, s.fill, tell)
}

func newServer(cacheDir string, m *maker) server { return server{Open(cacheDir), m} }

func inputsOf(image string) Inputs {
	return Inputs{
		Kind: runtime.SnapshotTemplate, ImageDigest: "sha256:" + image, GVisorVersion: "v", GVisorFlags: []string{"f"},
		GuestProtocol: 1, CPUs: 1, DiskBytes: 1 << 20, CPUFeatures: "c", Spec: []byte(`{}`),
	}
}

func TestSnapshotIsMadeOnce(t *testing.T) {
	ctx, cache, m := t.Context(), t.TempDir(), &maker{}
	servers := []server{newServer(cache, m), newServer(cache, m)}
	var wg sync.WaitGroup
	var dirs sync.Map
	for i := range 8 {
		wg.Go(func() {
			snap, err := servers[i%2].get(ctx, inputsOf("a"))
			if err != nil {
				t.Error(err)
				return
			}
			dirs.Store(snap.Dir, true)
		})
	}
	wg.Wait()
	count := 0
	dirs.Range(func(any, any) bool { count++; return true })
	if m.made.Load() != 1 || count != 1 {
		t.Errorf("made %d times, in %d places", m.made.Load(), count)
	}
}

func TestSnapshotIsAnnouncedToWaiters(t *testing.T) {
	ctx, cache := t.Context(), t.TempDir()
	m := &maker{begun: make(chan struct{}), goOn: make(chan struct{})}
	first, second := newServer(cache, m), newServer(cache, m)
	done := make(chan error, 2)
	go func() { _, err := first.get(ctx, inputsOf("a")); done <- err }()
	<-m.begun
	waiting := make(chan string, 10)
	go func() {
		_, err := second.get(ctx, inputsOf("a"), func(step string) { waiting <- step })
		done <- err
	}()
	if step := <-waiting; !strings.Contains(step, "another server") {
		t.Errorf("the second server says %q", step)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := second.get(cancelled, inputsOf("a")); !errors.Is(err, context.Canceled) {
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
		"a file is gone":           func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, pagesFile))) },
		"a file is cut off":        func(t *testing.T, dir string) { must(t, os.Truncate(filepath.Join(dir, stateFile), 3)) },
		"a byte has changed":       func(t *testing.T, dir string) { flip(t, filepath.Join(dir, pagesFile)) },
		"the manifest is gone":     func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, manifestFile))) },
		"the manifest is nonsense": func(t *testing.T, dir string) { writeManifest(t, dir, "{") },
		"it is of another format":  func(t *testing.T, dir string) { writeManifest(t, dir, `{"inputs":{"format":1}}`) },
		"everything is gone":       func(t *testing.T, dir string) { must(t, os.RemoveAll(filepath.Dir(dir))) },
	}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			ctx, cache, m := t.Context(), t.TempDir(), &maker{}
			snap, err := newServer(cache, m).get(ctx, inputsOf("a"))
			must(t, err)
			damage(t, snap.Dir)
			again := newServer(cache, m) // a new process, which has checked nothing
			if _, err := again.Open(ctx, snap.ID); !errors.Is(err, runtime.ErrNoSnapshot) {
				t.Errorf("opened: %v", err)
			}
			for range 2 {
				if _, err := again.get(ctx, inputsOf("a")); err != nil {
					t.Fatal(err)
				}
			}
			if m.made.Load() != 2 {
				t.Errorf("made %d times", m.made.Load())
			}
		})
	}
}

func TestDiscardHappensOnce(t *testing.T) {
	ctx, m := t.Context(), &maker{}
	s := newServer(t.TempDir(), m)
	old, err := s.get(ctx, inputsOf("a"))
	must(t, err)
	// Two starts found the same snapshot wanting.
	must(t, s.Discard(ctx, old))
	first, err := s.get(ctx, inputsOf("a"))
	must(t, err)
	must(t, s.Discard(ctx, old))
	second, err := s.get(ctx, inputsOf("a"))
	must(t, err)
	if m.made.Load() != 2 || first.made != second.made || first.made == old.made {
		t.Errorf("made %d times", m.made.Load())
	}
}

func TestFailedMakingLeavesNothing(t *testing.T) {
	ctx, m := t.Context(), &maker{fail: errors.New("no")}
	s := newServer(t.TempDir(), m)
	if _, err := s.get(ctx, inputsOf("a")); !errors.Is(err, m.fail) {
		t.Fatalf("got %v", err)
	}
	if all, err := s.List(ctx); err != nil || len(all) > 0 {
		t.Errorf("listed: %v, %v", all, err)
	}
	// Nor does one that was interrupted, once the next is made.
	m.fail = nil
	snap, err := s.get(ctx, inputsOf("a"))
	must(t, err)
	must(t, os.RemoveAll(snap.Dir))
	dir := filepath.Dir(snap.Dir)
	must(t, os.MkdirAll(filepath.Join(dir, buildPrefix+snap.ID+"-123", "x"), 0o700))
	if _, err := s.get(ctx, inputsOf("a")); err != nil {
		t.Fatal(err)
	}
	checkNoBuilds(t, dir)
}

func TestListOpenRemove(t *testing.T) {
	ctx, m := t.Context(), &maker{}
	s := newServer(t.TempDir(), m)
	if all, err := s.List(ctx); err != nil || len(all) > 0 {
		t.Fatalf("a directory that is not there has %v, %v", all, err)
	}
	loaded := inputsOf("a")
	loaded.Modules = []string{"numpy"}
	ids := map[string]bool{}
	for _, in := range []Inputs{inputsOf("a"), loaded, inputsOf("b")} {
		snap, err := s.get(ctx, in)
		must(t, err)
		ids[snap.ID] = true
	}
	all, err := s.List(ctx)
	if err != nil || len(all) != 3 || len(ids) != 3 {
		t.Fatalf("listed %d of %d, %v", len(all), len(ids), err)
	}
	for i, listed := range all {
		opened, err := s.Open(ctx, listed.ID)
		if err != nil || opened.ID != listed.ID || opened.Image != listed.Image || !ids[listed.ID] {
			t.Errorf("opened %+v, %v; listed %+v", opened, err, listed)
		}
		if i > 0 && all[i-1].ID >= listed.ID {
			t.Error("the list is not sorted")
		}
		if listed.Kind != runtime.SnapshotTemplate || listed.CPUs != 1 || listed.DiskBytes != 1<<20 || listed.Kernel != "v" ||
			listed.Protocol != 1 || listed.CPUFeatures != "c" || listed.MadeAt.IsZero() ||
			listed.SizeBytes != int64(len("content of state")+len("content of pages")) {
			t.Errorf("listed %+v", listed)
		}
	}
	gone := all[0].ID
	dirs, err := s.dirsOf(gone)
	must(t, err)
	must(t, os.MkdirAll(filepath.Join(filepath.Dir(dirs[0]), buildPrefix+gone+"-123"), 0o700))
	for range 2 {
		must(t, s.Remove(ctx, gone))
	}
	checkNoBuilds(t, filepath.Dir(dirs[0]))
	for _, id := range []string{gone, "", "..", "*", "../snapshots", strings.Repeat("?", 32)} {
		if _, err := s.Open(ctx, id); !errors.Is(err, runtime.ErrNoSnapshot) {
			t.Errorf("open %q: %v", id, err)
		}
		must(t, s.Remove(ctx, id))
	}
	if left, err := s.List(ctx); err != nil || len(left) != 2 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestRemoveImage(t *testing.T) {
	ctx, m := t.Context(), &maker{}
	s := newServer(t.TempDir(), m)
	snap, err := s.get(ctx, inputsOf("a"))
	must(t, err)
	_, err = s.get(ctx, inputsOf("b"))
	must(t, err)
	dir := filepath.Dir(snap.Dir)
	must(t, os.MkdirAll(filepath.Join(dir, buildPrefix+"0"), 0o700))
	for range 2 {
		must(t, s.RemoveImage("sha256:a"))
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("snapshots of a removed image are left: %v", err)
	}
	if all, err := s.List(ctx); err != nil || len(all) != 1 || all[0].Image != "sha256:b" {
		t.Errorf("left: %v, %v", all, err)
	}
}

func TestEveryInputChangesTheID(t *testing.T) {
	changes := map[string]func(*Inputs){
		"format":   func(i *Inputs) { i.Format++ },
		"kind":     func(i *Inputs) { i.Kind += "x" },
		"image":    func(i *Inputs) { i.ImageDigest += "x" },
		"gVisor":   func(i *Inputs) { i.GVisorVersion += "x" },
		"flags":    func(i *Inputs) { i.GVisorFlags = []string{"g"} },
		"protocol": func(i *Inputs) { i.GuestProtocol++ },
		"CPUs":     func(i *Inputs) { i.CPUs++ },
		"disk":     func(i *Inputs) { i.DiskBytes++ },
		"modules":  func(i *Inputs) { i.Modules = []string{"m"} },
		"features": func(i *Inputs) { i.CPUFeatures += "x" },
		"spec":     func(i *Inputs) { i.Spec = []byte(`{"a":1}`) },
	}
	id, err := inputsOf("a").id()
	must(t, err)
	for name, change := range changes {
		other := inputsOf("a")
		change(&other)
		if got, err := other.id(); err != nil || got == id {
			t.Errorf("%s does not matter: %v", name, err)
		}
	}
}

func checkNoBuilds(t *testing.T, dir string) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(dir, buildPrefix+"*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
}

func writeManifest(t *testing.T, dir, text string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(dir, manifestFile), []byte(text), 0o600))
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
