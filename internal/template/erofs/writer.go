// Package erofs writes EROFS images that gVisor can use as a root file system,
// and puts further files on top of an image that it wrote before.
//
// It owns the layout: every regular file lies in blocks of its own, never inline
// behind its inode. gVisor reads inline files, but cannot map them into memory:
// a program that maps one (glibc does with locales) would get a bus error. This
// is why the writer is ours; the reader is github.com/erofs/go-erofs. What is
// not written: extended attributes, compression, set-user-id bits.
//
// The package knows nothing of templates, Debian or caches. A [Writer] that has
// failed stays failed, and its output is worthless; the caller removes it.
//
// The format is documented at https://docs.kernel.org/filesystems/erofs.html
// and, field by field, in the kernel's fs/erofs/erofs_fs.h.
package erofs

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

const (
	blockBits = 12
	blockSize = 1 << blockBits
	// maxName is NAME_MAX.
	maxName = 255
	// maxTarget keeps a symbolic link in one block with its inode.
	maxTarget = blockSize - inodeSize - slotSize
)

// Attr is what an image keeps of an entry beside its name and content.
type Attr struct {
	// Mode has the permissions and the sticky bit. The rest is not kept, least
	// of all set-user-id and set-group-id: nothing in a sandbox may gain rights.
	Mode     fs.FileMode
	UID, GID uint32
}

// Writer makes one image. Entries may come in any order, but a directory before
// what is in it. Times of all entries are the image's one time. It is not safe
// for concurrent use.
type Writer struct {
	out    *os.File
	sum    hash.Hash     // of all that buf writes, in that order
	buf    *bufio.Writer // to out and sum
	blocks uint32        // blocks of the image written so far
	unix   int64         // the time of every entry
	root   *node
	err    error
	done   bool
}

// node is an inode, with more than one name if it is a regular file.
type node struct {
	kind     uint8
	attr     Attr
	size     int64
	block    uint32 // first block of content
	target   string
	links    uint32
	children map[string]*node

	// Set by the layout.
	nid     uint64
	ino     uint32
	parent  *node
	dirents []dirent
}

// NewWriter starts an image in out, an empty file open for writing. Every entry
// gets the modification time unix, in seconds.
func NewWriter(out *os.File, unix int64) *Writer {
	w := newWriter(out, unix)
	// The first block is the super block's, written last.
	w.write(make([]byte, blockSize))
	w.blocks = 1
	return w
}

func newWriter(out *os.File, unix int64) *Writer {
	sum := sha256.New()
	return &Writer{
		out:  out,
		sum:  sum,
		buf:  bufio.NewWriterSize(io.MultiWriter(out, sum), 1<<20),
		unix: unix,
		root: newDir(Attr{Mode: 0o755}),
	}
}

func newDir(attr Attr) *node {
	return &node{kind: kindDir, attr: attr, children: map[string]*node{}}
}

// Dir adds a directory, or changes the attributes of one that is there.
func (w *Writer) Dir(name string, attr Attr) error {
	if name == "/" {
		w.root.attr = attr
		return w.err
	}
	return w.add(name, func(old *node) (*node, error) {
		if old != nil && old.kind == kindDir {
			old.attr = attr
			return old, nil
		}
		return newDir(attr), nil
	})
}

// Symlink adds a symbolic link.
func (w *Writer) Symlink(name, target string, attr Attr) error {
	if target == "" || len(target) > maxTarget || strings.ContainsRune(target, 0) {
		return w.fail(fmt.Errorf("%s: the target of a symbolic link must have 1 to %d bytes, without NUL: this one has %d", name, maxTarget, len(target)))
	}
	attr.Mode = 0o777
	return w.add(name, func(*node) (*node, error) {
		return &node{kind: kindSymlink, attr: attr, size: int64(len(target)), target: target}, nil
	})
}

// File adds a regular file with the content of r, which must have exactly size
// bytes. It replaces a file of that name.
func (w *Writer) File(name string, attr Attr, size int64, r io.Reader) error {
	return w.add(name, func(*node) (*node, error) {
		n := &node{kind: kindRegular, attr: attr, size: size}
		if size > 0 {
			n.block = w.blocks
		}
		written, err := io.Copy(w.buf, io.LimitReader(r, size))
		if err != nil {
			return nil, fmt.Errorf("write %s: %w", name, err)
		}
		if written != size {
			return nil, fmt.Errorf("%s: has %d bytes where %d were announced: it changed while it was read", name, written, size)
		}
		if extra, err := io.CopyN(io.Discard, r, 1); extra != 0 || !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%s: has more than the %d bytes announced: it changed while it was read (%v)", name, size, err) //nolint:errorlint // io.EOF is not the caller's business
		}
		return n, w.pad(size)
	})
}

// Link adds a further name of a regular file.
func (w *Writer) Link(name, existing string) error {
	target, err := w.find(existing)
	if err != nil {
		return w.fail(err)
	}
	if target.kind != kindRegular {
		return w.fail(fmt.Errorf("link %s: %s is not a regular file", name, existing))
	}
	return w.add(name, func(*node) (*node, error) { return target, nil })
}

// add puts what create makes at name. Create gets what is there, which it must
// not silently replace by another kind of entry, and nil if there is nothing.
func (w *Writer) add(name string, create func(old *node) (*node, error)) error {
	if w.err != nil {
		return w.err
	}
	if w.done {
		return w.fail(errors.New("the image is already closed"))
	}
	if name == "/" || !path.IsAbs(name) || path.Clean(name) != name {
		return w.fail(fmt.Errorf("%q is not a clean absolute path below /", name))
	}
	dir, err := w.find(path.Dir(name))
	if err != nil {
		return w.fail(err)
	}
	base := path.Base(name)
	if dir.kind != kindDir {
		return w.fail(fmt.Errorf("%s: %s is not a directory in the image: give the path without links", name, path.Dir(name)))
	}
	if len(base) > maxName || strings.ContainsRune(base, 0) {
		return w.fail(fmt.Errorf("%q: a name has at most %d bytes, without NUL", name, maxName))
	}
	old := dir.children[base]
	created, err := create(old)
	if err != nil {
		return w.fail(err)
	}
	if old != nil && (old.kind == kindDir || created.kind == kindDir) && old != created {
		return w.fail(fmt.Errorf("%s: is in the image as another kind of entry", name))
	}
	dir.children[base] = created
	return nil
}

// find returns what is at a path. It follows no links.
func (w *Writer) find(name string) (*node, error) {
	n := w.root
	for part := range strings.SplitSeq(strings.Trim(name, "/"), "/") {
		if part == "" {
			continue
		}
		child := n.children[part]
		if child == nil {
			return nil, fmt.Errorf("%s: no %q in the image", name, part)
		}
		n = child
	}
	return n, nil
}

// Has tells whether there is an entry at a clean absolute path.
func (w *Writer) Has(name string) bool {
	_, err := w.find(name)
	return err == nil
}

// Summary says what was written.
type Summary struct {
	SizeBytes int64
	// Digest tells apart images with different content: the SHA-256, in hex, of
	// what the writer wrote (for an extended image after the base's digest).
	Digest string
}

// Close writes the inodes and the super block. It does not close or sync the
// file.
func (w *Writer) Close() (Summary, error) {
	if w.err != nil {
		return Summary{}, w.err
	}
	if w.done {
		return Summary{}, w.fail(errors.New("the image is already closed"))
	}
	w.done = true
	plan := planLayout(w.root, w.blocks)
	meta := plan.encode(w.unix)
	w.write(meta)
	if err := w.buf.Flush(); err != nil {
		return Summary{}, w.fail(err)
	}
	super := plan.superBlock(meta, w.unix)
	w.sum.Write(super)
	if _, err := w.out.WriteAt(super, 0); err != nil {
		return Summary{}, w.fail(err)
	}
	return Summary{
		SizeBytes: int64(w.blocks)<<blockBits + int64(len(meta)),
		Digest:    hex.EncodeToString(w.sum.Sum(nil)),
	}, w.err
}

// pad fills the last block of a content of that size, and counts its blocks.
func (w *Writer) pad(size int64) error {
	count := (size + blockSize - 1) >> blockBits
	if int64(w.blocks)+count > 1<<31 {
		return fmt.Errorf("the image would be larger than %d TiB", blockSize>>9)
	}
	w.blocks += uint32(count)
	w.write(make([]byte, count<<blockBits-size))
	return w.err
}

func (w *Writer) write(b []byte) {
	if w.err == nil {
		_, w.err = w.buf.Write(b)
	}
}

func (w *Writer) fail(err error) error {
	if w.err == nil {
		w.err = err
	}
	return w.err
}

// names returns the names in a directory in the order of their bytes, in which
// the format wants them.
func (n *node) names() []string {
	names := make([]string, 0, len(n.children))
	for name := range n.children {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
