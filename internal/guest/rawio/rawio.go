// Package rawio reads directories and writes files by system calls, for the
// programs inside a sandbox. There Go's poller costs a system call or two for each
// file, and a link that the user has put in the place of a directory must not be
// followed.
//
// It knows nothing of what the files are for. It fails with the errors of the system
// calls, in which the caller finds the error number.
package rawio

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// OpenDirectory opens a directory to be read, where a stat has just seen one.
// If something else has come there since, a link for example, the error is
// ENOTDIR or ELOOP, now or from [ReadNames].
//
// There is no O_DIRECTORY: with it, gVisor follows a link in spite of O_NOFOLLOW.
func OpenDirectory(dirFD int, name string) (int, error) {
	return unix.Openat(dirFD, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
}

const bufferSize = 64 << 10

// buffers are for names: to touch new memory costs more than to read.
var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// ReadNames calls f with the names in an open directory until it returns false.
func ReadNames(fd int, f func(name string) bool) error {
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	for {
		n, err := unix.ReadDirent(fd, buf[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return err
		}
		var names []string
		for b := buf[:n]; len(b) > 0; {
			consumed, _, more := unix.ParseDirent(b, -1, names[:0])
			b, names = b[consumed:], more
			for _, name := range names {
				if !f(name) {
					return nil
				}
			}
		}
	}
}

// WriteFile writes a whole file in a directory that only root can write to. flags
// are those of open(2) besides O_WRONLY and O_CLOEXEC.
func WriteFile(path string, flags int, data []byte) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC|flags, 0o644)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	err = WriteAll(fd, data)
	if cerr := unix.Close(fd); err == nil {
		err = cerr
	}
	if err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

// WriteAll writes all of b to a descriptor that blocks.
func WriteAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
