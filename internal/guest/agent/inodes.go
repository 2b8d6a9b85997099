package agent

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/guest/rawio"
)

// inodes bounds the files, directories and links of a sandbox, whose file system
// has a limit of bytes only. Numbers of inodes are given out one after the
// other, so that of a new file says how many there can be at most: as long as it
// is low, nothing has to be counted.
type inodes struct {
	mu      sync.Mutex
	checked time.Time
	// count is what was counted last, when the number at was given out.
	count, at uint64
}

const (
	inodesEvery = 100 * time.Millisecond
	// inodesSlack is how many may be made above the limit before it is counted
	// again, so that a sandbox that is above it can still be cleared up.
	inodesSlack = 4096
	// inodesDepth bounds the descriptors that counting holds. Deeper is over any
	// limit.
	inodesDepth = 2048
)

// userDirs are the directories in which the user can make files.
var userDirs = []string{agentsandbox.Workspace, agentsandbox.OutputDir, guest.Home, "/tmp", "/var/tmp"}

var errManyFiles = errors.New("more files than are counted")

// over tells whether the sandbox has more than most inodes, since the last time
// that it was looked. Counting stops when enough is closed.
func (n *inodes) over(a *Agent, most int64, enough <-chan struct{}) bool {
	if !a.opts.Init || most <= 0 || !n.mu.TryLock() {
		return false // a run beside this one is looking
	}
	defer n.mu.Unlock()
	if time.Since(n.checked) < inodesEvery {
		return false
	}
	n.checked = time.Now()
	given, err := a.newestInode()
	if err != nil {
		a.log.Warn("the inodes of the sandbox cannot be counted", "error", err)
		return false
	}
	made := given - n.at
	if n.count+made <= uint64(most) || n.count > uint64(most) && made < inodesSlack {
		return false
	}
	count := uint64(0)
	for _, dir := range userDirs {
		fd, err := rawio.OpenDirectory(unix.AT_FDCWD, a.path(dir))
		if err != nil {
			continue // it is gone
		}
		if countFiles(fd, 0, &count, uint64(most), enough) != nil {
			break
		}
	}
	select {
	case <-enough:
		return false
	default:
	}
	n.count, n.at = count, given
	return count > uint64(most)
}

// newestInode makes a file beside those of the user and returns its number.
func (a *Agent) newestInode() (uint64, error) {
	name := a.path("/var/.agentsandbox-" + a.nextName())
	fd, err := unix.Open(name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return 0, &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	if err := unix.Unlink(name); err != nil {
		return 0, &os.PathError{Op: "unlink", Path: name, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, fmt.Errorf("stat %s: %w", name, err)
	}
	return st.Ino, nil
}

// countFiles counts what is below an open directory, which it closes, until the
// count is above most.
func countFiles(fd, depth int, count *uint64, most uint64, enough <-chan struct{}) error {
	dir := os.NewFile(uintptr(fd), "directory")
	defer dir.Close()
	if depth > inodesDepth {
		*count = most + 1
		return errManyFiles
	}
	for {
		const batch = 1024
		entries, err := dir.ReadDir(batch)
		*count += uint64(len(entries))
		if *count > most {
			return errManyFiles
		}
		select {
		case <-enough:
			return errManyFiles
		default:
		}
		for _, e := range entries {
			if !e.IsDir() {
				continue
			}
			sub, err := rawio.OpenDirectory(fd, e.Name())
			if err != nil {
				continue // it went away
			}
			if err := countFiles(sub, depth+1, count, most, enough); err != nil {
				return err
			}
		}
		if err != nil {
			return nil // the end, or nothing more that can be read
		}
	}
}
