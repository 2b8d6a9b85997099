package template

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/agentsandbox/agentsandbox/internal/template/debian"
	"github.com/agentsandbox/agentsandbox/internal/template/erofs"
)

// Space on disk, in bytes: a base needs its tree, the packages on their way
// there, and its image; an image needs the base's size and this.
const (
	baseSpace  = 3 << 30
	extraSpace = 256 << 20
)

// Step is a piece of news about a build.
type Step struct {
	Name   string // what is being done, such as "install Debian"
	Detail string // the latest line of the tool that does it; may be empty
}

// plan is a build that was looked at: what it would make, of what.
type plan struct {
	def     Definition
	files   []File // the caller's and the certificate authorities
	release debian.Release
	base    map[string]string // inputs
	image   map[string]string
}

func (c *Cache) plan(def Definition, extra []File) (plan, error) {
	if err := def.validate(extra); err != nil {
		return plan{}, err
	}
	release, err := debian.ReadRelease(c.host)
	if err != nil {
		return plan{}, err
	}
	bundle, err := readCABundle(def.CABundle)
	if err != nil {
		return plan{}, err
	}
	files := append([]File{{Path: debian.CABundle, Mode: 0o644, Data: bundle}}, extra...)
	base := def.baseInputs(release)
	return plan{def: def, files: files, release: release, base: base, image: def.imageInputs(keyOf(base), files)}, nil
}

// Lookup tells whether the cache has the image of a definition with those files,
// and returns it.
func (c *Cache) Lookup(def Definition, extra []File) (Image, bool, error) {
	p, err := c.plan(def, extra)
	if err != nil {
		return Image{}, false, err
	}
	image, err := c.load("images", keyOf(p.image))
	if errors.Is(err, fs.ErrNotExist) {
		return Image{}, false, nil
	}
	return image, err == nil, err
}

// Build returns the image of a definition with those files on top, and makes it
// if the cache does not have it; then it must run as root. progress, which may be
// nil, is told about what takes time, by one goroutine at a time. Whoever relies
// on the image being there calls [Image.Hold].
func (c *Cache) Build(ctx context.Context, def Definition, extra []File, progress func(Step)) (Image, error) {
	if progress == nil {
		progress = func(Step) {}
	}
	p, err := c.plan(def, extra)
	if err != nil {
		return Image{}, err
	}
	if err := c.makeDirs(); err != nil {
		return Image{}, err
	}
	image, err := c.ensure(ctx, "images", keyOf(p.image), progress, func(s *scratch) (Image, error) {
		return c.makeImage(ctx, p, s, progress)
	})
	if err != nil {
		return Image{}, fmt.Errorf("build the template %s: %w", def.Name, err)
	}
	return image, nil
}

// ensure returns the entry of a key; if it is not there, produce writes its image
// in a temporary directory.
func (c *Cache) ensure(ctx context.Context, kind, key string, progress func(Step), produce func(*scratch) (Image, error)) (Image, error) {
	if image, err := c.load(kind, key); err == nil {
		return image, nil
	}
	build, err := c.waitLock(ctx, buildLock(kind, key), func() {
		progress(Step{Name: "wait", Detail: "another process builds the same: waiting for it"})
	})
	if err != nil {
		return Image{}, err
	}
	defer build.Close()
	image, err := c.load(kind, key)
	if err == nil {
		return image, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		c.log.WarnContext(ctx, "an entry of the template cache is made again", "error", err)
		if err := c.discard(ctx, kind, key); err != nil {
			return Image{}, err
		}
	}
	s, err := c.scratch(ctx)
	if err != nil {
		return Image{}, err
	}
	err = c.make(kind, key, s, produce)
	if err = errors.Join(err, s.remove()); err != nil {
		return Image{}, err
	}
	return c.load(kind, key)
}

// make makes an entry and moves it to its place at one stroke.
func (c *Cache) make(kind, key string, s *scratch, produce func(*scratch) (Image, error)) error {
	start := time.Now()
	image, err := produce(s)
	if err != nil {
		return err
	}
	image.Key = key
	image.BuiltAt = time.Now().UTC()
	image.BuildTimeMS = time.Since(start).Milliseconds()
	ready := filepath.Join(s.dir, "ready")
	if err := os.Mkdir(ready, 0o755); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(s.dir, imageFile), filepath.Join(ready, imageFile)); err != nil {
		return err
	}
	if err := image.store(ready); err != nil {
		return err
	}
	return os.Rename(ready, c.entry(kind, key))
}

// base returns a base, made if need be, and held until release is called.
func (c *Cache) base(ctx context.Context, p plan, progress func(Step)) (base Image, release func(), err error) {
	key := keyOf(p.base)
	for {
		base, err = c.ensure(ctx, "bases", key, progress, func(s *scratch) (Image, error) {
			return c.makeBase(ctx, p, s, progress)
		})
		if err != nil {
			return Image{}, nil, err
		}
		release, err = c.hold("bases", key)
		if !errors.Is(err, fs.ErrNotExist) || ctx.Err() != nil {
			return base, release, err
		}
		// Removed in between: once more.
	}
}

func (c *Cache) makeBase(ctx context.Context, p plan, s *scratch, progress func(Step)) (Image, error) {
	if err := needSpace(s.dir, baseSpace); err != nil {
		return Image{}, err
	}
	builder := debian.Builder{
		Host: c.host, Work: s.dir, Hold: s.lock, Log: c.log,
		Progress: func(step, detail string) { progress(Step{Name: step, Detail: detail}) },
	}
	dir, packages, err := c.tree(ctx, builder, debian.Spec{Packages: strings.Fields(p.base["packages"]), Lock: p.def.Lock})
	if err != nil {
		return Image{}, err
	}
	progress(Step{Name: "write the base"})
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Image{}, err
	}
	defer root.Close()
	summary, err := writeImage(s, func(out *os.File) (*erofs.Writer, error) {
		w := erofs.NewWriter(out, buildUnix)
		return w, w.Tree(ctx, root)
	})
	return Image{Digest: "sha256:" + summary.Digest, SizeBytes: summary.SizeBytes, Inputs: p.base, Packages: packages}, err
}

func (c *Cache) makeImage(ctx context.Context, p plan, s *scratch, progress func(Step)) (Image, error) {
	base, release, err := c.base(ctx, p, progress)
	if err != nil {
		return Image{}, err
	}
	defer release()
	if err := needSpace(s.dir, base.SizeBytes+extraSpace); err != nil {
		return Image{}, err
	}
	progress(Step{Name: "write the image"})
	summary, err := writeImage(s, func(out *os.File) (*erofs.Writer, error) {
		in, err := os.Open(base.Path)
		if err != nil {
			return nil, err
		}
		defer in.Close()
		w, err := erofs.Extend(out, in, base.Digest, buildUnix)
		if err != nil {
			return nil, err
		}
		return w, addFiles(w, p.files)
	})
	if err != nil {
		return Image{}, err
	}
	return Image{
		Name: p.def.Name, Digest: "sha256:" + summary.Digest, SizeBytes: summary.SizeBytes,
		Inputs: p.image, Packages: base.Packages,
	}, ctx.Err()
}

// writeImage writes the image of a temporary directory and syncs it.
func writeImage(s *scratch, fill func(*os.File) (*erofs.Writer, error)) (erofs.Summary, error) {
	out, err := os.OpenFile(filepath.Join(s.dir, imageFile), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return erofs.Summary{}, err
	}
	defer out.Close()
	w, err := fill(out)
	if err != nil {
		return erofs.Summary{}, err
	}
	summary, err := w.Close()
	if err != nil {
		return erofs.Summary{}, err
	}
	return summary, out.Sync()
}

// addFiles puts files into an image, with the directories above them.
func addFiles(w *erofs.Writer, files []File) error {
	for _, f := range files {
		for _, dir := range parents(f.Path) {
			if w.Has(dir) {
				continue
			}
			if err := w.Dir(dir, erofs.Attr{Mode: 0o755}); err != nil {
				return err
			}
		}
		if err := w.File(f.Path, erofs.Attr{Mode: f.Mode}, int64(len(f.Data)), bytes.NewReader(f.Data)); err != nil {
			return err
		}
	}
	return nil
}

// parents lists the directories above a path, outermost first, without "/".
func parents(name string) []string {
	var dirs []string
	for dir := path.Dir(name); dir != "/"; dir = path.Dir(dir) {
		dirs = append([]string{dir}, dirs...)
	}
	return dirs
}
