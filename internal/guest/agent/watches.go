package agent

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"strings"

	"golang.org/x/sys/unix"
)

// watches tell which files in directories were opened and closed. A change through a
// shared mapping moves no time of a file in gVisor, and there is no other sign of
// it: the file counts as closed when its last mapping is gone too. Everything here
// is guarded by the lock of known.
type watches struct {
	fd    int // -1: there are none
	dirs  map[int32]string
	ids   map[directoryID]int32
	files map[int32]bool // watches of files
}

// watched are the events that are asked for.
const watched = unix.IN_OPEN | unix.IN_CLOSE_WRITE | unix.IN_CLOSE_NOWRITE

// directoryID is device and inode.
type directoryID struct{ dev, ino uint64 }

func newWatches(log *slog.Logger) watches {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		log.Warn("directories cannot be watched: changes through shared mappings go unnoticed", "error", err)
		return watches{fd: -1}
	}
	return watches{fd: fd, dirs: map[int32]string{}, ids: map[directoryID]int32{}, files: map[int32]bool{}}
}

// add watches an open directory, or notes where it is by now.
func (w *watches) add(fd int, dir string, log *slog.Logger) {
	var st unix.Stat_t
	if w.fd < 0 || unix.Fstat(fd, &st) != nil {
		return
	}
	id := directoryID{st.Dev, st.Ino}
	if wd, ok := w.ids[id]; ok {
		w.dirs[wd] = dir
		return
	}
	wd, err := w.watch(fd, unix.IN_ONLYDIR)
	if err != nil {
		log.Warn("a directory cannot be watched: changes through shared mappings go unnoticed in it", "error", err)
		return
	}
	w.dirs[wd], w.ids[id] = dir, wd
}

// maxFileWatches bounds the watches of files.
const maxFileWatches = 4096

// addFile watches an open file by itself, too. What this watch tells is not looked
// at: it stands between what the watch of the directory tells, and so keeps the
// kernel from making one of two openings in a row.
func (w *watches) addFile(fd int) {
	if w.fd < 0 || len(w.files) >= maxFileWatches {
		return
	}
	if wd, err := w.watch(fd, 0); err == nil {
		w.files[wd] = true
	}
}

func (w *watches) watch(fd int, flags uint32) (int32, error) {
	wd, err := unix.InotifyAddWatch(w.fd, fmt.Sprintf("/proc/self/fd/%d", fd), watched|flags)
	return int32(wd), err
}

// drain calls f for each opening and closing of a file that the kernel has told of.
func (w *watches) drain(f func(p string, event uint32)) {
	if w.fd < 0 {
		return
	}
	buf := buffers.Get().(*[pumpSize]byte)
	defer buffers.Put(buf)
	for {
		n, err := unix.Read(w.fd, buf[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil || n < unix.SizeofInotifyEvent {
			return
		}
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			wd := int32(binary.NativeEndian.Uint32(b))
			mask := binary.NativeEndian.Uint32(b[4:])
			end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
			if end > len(b) {
				break
			}
			name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:end]), "\x00")
			b = b[end:]
			switch dir, ok := w.dirs[wd]; {
			case mask&unix.IN_IGNORED != 0:
				w.forget(wd)
			case ok && name != "" && mask&unix.IN_ISDIR == 0:
				f(strings.TrimSuffix(dir, "/")+"/"+name, mask)
			}
		}
	}
}

// forget drops the watch of what is gone.
func (w *watches) forget(wd int32) {
	if w.files[wd] {
		delete(w.files, wd)
		return
	}
	delete(w.dirs, wd)
	for id, of := range w.ids {
		if of == wd {
			delete(w.ids, id)
		}
	}
}

func (w *watches) close() {
	if w.fd >= 0 {
		unix.Close(w.fd)
		w.fd = -1
	}
}
