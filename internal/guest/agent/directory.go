package agent

import (
	"golang.org/x/sys/unix"
)

// openDirectory opens a directory to be read, and nothing else: for a link, also
// one to a directory, the error is ENOTDIR.
//
// O_NOFOLLOW with O_DIRECTORY would say that in one call, but gVisor follows the
// link then. Opening the name itself first, without a right to anything, has no
// effect on whatever it names.
func openDirectory(dirFD int, name string) (int, error) {
	at, err := unix.Openat(dirFD, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(at)
	var st unix.Stat_t
	if err := unix.Fstat(at, &st); err != nil {
		return -1, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return -1, unix.ENOTDIR
	}
	return unix.Openat(at, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// readNames calls f with the names in an open directory until it returns false.
func readNames(fd int, f func(name string) bool) error {
	buf := make([]byte, 16<<10)
	for {
		n, err := unix.ReadDirent(fd, buf)
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
