package agent

import (
	"golang.org/x/sys/unix"
)

// openDirectory opens a directory to be read, where a stat has just seen one.
// If something else has come there since, a link for example, the error is
// ENOTDIR or ELOOP, now or from readNames.
//
// There is no O_DIRECTORY: with it, gVisor follows a link in spite of O_NOFOLLOW.
func openDirectory(dirFD int, name string) (int, error) {
	return unix.Openat(dirFD, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
}

// readNames calls f with the names in an open directory until it returns false.
func readNames(fd int, f func(name string) bool) error {
	buf := buffers.Get().(*[pumpSize]byte)
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
