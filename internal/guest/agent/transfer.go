package agent

import (
	"context"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/guest/rawio"
	"github.com/agentsandbox/agentsandbox/internal/guest/wire"
)

// serveRead sends a regular file: what it is, then its bytes, as many as it had
// when it was opened.
func (a *Agent) serveRead(ctx context.Context, s *wire.Stream, p string) error {
	fd, e, err := a.openRegular(p)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := guest.SendDocument(ctx, s, guest.KindReply, e); err != nil {
		return err
	}
	left := e.Size
	buf := make([]byte, wire.MaxPayload)
	for left > 0 {
		n, err := unix.Read(fd, buf[:min(left, int64(len(buf)))])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return &os.PathError{Op: "read", Path: filepath.Base(p), Err: err}
		}
		if n == 0 {
			break
		}
		left -= int64(n)
		if err := s.Send(ctx, guest.KindData, buf[:n]); err != nil {
			return err
		}
	}
	s.End()
	return nil
}

// openRegular opens a regular file for reading, and nothing else: it looks
// before it opens, because opening a device can have effects, and again
// afterwards, because what is there can change.
func (a *Agent) openRegular(p string) (fd int, e guest.Entry, err error) {
	pl, err := a.openPlace(p)
	if err != nil {
		return -1, e, err
	}
	defer pl.close()
	err = a.threads.do(func() error {
		var st unix.Stat_t
		if err := unix.Fstatat(pl.dirFD, pl.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return &os.PathError{Op: "open", Path: filepath.Base(p), Err: err}
		}
		if st.Mode&unix.S_IFMT != unix.S_IFREG {
			return notRegular(&st)
		}
		fd, err = unix.Openat(pl.dirFD, pl.name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: filepath.Base(p), Err: err}
		}
		if err := unix.Fstat(fd, &st); err != nil {
			unix.Close(fd)
			return &os.PathError{Op: "stat", Path: filepath.Base(p), Err: err}
		}
		if st.Mode&unix.S_IFMT != unix.S_IFREG {
			unix.Close(fd)
			return notRegular(&st)
		}
		e = entryOf("", &st, "")
		return nil
	})
	return fd, e, err
}

func notRegular(st *unix.Stat_t) error {
	what := "a device"
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		what = "a directory"
	case unix.S_IFLNK:
		what = "a symbolic link"
	case unix.S_IFIFO:
		what = "a FIFO"
	case unix.S_IFSOCK:
		what = "a socket"
	}
	return refuse(guest.FailNotRegular, "it is %s", what)
}

// uploads are the temporary files of writes under way: they are no files that a
// run made.
type uploads struct {
	mu    sync.Mutex
	files map[[2]uint64]bool // device and inode
}

func (u *uploads) has(st *unix.Stat_t) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.files[[2]uint64{st.Dev, st.Ino}]
}

func (u *uploads) set(st *unix.Stat_t, present bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	key := [2]uint64{st.Dev, st.Ino}
	if !present {
		delete(u.files, key)
		return
	}
	if u.files == nil {
		u.files = map[[2]uint64]bool{}
	}
	u.files[key] = true
}

// serveWrite receives a file.
func (a *Agent) serveWrite(ctx context.Context, s *wire.Stream, p string) error {
	up, err := a.beginUpload(p)
	if err != nil {
		return err
	}
	defer up.discard()
	for {
		m, err := s.Recv(ctx)
		switch {
		case err == io.EOF:
			e, err := up.commit()
			if err != nil {
				return err
			}
			if err := guest.SendDocument(ctx, s, guest.KindReply, e); err != nil {
				return err
			}
			s.End()
			return nil
		case err != nil:
			return fmt.Errorf("receive the file: %w", err)
		case m.Kind == guest.KindAbort:
			up.discard()
			return refuse(guest.FailOther, "the file was given up")
		case m.Kind != guest.KindData:
			return refuse(guest.FailInvalid, "a message of kind %d among the bytes of a file", m.Kind)
		}
		if err := rawio.WriteAll(up.fd, m.Payload); err != nil {
			return &os.PathError{Op: "write", Path: filepath.Base(p), Err: err}
		}
		_, _ = up.sum.Write(m.Payload) // never fails
	}
}

// upload is a file that is being written, under a temporary name beside its
// place.
type upload struct {
	place // dirFD is -1 if it is not open
	a     *Agent
	fd    int // -1: it is not open
	temp  string
	made  []string // directories that were made for it, outermost first
	st    unix.Stat_t
	sum   maphash.Hash // of what was written
	over  bool
}

// beginUpload makes the directories and the temporary file.
func (a *Agent) beginUpload(p string) (_ *upload, err error) {
	parent, name := filepath.Split(a.path(p))
	if name == "" {
		return nil, refuse(guest.FailNotRegular, "it is a directory")
	}
	if err := checkPlace(p); err != nil {
		return nil, err
	}
	up := &upload{a: a, place: place{dirFD: -1}, temp: ".upload-" + a.nextName(), fd: -1}
	up.sum.SetSeed(a.known.seed)
	defer func() {
		if err != nil {
			up.discard()
		}
	}()
	err = a.threads.do(func() (err error) {
		up.made, err = makeDirectories(filepath.Clean(parent))
		return err
	})
	if err != nil {
		return nil, err
	}
	pl, err := a.openPlace(p)
	if err != nil {
		return nil, err
	}
	up.place = pl
	if err := a.threads.do(up.create); err != nil {
		return nil, err
	}
	a.uploads.set(&up.st, true)
	a.known.watchUpload(up)
	return up, nil
}

// create makes the temporary file.
func (up *upload) create() (err error) {
	mode := uint32(0o644)
	var old unix.Stat_t
	switch err := unix.Fstatat(up.dirFD, up.name, &old, unix.AT_SYMLINK_NOFOLLOW); {
	case err == nil && old.Mode&unix.S_IFMT != unix.S_IFREG:
		return notRegular(&old)
	case err == nil:
		mode = old.Mode & 0o777
	case err != unix.ENOENT:
		return &os.PathError{Op: "stat", Path: up.name, Err: err}
	}
	up.fd, err = unix.Openat(up.dirFD, up.temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return &os.PathError{Op: "create a file beside", Path: up.name, Err: err}
	}
	if err := unix.Fchmod(up.fd, mode); err != nil {
		return &os.PathError{Op: "chmod", Path: up.name, Err: err}
	}
	return up.stat()
}

func (up *upload) stat() error {
	if err := unix.Fstat(up.fd, &up.st); err != nil {
		return &os.PathError{Op: "stat", Path: up.name, Err: err}
	}
	return nil
}

// commit gives the file its name. The file is closed before, so that this is the
// last that the watches tell of its being written.
func (up *upload) commit() (e guest.Entry, err error) {
	err = up.a.threads.do(func() error {
		if err := up.stat(); err != nil {
			return err
		}
		unix.Close(up.fd)
		up.fd = -1
		st, err := up.a.known.rename(up)
		if err != nil {
			return err
		}
		up.made, up.temp = nil, ""
		e = entryOf("", &st, "")
		return nil
	})
	return e, err
}

// discard removes what a commit has not kept. It can be repeated.
func (up *upload) discard() {
	if up.over {
		return
	}
	up.over = true
	_ = up.a.threads.do(func() error {
		up.cleanUp()
		return nil
	})
	up.a.uploads.set(&up.st, false)
}

func (up *upload) cleanUp() {
	if up.fd >= 0 {
		unix.Close(up.fd)
	}
	if up.dirFD >= 0 {
		if up.temp != "" {
			_ = unix.Unlinkat(up.dirFD, up.temp, 0)
		}
		up.close()
	}
	for i := len(up.made) - 1; i >= 0; i-- {
		_ = unix.Rmdir(up.made[i]) // stays if something else is in it by now
	}
}

// makeDirectories makes a directory and those above it, and returns the ones
// that it made, which it removes again on an error.
func makeDirectories(dir string) (made []string, err error) {
	var missing []string
	for d := dir; ; d = filepath.Dir(d) {
		var st unix.Stat_t
		err := unix.Stat(d, &st)
		if err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return nil, refuse(guest.FailNotRegular, "%s is not a directory", filepath.Base(d))
		}
		if err == nil {
			break
		}
		if err != unix.ENOENT || d == "/" {
			return nil, directoryError(d, err)
		}
		missing = append(missing, d)
	}
	for i := len(missing) - 1; i >= 0; i-- {
		err := unix.Mkdir(missing[i], 0o755)
		if err == nil {
			made = append(made, missing[i])
		} else if err != unix.EEXIST {
			for j := len(made) - 1; j >= 0; j-- {
				_ = unix.Rmdir(made[j])
			}
			return nil, directoryError(missing[i], err)
		}
	}
	return made, nil
}

// directoryError speaks of a directory on the way to a file.
func directoryError(dir string, err error) error {
	if err == unix.ENOTDIR {
		return refuse(guest.FailNotRegular, "a part of %s is not a directory", filepath.Base(dir))
	}
	return &os.PathError{Op: "make the directory", Path: filepath.Base(dir), Err: err}
}
