// Package snapshot keeps snapshots in the cache directory, which all servers of a
// machine share: one directory for each, under the id that its inputs give it,
// with a manifest that says what it is, what it needs and which files it has.
//
// The package owns where snapshots are, that each is made once, and that only
// whole ones are used. It knows neither how one is made nor how a sandbox starts
// from it. Everything in the directory can be deleted at any time: what is missing
// or damaged is made again, and a making that fails or is interrupted leaves a
// directory that is none, which the next making of that snapshot removes.
package snapshot

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// storeDir is the place of snapshots in the cache directory. In it there is one
// directory per image, named after its digest; in that, one per snapshot.
const storeDir = "snapshots"

const (
	// buildPrefix starts the name of a directory in which a snapshot is being made.
	buildPrefix = ".build-"
	lockSuffix  = ".lock"
)

// Store is the snapshots of a cache directory. It is safe for concurrent use, also
// by several processes.
type Store struct {
	dir string

	mu      sync.Mutex
	checked map[string]string // id to the making whose content was verified
}

// Open opens the snapshots of a cache directory. Nothing needs to be there.
func Open(cacheDir string) *Store {
	return &Store{dir: filepath.Join(cacheDir, storeDir), checked: map[string]string{}}
}

// Snapshot is one that was whole when it was found.
type Snapshot struct {
	runtime.Manifest
	// Dir holds its files.
	Dir  string
	made string // names this making of it
}

// Build makes the files of a snapshot in a directory.
type Build func(ctx context.Context, dir string) error

// Make finds the snapshot of some inputs, and makes it if it is not there or not
// whole, once: other goroutines wait, and so do other servers. progress is told
// what takes long.
func (s *Store) Make(ctx context.Context, in Inputs, build Build, progress func(step string)) (*Snapshot, error) {
	in.Format = format
	id, err := in.id()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(s.imageDir(in.ImageDigest), id)
	if snap := s.find(dir); snap != nil {
		return snap, nil
	}
	lock, err := lockFile(ctx, dir+lockSuffix, func() { progress("waiting for another server that makes the snapshot") })
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if snap := s.find(dir); snap != nil {
		return snap, nil
	}
	return s.build(ctx, dir, in, build, progress)
}

// find returns the snapshot of a directory, nil if there is none or it is not
// whole. The contents are read once per making and process: pages that rotted on
// the disk would be restored without a complaint.
func (s *Store) find(dir string) *Snapshot {
	m, err := readManifest(dir)
	if err != nil {
		return nil
	}
	id := filepath.Base(dir)
	s.mu.Lock()
	verified := s.checked[id] == m.Made
	s.mu.Unlock()
	if !m.whole(dir, !verified) {
		return nil
	}
	return s.verified(dir, m)
}

// verified notes that the content of a making is known.
func (s *Store) verified(dir string, m manifest) *Snapshot {
	id := filepath.Base(dir)
	s.mu.Lock()
	s.checked[id] = m.Made
	s.mu.Unlock()
	return &Snapshot{Manifest: m.describe(id), Dir: dir, made: m.Made}
}

// build makes a snapshot beside its place and renames it. The caller holds the
// lock.
func (s *Store) build(ctx context.Context, dir string, in Inputs, build Build, progress func(step string)) (*Snapshot, error) {
	if err := removeAll(dir); err != nil {
		return nil, err
	}
	parent, id := filepath.Split(dir)
	if err := os.MkdirAll(parent, 0o700); err != nil { // who took the lock made it; it may have been removed since
		return nil, err
	}
	tmp, err := os.MkdirTemp(parent, buildPrefix+id+"-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(tmp) }() // after the rename nothing is there; else the next build removes it
	if err := build(ctx, tmp); err != nil {
		return nil, err
	}
	progress("writing the snapshot")
	m := manifest{Made: rand.Text(), MadeAt: time.Now().UTC(), Inputs: in}
	if err := m.addFiles(tmp); err != nil {
		return nil, err
	}
	if err := m.write(tmp); err != nil {
		return nil, err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return nil, err
	}
	return s.verified(dir, m), nil
}

// Discard removes a snapshot that is of no use, unless it was made again since.
func (s *Store) Discard(ctx context.Context, old *Snapshot) error {
	lock, err := lockFile(ctx, old.Dir+lockSuffix, func() {})
	if err != nil {
		return err
	}
	defer lock.Close()
	m, err := readManifest(old.Dir)
	if err == nil && m.Made != old.made {
		return nil
	}
	return removeWhole(old.Dir)
}

// List implements runtime.Snapshots. Damaged snapshots are left out as far as their
// manifests and the sizes of their files tell.
func (s *Store) List(context.Context) ([]runtime.Manifest, error) {
	dirs, err := filepath.Glob(filepath.Join(s.dir, "*", "*"))
	if err != nil {
		return nil, err
	}
	var all []runtime.Manifest
	for _, dir := range dirs {
		if !validID(filepath.Base(dir)) {
			continue // a lock, or one that is being made
		}
		if m, err := readManifest(dir); err == nil && m.whole(dir, false) {
			all = append(all, m.describe(filepath.Base(dir)))
		}
	}
	slices.SortFunc(all, func(a, b runtime.Manifest) int { return strings.Compare(a.ID, b.ID) })
	return all, nil
}

// Open implements runtime.Snapshots.
func (s *Store) Open(_ context.Context, id string) (runtime.Manifest, error) {
	dirs, err := s.dirsOf(id)
	if err != nil {
		return runtime.Manifest{}, err
	}
	for _, dir := range dirs {
		if snap := s.find(dir); snap != nil {
			return snap.Manifest, nil
		}
	}
	return runtime.Manifest{}, fmt.Errorf("snapshot %q: %w", id, runtime.ErrNoSnapshot)
}

// Remove implements runtime.Snapshots.
func (s *Store) Remove(ctx context.Context, id string) error {
	dirs, err := s.dirsOf(id)
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := s.remove(ctx, dir); err != nil {
			return fmt.Errorf("snapshot %s: %w", id, err)
		}
	}
	return nil
}

func (s *Store) remove(ctx context.Context, dir string) error {
	lock, err := lockFile(ctx, dir+lockSuffix, func() {})
	if err != nil {
		return err
	}
	defer lock.Close()
	return removeAll(dir)
}

// RemoveImage removes every snapshot of an image, damaged and unfinished ones too.
// Nobody may be making one. It can be repeated.
func (s *Store) RemoveImage(imageDigest string) error {
	if err := os.RemoveAll(s.imageDir(imageDigest)); err != nil {
		return fmt.Errorf("snapshots of image %s: %w", imageDigest, err)
	}
	return nil
}

// imageDir is where the snapshots of an image are. A digest may be written with
// its algorithm in front, and comes from elsewhere, so it is hashed.
func (s *Store) imageDir(imageDigest string) string {
	return filepath.Join(s.dir, digest([]byte(imageDigest)))
}

// dirsOf finds the directory of an id, whatever the image: none, or one.
func (s *Store) dirsOf(id string) ([]string, error) {
	if !validID(id) {
		return nil, nil
	}
	return filepath.Glob(filepath.Join(s.dir, "*", id))
}

func validID(id string) bool {
	b, err := hex.DecodeString(id)
	return err == nil && len(b) == digestSize
}

// removeAll removes a snapshot and what interrupted makings of it left. The caller
// holds the lock, so what they left is nobody's.
func removeAll(dir string) error {
	parent, id := filepath.Split(dir)
	left, err := filepath.Glob(filepath.Join(parent, buildPrefix+id+"-*"))
	if err != nil {
		return err
	}
	for _, d := range append(left, dir) {
		if err := removeWhole(d); err != nil {
			return err
		}
	}
	return nil
}

// removeWhole makes a snapshot disappear at once: without its manifest it is
// none, whatever else is still there.
func removeWhole(dir string) error {
	if err := os.Remove(filepath.Join(dir, manifestFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(dir)
}
