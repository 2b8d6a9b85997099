package runtime

import (
	"context"
	"errors"
	"time"
)

// ErrNoSnapshot says that there is no snapshot of that name or id.
var ErrNoSnapshot = errors.New("no such snapshot")

// Image is the root file system of a sandbox.
type Image struct {
	// Path of the image on the host; absolute.
	Path string
	// Digest names the content of the image.
	Digest string
}

// Recipe says how a snapshot is made: the image is booted, the interpreters come
// up, and what is then in memory is kept.
type Recipe struct {
	Image Image
	// Modules are what the interpreter that waits has loaded, as far as they are
	// installed. Code cannot tell the difference but by its speed.
	Modules []string
}

// Snapshots keeps what sandboxes start from: the state of a sandbox, frozen.
//
// A snapshot is asked for by a name, which stands for a recipe. What is made of
// the recipe has an id, a digest of all that it was made from and depends on. A
// sandbox keeps the number of its processors and the size of its file system for
// ever, so a name has one snapshot for each pair of these.
type Snapshots interface {
	// Make makes the snapshot of a name for sandboxes of those limits, unless it
	// is there and whole. progress is told what is done, in a few words; it may be
	// nil. A name that is not known is ErrNoSnapshot.
	Make(ctx context.Context, name string, limits Limits, progress func(step string)) (Manifest, error)

	// List returns the manifests of all snapshots, sorted by id.
	List(ctx context.Context) ([]Manifest, error)

	// Open returns the manifest of a snapshot whose content was checked. One that
	// is missing or damaged is ErrNoSnapshot.
	Open(ctx context.Context, id string) (Manifest, error)

	// Remove removes a snapshot. It can be repeated. Sandboxes that started from
	// it live on, and one that is needed again is made again.
	Remove(ctx context.Context, id string) error
}

// SnapshotKind says what state a snapshot holds.
type SnapshotKind string

// SnapshotTemplate holds the memory of a template that is ready for its first
// run, and nobody's data.
const SnapshotTemplate SnapshotKind = "template"

// Manifest says what a snapshot is, and what it needs.
type Manifest struct {
	ID   string
	Kind SnapshotKind

	// Image is the digest of the image that it was made from and runs on, with the
	// guest agent in it, and Modules are what its interpreter has loaded.
	Image   string
	Modules []string
	// CPUs is how many processors its sandboxes see, and DiskBytes bounds what
	// they can write.
	CPUs      int
	DiskBytes int64

	// Kernel is the version of the sandbox's kernel, Protocol that of the
	// conversation with the agent, and CPUFeatures a digest of what the processor
	// can do. A sandbox can start from the snapshot only where all three are the
	// same.
	Kernel      string
	Protocol    int
	CPUFeatures string

	MadeAt    time.Time
	SizeBytes int64
}
