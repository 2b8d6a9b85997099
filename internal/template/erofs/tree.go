package erofs

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Tree adds everything below the directory root, with modes and owners, and
// changes the image's root directory to be as root is. Links are kept as they
// are, never followed; names of one file become links in the image. Device
// nodes, sockets and pipes are left out: a sandbox has a /dev of its own. It
// stops when ctx ends.
func (w *Writer) Tree(ctx context.Context, root *os.Root) error {
	type inode struct{ dev, ino uint64 }
	linked := map[inode]string{}
	return fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		info, err := root.Lstat(name)
		if err != nil {
			return err
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return fmt.Errorf("%s: the system gives no owner", name)
		}
		attr := Attr{Mode: info.Mode(), UID: stat.Uid, GID: stat.Gid}
		full := filepath.Join("/", name)
		switch {
		case info.IsDir():
			return w.Dir(full, attr)
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := root.Readlink(name)
			if err != nil {
				return err
			}
			return w.Symlink(full, target, attr)
		case info.Mode().IsRegular():
			id := inode{stat.Dev, stat.Ino}
			if first, ok := linked[id]; ok {
				return w.Link(full, first)
			}
			if stat.Nlink > 1 {
				linked[id] = full
			}
			return w.copyFile(root, name, full, attr, info.Size())
		}
		return nil
	})
}

func (w *Writer) copyFile(root *os.Root, name, full string, attr Attr, size int64) error {
	file, err := root.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	return w.File(full, attr, size, file)
}
