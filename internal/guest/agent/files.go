package agent

import (
	"container/heap"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/guest/rawio"
)

const maxPath = agentsandbox.MaxPathBytes

// entryOf says what a stat found. name is a path, or a name in a directory.
func entryOf(name string, st *unix.Stat_t, target string) guest.Entry {
	kind := agentsandbox.PathOther
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		kind = agentsandbox.PathFile
	case unix.S_IFDIR:
		kind = agentsandbox.PathDirectory
	case unix.S_IFLNK:
		kind = agentsandbox.PathSymlink
	}
	sec, nsec := st.Mtim.Unix()
	return guest.Entry{
		Name:   []byte(name),
		Kind:   string(kind),
		Size:   st.Size,
		Mode:   st.Mode & 0o7777,
		Sec:    sec,
		Nsec:   nsec,
		Target: []byte(target),
	}
}

// lookAt stats a name in an open directory, and reads it if it is a link.
func lookAt(dirFD int, name string) (guest.Entry, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dirFD, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return guest.Entry{}, &os.PathError{Op: "stat", Path: filepath.Base(name), Err: err}
	}
	target := ""
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		buf := make([]byte, maxPath+1)
		n, err := unix.Readlinkat(dirFD, name, buf)
		if err != nil {
			return guest.Entry{}, &os.PathError{Op: "readlink", Path: filepath.Base(name), Err: err}
		}
		target = string(buf[:min(n, maxPath)])
	}
	return entryOf(name, &st, target), nil
}

// place is an open directory, the name of what is meant in it, and the real path of
// the directory in the sandbox.
type place struct {
	dirFD int
	name  string
	dir   string
}

// openPlace opens the directory that a path ends in, following the links in it,
// with the user's rights. It refuses what does not belong to the user's files,
// however the path gets there: the kernel's own files tell of processes, and
// change when they are read.
func (a *Agent) openPlace(p string) (pl place, err error) {
	if err := checkPlace(p); err != nil {
		return place{}, err
	}
	parent, name := filepath.Split(a.path(p))
	if name == "" {
		name = "." // of the root
	}
	err = a.threads.do(func() (err error) {
		if pl.dirFD, err = unix.Open(parent, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			return &os.PathError{Op: "open", Path: filepath.Base(parent), Err: err}
		}
		return nil
	})
	if err != nil {
		return place{}, err
	}
	pl.name = name
	if pl.dir, err = a.realPath(pl.dirFD); err == nil {
		err = checkPlace(filepath.Join(pl.dir, name))
	}
	if err != nil {
		pl.close()
		return place{}, err
	}
	return pl, nil
}

func checkPlace(p string) error {
	if agentsandbox.SystemPath(p) {
		return refuse(guest.FailSystemPath, "it leads to %s", p)
	}
	return nil
}

func (pl place) close() { unix.Close(pl.dirFD) }

// realPath returns the path of an open directory in the sandbox, without links.
func (a *Agent) realPath(dirFD int) (string, error) {
	p, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", dirFD))
	if err != nil {
		return "", fmt.Errorf("find the path of an open directory: %w", err)
	}
	if a.opts.Root == "/" {
		return p, nil
	}
	if root, err := filepath.EvalSymlinks(a.opts.Root); err == nil && (p == root || strings.HasPrefix(p, root+"/")) {
		p = "/" + strings.TrimPrefix(strings.TrimPrefix(p, root), "/")
	}
	return p, nil
}

// stat says what is at a path.
func (a *Agent) stat(p string) (e guest.Entry, err error) {
	pl, err := a.openPlace(p)
	if err != nil {
		return e, err
	}
	defer pl.close()
	err = a.threads.do(func() (err error) {
		e, err = lookAt(pl.dirFD, pl.name)
		return err
	})
	e.Name = nil
	return e, err
}

// list returns a page of a directory.
func (a *Agent) list(ctx context.Context, p, after string, limit int) (page guest.Page, err error) {
	if limit < 1 || limit > guest.MaxListLimit {
		return page, refuse(guest.FailInvalid, "limit must be from 1 to %d", guest.MaxListLimit)
	}
	pl, err := a.openPlace(p)
	if err != nil {
		return page, err
	}
	defer pl.close()
	err = a.threads.do(func() error {
		var st unix.Stat_t
		if err := unix.Fstatat(pl.dirFD, pl.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return &os.PathError{Op: "stat", Path: filepath.Base(p), Err: err}
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return refuse(guest.FailNotRegular, "it is not a directory")
		}
		fd, err := rawio.OpenDirectory(pl.dirFD, pl.name)
		if err != nil {
			return &os.PathError{Op: "open", Path: filepath.Base(p), Err: err}
		}
		defer unix.Close(fd)
		names, err := firstNames(ctx, fd, after, limit+1)
		if err != nil {
			return err
		}
		if len(names) > limit {
			names, page.More = names[:limit], true
		}
		page.Entries = make([]guest.Entry, 0, len(names))
		for _, name := range names {
			e, err := lookAt(fd, name)
			if err == nil {
				page.Entries = append(page.Entries, e)
			} else if !os.IsNotExist(err) {
				return err
			}
		}
		return nil
	})
	if page.More && len(page.Entries) == 0 {
		// Everything on the page went away while it was looked at, so there is
		// no name to go on after.
		return page, refuse(guest.FailOther, "the directory changes too quickly to be listed; try again")
	}
	return page, err
}

// firstNames returns the first n names after one, in order. However large the
// directory, it holds no more names than that.
func firstNames(ctx context.Context, fd int, after string, n int) ([]string, error) {
	var first largestFirst
	err := rawio.ReadNames(fd, func(name string) bool {
		switch {
		case name <= after:
		case len(first) < n:
			heap.Push(&first, name)
		case name < first[0]:
			first[0] = name
			heap.Fix(&first, 0)
		}
		return ctx.Err() == nil
	})
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	slices.Sort(first)
	return first, err
}

// largestFirst is a heap whose first element is the largest name.
type largestFirst []string

func (h largestFirst) Len() int           { return len(h) }
func (h largestFirst) Less(i, j int) bool { return h[i] > h[j] }
func (h largestFirst) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *largestFirst) Push(x any)        { *h = append(*h, x.(string)) }
func (h *largestFirst) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// remove removes what is at a path.
func (a *Agent) remove(ctx context.Context, p string) error {
	if p == "/" {
		return refuse(guest.FailInvalid, "the root directory cannot be removed")
	}
	pl, err := a.openPlace(p)
	if err != nil {
		return err
	}
	defer pl.close()
	return a.threads.do(func() error { return removeAt(ctx, pl.dirFD, pl.name, 0) })
}

// removeDepth bounds the directories that remove descends into: each costs a
// descriptor.
const removeDepth = 4096

// removeAt removes a name in an open directory. The attempt to remove a
// directory that is not empty comes first, so that nothing is lost below one
// which the user may not remove.
func removeAt(ctx context.Context, dirFD int, name string, depth int) error {
	err := unix.Unlinkat(dirFD, name, 0)
	if err == nil {
		return nil
	}
	var st unix.Stat_t
	if serr := unix.Fstatat(dirFD, name, &st, unix.AT_SYMLINK_NOFOLLOW); serr != nil {
		return &os.PathError{Op: "remove", Path: name, Err: serr}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return &os.PathError{Op: "remove", Path: name, Err: err}
	}
	err = unix.Unlinkat(dirFD, name, unix.AT_REMOVEDIR)
	if err == nil {
		return nil
	}
	if err != unix.ENOTEMPTY && err != unix.EEXIST {
		return &os.PathError{Op: "remove", Path: name, Err: err}
	}
	if depth == removeDepth {
		return refuse(guest.FailInvalid, "directories are nested more than %d deep; remove them in the sandbox", removeDepth)
	}
	if err := emptyDirectory(ctx, dirFD, name, depth); err != nil {
		return err
	}
	if err := unix.Unlinkat(dirFD, name, unix.AT_REMOVEDIR); err != nil && err != unix.ENOENT {
		return &os.PathError{Op: "remove", Path: name, Err: err}
	}
	return nil
}

// emptyDirectory removes what is in a directory. Names are taken in batches, and
// the directory is read again until it is empty: reading on while removing may
// skip names.
func emptyDirectory(ctx context.Context, dirFD int, name string, depth int) error {
	const batch = 1024
	for {
		fd, err := rawio.OpenDirectory(dirFD, name)
		if err != nil {
			return &os.PathError{Op: "open", Path: name, Err: err}
		}
		names := make([]string, 0, 16)
		err = rawio.ReadNames(fd, func(n string) bool {
			names = append(names, n)
			return len(names) < batch
		})
		for _, n := range names {
			if err == nil {
				err = ctx.Err()
			}
			if err == nil {
				err = removeAt(ctx, fd, n, depth+1)
			}
		}
		unix.Close(fd)
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		if len(names) == 0 {
			return nil
		}
	}
}
