package template

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/agentsandbox/agentsandbox/internal/template/debian"
)

// Errors of what a caller asked for. They are wrapped: use errors.Is.
var (
	// ErrNotFound says that no image has that name or digest.
	ErrNotFound = errors.New("no such template")
	// ErrAmbiguous says that the beginning of a digest fits several images.
	ErrAmbiguous = errors.New("ambiguous digest")
	// ErrInUse says that a server uses an image.
	ErrInUse = errors.New("in use")
)

// minPrefix is how much of a digest finds an image.
const minPrefix = 8

// Cache is a directory of images. It is safe for concurrent use, also by several
// processes.
type Cache struct {
	dir  string
	log  *slog.Logger
	host string // root directory of the machine; "/" but for tests
	// tree makes the tree of a base; another function in tests.
	tree func(ctx context.Context, b debian.Builder, spec debian.Spec) (string, []Package, error)
}

// NewCache opens a cache directory and makes it if it is not there.
func NewCache(dir string, log *slog.Logger) (*Cache, error) {
	if dir == "" {
		return nil, errors.New("the cache directory has no name: set cache_dir")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("cache directory: %w", err)
	}
	c := &Cache{
		dir: dir, log: log, host: "/",
		tree: func(ctx context.Context, b debian.Builder, spec debian.Spec) (string, []Package, error) {
			return b.Build(ctx, spec)
		},
	}
	return c, c.makeDirs()
}

// makeDirs makes the directories of the cache, which whoever runs short of space
// may have deleted.
func (c *Cache) makeDirs() error {
	for _, sub := range []string{"bases", "images", "locks", "tmp"} {
		if err := os.MkdirAll(filepath.Join(c.dir, sub), 0o755); err != nil {
			return fmt.Errorf("cache directory: %w: choose one that this user can write (cache_dir)", err)
		}
	}
	return nil
}

// List returns the images, the newest first. Damaged ones are logged and left
// out; the next build replaces them.
func (c *Cache) List(ctx context.Context) ([]Image, error) { return c.list(ctx, "images") }

func (c *Cache) list(ctx context.Context, kind string) ([]Image, error) {
	entries, err := os.ReadDir(filepath.Join(c.dir, kind))
	if err != nil {
		return nil, err
	}
	var all []Image
	for _, entry := range entries {
		if !hexDigest.MatchString(entry.Name()) {
			continue
		}
		image, err := c.load(kind, entry.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed at this moment
		}
		if err != nil {
			c.log.WarnContext(ctx, "an entry of the template cache cannot be used", "error", err)
			continue
		}
		all = append(all, image)
	}
	slices.SortFunc(all, func(a, b Image) int {
		return cmp.Or(b.BuiltAt.Compare(a.BuiltAt), strings.Compare(a.Key, b.Key))
	})
	return all, nil
}

// Inspect finds an image by its name, then the newest of that name, or by its
// digest or key, of which the first 8 digits will do. Errors: ErrNotFound,
// ErrAmbiguous.
func (c *Cache) Inspect(ctx context.Context, ref string) (Image, error) {
	found, err := c.find(ctx, ref)
	if err != nil {
		return Image{}, err
	}
	return found[0], nil
}

// find returns all images of a name, or the one with a digest.
func (c *Cache) find(ctx context.Context, ref string) ([]Image, error) {
	all, err := c.List(ctx)
	if err != nil {
		return nil, err
	}
	pick := func(fits func(Image) bool) []Image {
		return slices.DeleteFunc(slices.Clone(all), func(i Image) bool { return !fits(i) })
	}
	if named := pick(func(i Image) bool { return i.Name == ref }); len(named) > 0 {
		return named, nil
	}
	prefix := strings.TrimPrefix(ref, "sha256:")
	if len(prefix) < minPrefix {
		return nil, fmt.Errorf("%w: %q (a digest needs at least %d digits; templates list shows what is there)", ErrNotFound, ref, minPrefix)
	}
	fits := pick(func(i Image) bool {
		return strings.HasPrefix(strings.TrimPrefix(i.Digest, "sha256:"), prefix) || strings.HasPrefix(i.Key, prefix)
	})
	switch len(fits) {
	case 0:
		return nil, fmt.Errorf("%w: %q (templates list shows what is there)", ErrNotFound, ref)
	case 1:
		return fits, nil
	}
	return nil, fmt.Errorf("%w: %d templates begin with %q: give more digits", ErrAmbiguous, len(fits), ref)
}

// Remove removes the images of a name, or the one with a digest, and the bases
// that no image has any more; the next build then starts from the packages that
// Debian has by then. before is called with each image that is about to go, so
// that what was made of it can go first; an error of it keeps the image. An image
// that is held is kept, with an error that wraps ErrInUse. What was removed is
// returned even with an error.
func (c *Cache) Remove(ctx context.Context, ref string, before func(Image) error) ([]Image, error) {
	found, err := c.find(ctx, ref)
	if err != nil {
		return nil, err
	}
	return c.removeAll(ctx, found, before)
}

// Prune removes images that have the name of keep but are not it, if nobody holds
// them nor has for some time, and the bases that no image has any more. before is
// as in Remove. The time is there for other versions of the server, which share
// the cache and are not running at the moment.
func (c *Cache) Prune(ctx context.Context, keep Image, unused time.Duration, before func(Image) error) ([]Image, error) {
	all, err := c.List(ctx)
	if err != nil {
		return nil, err
	}
	old := slices.DeleteFunc(all, func(i Image) bool {
		return i.Name != keep.Name || i.Key == keep.Key || time.Since(c.lastUse("images", i)) < unused
	})
	removed, err := c.removeAll(ctx, old, before)
	if errors.Is(err, ErrInUse) {
		err = nil
	}
	return removed, err
}

func (c *Cache) removeAll(ctx context.Context, images []Image, before func(Image) error) ([]Image, error) {
	var removed []Image
	var errs []error
	for _, image := range images {
		if err := c.remove(ctx, "images", image, before); err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(removed, image)
	}
	errs = append(errs, c.removeUnusedBases(ctx))
	return removed, errors.Join(errs...)
}

// lastUse is when an entry was last held, or else built: the file of the lock
// says so, see hold.
func (c *Cache) lastUse(kind string, image Image) time.Time {
	used := image.BuiltAt
	if info, err := os.Stat(filepath.Join(c.dir, "locks", useLock(kind, image.Key))); err == nil && info.ModTime().After(used) {
		used = info.ModTime()
	}
	return used
}

// remove removes an entry that nobody holds.
func (c *Cache) remove(ctx context.Context, kind string, image Image, before func(Image) error) error {
	use, err := c.lockFile(useLock(kind, image.Key), syscall.LOCK_EX)
	if errors.Is(err, errLocked) {
		return fmt.Errorf("template %s (%.19s): %w: stop the server that uses it", image.Name, image.Digest, ErrInUse)
	}
	if err != nil {
		return err
	}
	defer use.Close()
	if before != nil {
		if err := before(image); err != nil {
			return fmt.Errorf("template %s (%.19s): %w", image.Name, image.Digest, err)
		}
	}
	return c.discard(ctx, kind, image.Key)
}

// discard moves an entry out of the way, at one stroke, and removes it.
func (c *Cache) discard(ctx context.Context, kind, key string) error {
	s, err := c.scratch(ctx)
	if err != nil {
		return err
	}
	err = os.Rename(c.entry(kind, key), filepath.Join(s.dir, "removed"))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, s.remove())
}

// removeUnusedBases removes bases that no image names and no build holds.
func (c *Cache) removeUnusedBases(ctx context.Context) error {
	images, err := c.List(ctx)
	if err != nil {
		return err
	}
	bases, err := c.list(ctx, "bases")
	if err != nil {
		return err
	}
	var errs []error
	for _, base := range bases {
		if slices.ContainsFunc(images, func(i Image) bool { return i.Inputs["base"] == base.Key }) {
			continue
		}
		if err := c.remove(ctx, "bases", base, nil); err != nil && !errors.Is(err, ErrInUse) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
