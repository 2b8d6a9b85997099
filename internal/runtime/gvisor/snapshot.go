package gvisor

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/sentry/state/checkpointfiles"

	"github.com/agentsandbox/agentsandbox/internal/guest/wire"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// snapshotFormat changes when the meaning of a snapshot directory does.
const snapshotFormat = 1

// snapshotsDir is the place of snapshots in the cache directory. In it there is
// one directory per image, named after its digest; in that, one per snapshot.
const snapshotsDir = "snapshots"

// manifestFile is written last: a snapshot without it is none.
const manifestFile = "manifest.json"

// buildPrefix starts the name of a directory in which a snapshot is being made.
const buildPrefix = ".build-"

// Progress is told what the making of a snapshot does, in a few words.
type Progress func(step string)

// snapshot is a template frozen with its interpreter up, ready to be restored.
type snapshot struct {
	dir     string
	key     string
	variant runtime.Variant
	cores   int
	disk    int64  // bytes that its sandboxes can write
	made    string // names this making of it
}

func (s *snapshot) bundle() bundle { return bundle{dir: s.dir} }

// manifest says what belongs to a snapshot, so that a damaged one is noticed.
type manifest struct {
	Format int       `json:"format"`
	Made   string    `json:"made"`
	MadeAt time.Time `json:"made_at"`
	// Inputs are what the snapshot was made from and fits.
	Inputs inputs         `json:"inputs"`
	Files  []manifestItem `json:"files"`
}

type manifestItem struct {
	Name      string `json:"name"`
	SizeBytes int64  `json:"size_bytes"`
	SHA256    string `json:"sha256"`
}

// inputs are all that a snapshot depends on. Their digest is its name.
type inputs struct {
	Format        int      `json:"format"`
	ImageDigest   string   `json:"image_digest"`
	GVisorVersion string   `json:"gvisor_version"`
	GVisorFlags   []string `json:"gvisor_flags"`
	GuestProtocol int      `json:"guest_protocol"`
	Cores         int      `json:"cores"`
	// Modules are what the interpreter that waits has loaded.
	Modules []string `json:"modules,omitempty"`
	// CPUFeatures is the digest of what the processor can do: gVisor refuses to
	// restore on one that can do less.
	CPUFeatures string          `json:"cpu_features"`
	Spec        json.RawMessage `json:"spec"`
}

func (in inputs) key() (string, error) {
	b, err := json.Marshal(in)
	if err != nil {
		return "", fmt.Errorf("name of a snapshot: %w", err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16]), nil
}

// maker makes the files of a snapshot in a directory.
type maker interface {
	makeSnapshot(ctx context.Context, dir, template string, variant runtime.Variant, cores int, progress Progress) error
}

// snapshots finds snapshots in the cache directory, and makes those that are
// missing, each once: other goroutines wait, and so do other servers.
type snapshots struct {
	dir         string
	opts        Options
	maker       maker
	cpuFeatures string

	mu      sync.Mutex
	checked map[string]string // key to the making whose content was verified
}

func newSnapshots(opts Options, m maker) (*snapshots, error) {
	features, err := cpuFeatures("/proc/cpuinfo")
	if err != nil {
		return nil, err
	}
	s := &snapshots{dir: filepath.Join(opts.CacheDir, snapshotsDir), opts: opts, maker: m, cpuFeatures: features, checked: map[string]string{}}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("cache directory: %w", err)
	}
	return s, nil
}

// Prepare makes the snapshot of a template's variant for sandboxes of those
// limits, if it is missing, so that Start does not need to. progress may be nil.
func (r *Runtime) Prepare(ctx context.Context, template string, variant runtime.Variant, limits runtime.Limits, progress func(step string)) error {
	_, err := r.snapshots.get(ctx, template, variant, coresFor(limits), limits.DiskBytes, progress)
	return err
}

// get returns a snapshot that is known to be whole. 0 bytes of disk are the
// server's default.
func (s *snapshots) get(ctx context.Context, template string, variant runtime.Variant, cores int, disk int64, progress Progress) (*snapshot, error) {
	if progress == nil {
		progress = func(string) {}
	}
	image, err := s.opts.Images(ctx, template)
	if err != nil {
		return nil, err
	}
	disk = cmp.Or(disk, s.opts.DiskBytes)
	in, err := s.inputs(image, variant, cores, disk)
	if err != nil {
		return nil, err
	}
	key, err := in.key()
	if err != nil {
		return nil, err
	}
	snap := &snapshot{dir: filepath.Join(s.imageDir(image.Digest), key), key: key, variant: variant, cores: cores, disk: disk}
	if s.usable(snap) {
		return snap, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, snapshotTimeout, fmt.Errorf("the snapshot of template %s was not made within %v", template, snapshotTimeout))
	defer cancel()
	lock, err := lockFile(ctx, snap.dir+".lock", func() { progress("waiting for another server that makes the snapshot") })
	if err != nil {
		return nil, fmt.Errorf("snapshot of template %s: %w", template, startError(ctx, err))
	}
	defer lock.Close()
	if s.usable(snap) {
		return snap, nil
	}
	if err := s.build(ctx, snap, in, template, progress); err != nil {
		return nil, fmt.Errorf("snapshot of template %s: %w", template, startError(ctx, err))
	}
	return snap, nil
}

// replace makes a snapshot again that could not be restored, unless somebody
// has done so since.
func (s *snapshots) replace(ctx context.Context, template string, old *snapshot) (*snapshot, error) {
	if err := s.discard(ctx, old); err != nil {
		return nil, fmt.Errorf("snapshot of template %s: %w", template, err)
	}
	return s.get(ctx, template, old.variant, old.cores, old.disk, nil)
}

func (s *snapshots) discard(ctx context.Context, old *snapshot) error {
	lock, err := lockFile(ctx, old.dir+".lock", func() {})
	if err != nil {
		return err
	}
	defer lock.Close()
	m, err := readManifest(old.dir)
	if err == nil && m.Made != old.made {
		return nil
	}
	return removeWhole(old.dir)
}

// removeWhole makes a snapshot disappear at once: without its manifest it is
// none, whatever else is still there.
func removeWhole(dir string) error {
	if err := os.Remove(filepath.Join(dir, manifestFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(dir)
}

// usable tells whether a snapshot is there and whole, and completes it. The
// contents are read once per making and process: pages that rotted on the disk
// would be restored without a complaint.
func (s *snapshots) usable(snap *snapshot) bool {
	m, err := readManifest(snap.dir)
	if err != nil || m.Format != snapshotFormat {
		return false
	}
	s.mu.Lock()
	verified := s.checked[snap.key] == m.Made
	s.mu.Unlock()
	for _, item := range m.Files {
		if !item.matches(snap.dir, !verified) {
			return false
		}
	}
	s.mu.Lock()
	s.checked[snap.key] = m.Made
	s.mu.Unlock()
	snap.made = m.Made
	return true
}

// build makes a snapshot beside its place and renames it. The caller holds the
// lock, so directories that an interrupted build of this snapshot left are
// nobody's.
func (s *snapshots) build(ctx context.Context, snap *snapshot, in inputs, template string, progress Progress) error {
	parent := filepath.Dir(snap.dir)
	prefix := buildPrefix + snap.key + "-"
	left, err := filepath.Glob(filepath.Join(parent, prefix+"*"))
	if err != nil {
		return err
	}
	for _, dir := range append(left, snap.dir) {
		if err := removeWhole(dir); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(parent, 0o700); err != nil { // who took the lock made it; it may have been removed since
		return err
	}
	tmp, err := os.MkdirTemp(parent, prefix)
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }() // after the rename nothing is there; else the next build removes it
	m := manifest{Format: snapshotFormat, Made: rand.Text(), MadeAt: time.Now().UTC(), Inputs: in}
	if err := os.WriteFile(filepath.Join(tmp, specFile), in.Spec, 0o600); err != nil {
		return err
	}
	if err := s.maker.makeSnapshot(ctx, tmp, template, snap.variant, snap.cores, progress); err != nil {
		return err
	}
	progress("writing the snapshot")
	for _, name := range []string{specFile, checkpointfiles.StateFileName, checkpointfiles.PagesMetadataFileName, checkpointfiles.PagesFileName} {
		item, err := newManifestItem(tmp, name)
		if err != nil {
			return err
		}
		m.Files = append(m.Files, item)
	}
	text, err := json.MarshalIndent(m, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tmp, manifestFile), text, 0o600); err != nil {
		return err
	}
	if err := os.Rename(tmp, snap.dir); err != nil {
		return err
	}
	snap.made = m.Made
	s.mu.Lock()
	s.checked[snap.key] = m.Made
	s.mu.Unlock()
	return nil
}

func (s *snapshots) imageDir(digest string) string { return imageDir(s.dir, digest) }

// imageDir is where the snapshots of an image are. A digest may be written with
// its algorithm in front, and comes from elsewhere, so it is hashed.
func imageDir(dir, digest string) string {
	sum := sha256.Sum256([]byte(digest))
	return filepath.Join(dir, hex.EncodeToString(sum[:16]))
}

func (s *snapshots) inputs(image Image, variant runtime.Variant, cores int, disk int64) (inputs, error) {
	if image.Digest == "" {
		return inputs{}, fmt.Errorf("image %s: has no digest", image.Path)
	}
	spec, err := newSpec(specParams{ImagePath: image.Path, DiskBytes: disk})
	if err != nil {
		return inputs{}, err
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return inputs{}, fmt.Errorf("spec of a sandbox: %w", err)
	}
	return inputs{
		Format:        snapshotFormat,
		ImageDigest:   image.Digest,
		GVisorVersion: gvisorVersion(),
		GVisorFlags:   sandboxFlags(s.opts.Platform),
		GuestProtocol: wire.Version,
		Cores:         cores,
		Modules:       variant.Modules(),
		CPUFeatures:   s.cpuFeatures,
		Spec:          text,
	}, nil
}

// RemoveSnapshots removes every snapshot of an image from a cache directory. It
// can be repeated. Sandboxes that were restored from one live on.
func RemoveSnapshots(cacheDir, imageDigest string) error {
	dir := imageDir(filepath.Join(cacheDir, snapshotsDir), imageDigest)
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("snapshots of image %s: %w", imageDigest, err)
	}
	return nil
}

func readManifest(dir string) (manifest, error) {
	var m manifest
	b, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if err != nil {
		return m, err
	}
	return m, json.Unmarshal(b, &m)
}

func newManifestItem(dir, name string) (manifestItem, error) {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return manifestItem{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return manifestItem{Name: name, SizeBytes: n, SHA256: hex.EncodeToString(h.Sum(nil))}, err
}

// matches compares a file with its entry: its size, and its content if asked.
func (i manifestItem) matches(dir string, content bool) bool {
	if !content {
		info, err := os.Stat(filepath.Join(dir, i.Name))
		return err == nil && info.Size() == i.SizeBytes
	}
	now, err := newManifestItem(dir, i.Name)
	return err == nil && now == i
}

// cpuFeatures is a digest of the features of the first processor in a cpuinfo
// file ("flags" on x86, "Features" on ARM).
func cpuFeatures(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("features of the processor: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(name) {
		case "flags", "Features":
			sum := sha256.Sum256([]byte(strings.Join(strings.Fields(value), " ")))
			return hex.EncodeToString(sum[:16]), nil
		}
	}
	return "", fmt.Errorf("features of the processor: %s lists none", path)
}
