package gvisor

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"gvisor.dev/gvisor/pkg/state/statefile"
	runscsandbox "gvisor.dev/gvisor/runsc/sandbox"

	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/guest/wire"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
	"github.com/agentsandbox/agentsandbox/internal/runtime/gvisor/snapshot"
)

// snapshots implements [runtime.Snapshots]: it knows how a snapshot of a recipe is
// made, and leaves to the store where it is kept.
type snapshots struct {
	*snapshot.Store
	r           *Runtime
	cpuFeatures string
}

var _ runtime.Snapshots = (*snapshots)(nil)

// cpuinfo is where the kernel lists what the processors can do.
const cpuinfo = "/proc/cpuinfo"

func newSnapshots(r *Runtime) (*snapshots, error) {
	features, err := cpuFeatures(cpuinfo)
	if err != nil {
		return nil, err
	}
	// A directory that cannot be written is found out now.
	if err := os.MkdirAll(r.opts.CacheDir, 0o700); err != nil {
		return nil, fmt.Errorf("cache directory: %w", err)
	}
	return &snapshots{Store: snapshot.Open(r.opts.CacheDir), r: r, cpuFeatures: features}, nil
}

// Snapshots returns what sandboxes start from.
func (r *Runtime) Snapshots() runtime.Snapshots { return r.snapshots }

// Make implements [runtime.Snapshots].
func (s *snapshots) Make(ctx context.Context, name string, limits runtime.Limits, progress func(step string)) (runtime.Manifest, error) {
	if progress == nil {
		progress = func(string) {}
	}
	snap, err := s.get(ctx, name, limits, progress)
	if err != nil {
		return runtime.Manifest{}, err
	}
	return snap.Manifest, nil
}

// get returns a snapshot that is known to be whole.
func (s *snapshots) get(ctx context.Context, name string, limits runtime.Limits, progress func(step string)) (*snapshot.Snapshot, error) {
	recipe, err := s.r.opts.Recipes(ctx, name)
	if err != nil {
		return nil, err
	}
	in, err := s.inputs(recipe, coresFor(limits), cmp.Or(limits.DiskBytes, s.r.opts.DiskBytes))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, snapshotTimeout, fmt.Errorf("the snapshot %s was not made within %v", name, snapshotTimeout))
	defer cancel()
	snap, err := s.Store.Make(ctx, in, func(ctx context.Context, dir string) error {
		return s.r.freeze(ctx, dir, name, in, progress)
	}, progress)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", name, startError(ctx, err))
	}
	return snap, nil
}

// replace makes a snapshot again that could not be restored, unless somebody
// has done so since.
func (s *snapshots) replace(ctx context.Context, name string, limits runtime.Limits, old *snapshot.Snapshot) (*snapshot.Snapshot, error) {
	if err := s.Discard(ctx, old); err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", name, err)
	}
	return s.get(ctx, name, limits, func(string) {})
}

// inputs are what a snapshot depends on.
func (s *snapshots) inputs(recipe runtime.Recipe, cores int, disk int64) (snapshot.Inputs, error) {
	if recipe.Image.Digest == "" {
		return snapshot.Inputs{}, fmt.Errorf("image %s: has no digest", recipe.Image.Path)
	}
	spec, err := newSpec(specParams{ImagePath: recipe.Image.Path, DiskBytes: disk})
	if err != nil {
		return snapshot.Inputs{}, err
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return snapshot.Inputs{}, fmt.Errorf("spec of a sandbox: %w", err)
	}
	return snapshot.Inputs{
		Kind:          runtime.SnapshotTemplate,
		ImageDigest:   recipe.Image.Digest,
		GVisorVersion: gvisorVersion(),
		GVisorFlags:   sandboxFlags(s.r.opts.Platform),
		GuestProtocol: wire.Version,
		CPUs:          cores,
		DiskBytes:     disk,
		Modules:       recipe.Modules,
		CPUFeatures:   s.cpuFeatures,
		Spec:          text,
	}, nil
}

// snapshotIDPrefix starts the ids of the sandboxes that snapshots are made of.
const snapshotIDPrefix = "snapshot-"

// freeze boots an image in a sandbox of its own, has the agent bring up all that a
// run will need, and saves the sandbox in dir, with its spec. The sandbox has no
// limits: nothing in it is anybody's code but the template's.
func (r *Runtime) freeze(ctx context.Context, dir, name string, in snapshot.Inputs, progress func(step string)) error {
	if err := os.WriteFile(filepath.Join(dir, specFile), in.Spec, 0o600); err != nil {
		return err
	}
	progress("booting the template")
	m, err := r.launch(ctx, launchSpec{
		id:       snapshotIDPrefix + strings.ToLower(rand.Text()),
		snapshot: name,
		bundle:   bundle{dir: dir},
		cores:    in.CPUs,
	}, func(m *machine) error { return m.container.Start(r.conf) })
	if err != nil {
		return err
	}
	defer m.abandon(r)
	client, err := guest.NewClient(ctx, m.conn)
	if err != nil {
		return fmt.Errorf("no answer from the agent in the image: %w", err)
	}
	// The conversation must stay open until all is frozen: the agent waits on it
	// for the next one, and would take an end for the end of its work.
	defer func() { _ = client.Close() }()
	progress("bringing up the interpreter")
	if err := client.PrepareSnapshot(ctx, in.Modules); err != nil {
		return fmt.Errorf("the agent could not get ready to be frozen: %w", err)
	}
	progress("freezing the sandbox")
	return m.killedWhenDone(ctx, func() error {
		return m.container.Checkpoint(r.conf, dir, runscsandbox.CheckpointOpts{
			// Uncompressed pages are a file of their own, which a restore reads in
			// parallel with the rest.
			Compression:               statefile.CompressionLevelNone,
			ExcludeCommittedZeroPages: true,
		})
	})
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
