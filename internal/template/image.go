package template

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/agentsandbox/agentsandbox/internal/template/debian"
)

// Package is something installed in an image.
type Package = debian.Package

// Image is an image in the cache. What is written here is also its manifest, the
// JSON file beside it. A base has the same form, without a name.
type Image struct {
	Name string `json:"name,omitempty"`
	// Key is the digest of everything that the image was made of.
	Key string `json:"key"`
	// Digest tells apart images with different content: "sha256:" and 64 hex
	// digits. An image that was removed and is made again of the same inputs may
	// have another one, because Debian's packages may be newer.
	Digest    string    `json:"digest"`
	Path      string    `json:"-"`
	SizeBytes int64     `json:"size_bytes"`
	BuiltAt   time.Time `json:"built_at"`
	// BuildTimeMS is how long it took to make, a base made on the way included.
	BuildTimeMS int64             `json:"build_time_ms"`
	Inputs      map[string]string `json:"inputs"`
	Packages    []Package         `json:"packages"`

	cache *Cache
}

const (
	imageFile    = "image.erofs"
	manifestFile = "manifest.json"
)

var hexDigest = regexp.MustCompile(`^[0-9a-f]{64}$`)

// store writes the manifest of an image in a directory and syncs both.
func (i Image) store(dir string) error {
	data, err := json.MarshalIndent(i, "", "  ")
	if err != nil {
		return err
	}
	manifest, err := os.OpenFile(filepath.Join(dir, manifestFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = manifest.Write(append(data, '\n'))
	return errors.Join(err, manifest.Sync(), manifest.Close())
}

// load reads what the cache has under a key. It is fs.ErrNotExist if there is
// nothing; any other error is of an entry that is damaged.
func (c *Cache) load(kind, key string) (Image, error) {
	dir := c.entry(kind, key)
	data, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if err != nil {
		if _, gone := os.Lstat(dir); errors.Is(gone, fs.ErrNotExist) {
			return Image{}, fmt.Errorf("%s %.12s: %w", kind, key, fs.ErrNotExist)
		}
		return Image{}, damaged(kind, key, err)
	}
	var image Image
	if err := json.Unmarshal(data, &image); err != nil {
		return Image{}, fmt.Errorf("%s %.12s is damaged: its manifest: %w", kind, key, err)
	}
	image.Path = filepath.Join(dir, imageFile)
	image.cache = c
	info, err := os.Stat(image.Path)
	switch {
	case err != nil:
		return Image{}, damaged(kind, key, err)
	case image.Key != key:
		return Image{}, fmt.Errorf("%s %.12s is damaged: its manifest is that of %.12s", kind, key, image.Key)
	case info.Size() != image.SizeBytes:
		return Image{}, fmt.Errorf("%s %.12s is damaged: it has %d of %d bytes", kind, key, info.Size(), image.SizeBytes)
	}
	return image, nil
}

// damaged is the error of an entry that is there in part. It does not wrap its
// cause, which may be fs.ErrNotExist: that means that nothing is there.
func damaged(kind, key string, cause error) error {
	return errors.New(kind + " " + key[:12] + " is damaged: " + cause.Error())
}

// Hold keeps an image from being removed, by this process or another, until the
// function that it returns is called, or this process ends. The error wraps
// fs.ErrNotExist if the image was removed before.
func (i Image) Hold() (release func(), err error) { return i.cache.hold("images", i.Key) }

// Check tells whether the image is still there, and whole as far as its size
// tells.
func (i Image) Check() error {
	_, err := i.cache.load("images", i.Key)
	return err
}

func (c *Cache) hold(kind, key string) (func(), error) {
	lock, err := c.lockFile(useLock(kind, key), syscall.LOCK_SH)
	if errors.Is(err, errLocked) {
		// Only who removes it locks it exclusively.
		return nil, fmt.Errorf("%s %.12s is being removed: %w", kind, key, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	if _, err := c.load(kind, key); err != nil {
		lock.Close()
		return nil, err
	}
	c.markUse(lock)
	return func() {
		c.markUse(lock)
		lock.Close()
	}, nil
}

// markUse notes in the file of a lock that what it is for is in use now. A failure
// makes Prune remove it sooner, and nothing else.
func (c *Cache) markUse(lock *os.File) {
	now := time.Now()
	if err := os.Chtimes(lock.Name(), now, now); err != nil {
		c.log.Warn("the use of an image cannot be noted", "error", err)
	}
}

func useLock(kind, key string) string   { return kind + "-" + key + ".use" }
func buildLock(kind, key string) string { return kind + "-" + key + ".build" }

// entry is the directory of what has that key.
func (c *Cache) entry(kind, key string) string { return filepath.Join(c.dir, kind, key) }
