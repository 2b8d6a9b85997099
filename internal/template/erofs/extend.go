package erofs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"os"

	reader "github.com/erofs/go-erofs"
)

// Extend starts an image in out, an empty file open for writing, that has all
// that is in base, an image made by this package. The blocks of files are copied
// as they are, so it is much faster than writing the files again. The digest is
// the base's, from its [Summary].
func Extend(out, base *os.File, digest string, unix int64) (*Writer, error) {
	start, err := metadataBlock(base)
	if err != nil {
		return nil, fmt.Errorf("read the image %s: %w", base.Name(), err)
	}
	w := newWriter(out, unix)
	w.sum.Write([]byte(digest))
	if err := w.adopt(base, start); err != nil {
		return nil, fmt.Errorf("read the image %s: %w", base.Name(), err)
	}
	if _, err := base.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	// Straight from file to file, so that the kernel can do it.
	size := int64(start) << blockBits
	copied, err := io.Copy(out, io.LimitReader(base, size))
	if err != nil {
		return nil, fmt.Errorf("copy the image %s: %w", base.Name(), err)
	}
	if copied != size {
		return nil, fmt.Errorf("copy the image %s: it ends after %d of %d bytes", base.Name(), copied, size)
	}
	w.blocks = start
	return w, nil
}

// metadataBlock reads from the super block of one of our images where its
// contents end.
func metadataBlock(image io.ReaderAt) (uint32, error) {
	b := make([]byte, blockSize-superOffset)
	if _, err := image.ReadAt(b, superOffset); err != nil {
		return 0, err
	}
	le := binary.LittleEndian
	if le.Uint32(b[0:]) != magic || !bytes.HasPrefix(b[64:80], []byte(volumeName)) {
		return 0, fmt.Errorf("not an image of this program")
	}
	return le.Uint32(b[40:]), nil
}

// adopt takes over the entries of an image whose contents end before the block
// start.
func (w *Writer) adopt(base io.ReaderAt, start uint32) error {
	image, err := reader.Open(base)
	if err != nil {
		return err
	}
	links, ok := image.(fs.ReadLinkFS)
	if !ok {
		return fmt.Errorf("the reader cannot read symbolic links")
	}
	files := map[int64]*node{}
	return fs.WalkDir(image, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		stat, ok := info.Sys().(*reader.Stat)
		if !ok {
			return fmt.Errorf("%s: the reader gives no owner", name)
		}
		// Not info.Mode(): the reader leaves the sticky bit out there.
		attr := Attr{Mode: stat.Mode, UID: stat.UID, GID: stat.GID}
		full := "/" + name
		switch {
		case name == ".":
			return w.Dir("/", attr)
		case info.IsDir():
			return w.Dir(full, attr)
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := links.ReadLink(name)
			if err != nil {
				return err
			}
			return w.Symlink(full, target, attr)
		case info.Mode().IsRegular():
			n := files[stat.Ino]
			if n == nil {
				block, err := firstBlock(info, start)
				if err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				n = &node{kind: kindRegular, attr: attr, size: info.Size(), block: block}
				files[stat.Ino] = n
			}
			return w.add(full, func(*node) (*node, error) { return n, nil })
		}
		return fmt.Errorf("%s: an entry of kind %s", name, info.Mode().Type())
	})
}

// firstBlock says where the content of a file of the base begins.
func firstBlock(info fs.FileInfo, start uint32) (uint32, error) {
	if info.Size() == 0 {
		return 0, nil
	}
	ranger, ok := info.(interface{ DataRange() []reader.DataRange })
	if !ok {
		return 0, fmt.Errorf("the reader does not say where its content is")
	}
	ranges := ranger.DataRange()
	if len(ranges) != 1 || ranges[0].Size != info.Size() {
		return 0, fmt.Errorf("its content is not in one piece")
	}
	at := ranges[0].Offset
	if at < blockSize || at%blockSize != 0 || at+info.Size() > int64(start)<<blockBits {
		return 0, fmt.Errorf("its content is not in the blocks of files (at %d)", at)
	}
	return uint32(at >> blockBits), nil
}
