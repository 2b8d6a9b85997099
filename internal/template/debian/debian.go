// Package debian makes the tree of a template on the machine itself: a clean
// Debian root from the machine's own package sources, and Python libraries of a
// lock file from the machine's own package index.
//
// It owns what is in that tree and what must not be: nothing of the host's /etc,
// its home directories, its credentials or its network set-up. What needs the
// network (mmdebstrap, pip download) runs on the host and reads the host's
// configuration where it is; what runs inside the tree has no network. The
// package knows nothing of images, caches or sandboxes.
//
// It must run as root. A step that fails ends the build with an [*Error] that
// carries the end of the tool's output and, where one is known, the remedy; what
// is in the work directory is then worthless. Cancelling the context ends the
// tools, which are waited for.
package debian

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
)

// UserID is the uid and gid of the sandbox's user.
const UserID = 1000

// CABundle is where the tree expects the certificate authorities. The tree has
// no such file: whoever makes an image of it adds one.
const CABundle = "/etc/ssl/certs/ca-certificates.crt"

// Spec says what goes into a tree.
type Spec struct {
	// Packages are names of Debian packages, added to a minimal system.
	Packages []string
	// Lock is a requirements file with the version and the hashes of every
	// Python library, dependencies included; empty for none.
	Lock []byte
}

// Package is something that was installed.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Kind    string `json:"kind"` // "deb" or "python"
}

// Builder makes one tree.
type Builder struct {
	// Host is the root directory of the machine whose release and package
	// sources are used: "/" but for tests.
	Host string
	// Work is an empty directory for the tree and temporary files.
	Work string
	// Hold, if not nil, is passed to every tool, so that a lock on it lasts as
	// long as the last of them.
	Hold *os.File
	// Progress is told what is being done. It must not block. Nil: nobody is.
	Progress func(step, detail string)
	Log      *slog.Logger

	tree string
	root *os.Root
}

// Build makes the tree and returns where it is and what is installed in it.
func (b *Builder) Build(ctx context.Context, spec Spec) (string, []Package, error) {
	release, err := ReadRelease(b.Host)
	if err != nil {
		return "", nil, err
	}
	if os.Geteuid() != 0 {
		return "", nil, errors.New("building a template needs root (chroot, files of several owners): run the command as root")
	}
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		return "", nil, errors.New("mmdebstrap is not installed: run make setup, or apt-get install mmdebstrap")
	}
	sources, err := SelectSources(b.Host, release)
	if err != nil {
		return "", nil, err
	}
	b.tree = filepath.Join(b.Work, "tree")
	if err := b.bootstrap(ctx, release, sources, spec.Packages); err != nil {
		return "", nil, err
	}
	if b.root, err = os.OpenRoot(b.tree); err != nil {
		return "", nil, err
	}
	defer b.root.Close()
	steps := []func() error{
		func() error { return b.installLibraries(ctx, spec.Lock) },
		func() error { return b.makeLocale(ctx) },
		func() error { return furnish(b.root) },
		func() error { return b.warmUp(ctx, len(spec.Lock) > 0) },
		// Last, for what the programs before needed or left.
		func() error { return scrub(b.root) },
		func() error { return checkClean(b.root) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return "", nil, err
		}
	}
	packages, err := installed(b.root)
	return b.tree, packages, err
}

func (b *Builder) progress(step, detail string) {
	if b.Progress != nil {
		b.Progress(step, detail)
	}
}

// put writes a file of the tree, owned by root, in place of whatever has that
// name; a link there is replaced, not followed.
func put(root *os.Root, name string, data []byte, mode fs.FileMode) error {
	if err := root.RemoveAll(name); err != nil {
		return fmt.Errorf("write %s in the tree: %w", name, err)
	}
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("write %s in the tree: %w", name, err)
	}
	if err := root.WriteFile(name, data, mode); err != nil {
		return fmt.Errorf("write %s in the tree: %w", name, err)
	}
	return root.Chmod(name, mode)
}

// link makes a symbolic link in the tree in place of whatever has that name.
func link(root *os.Root, target, name string) error {
	if err := root.RemoveAll(name); err != nil {
		return fmt.Errorf("link %s in the tree: %w", name, err)
	}
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("link %s in the tree: %w", name, err)
	}
	return root.Symlink(target, name)
}
