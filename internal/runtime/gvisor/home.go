package gvisor

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// home is a state directory as the host knows it: by device and inode, and not by
// its path. So a copy is another one, and has nothing to do with the sandboxes of
// the original, and a directory that is renamed keeps its own.
type home struct {
	// dir is held open, so that no new directory gets the same inode.
	dir *os.File
	// name is that of the parent control group, and of the directory in /run.
	name  string
	owner *os.File // its lock says that a server runs
}

// groupPrefix starts the names of parent control groups and directories in /run.
const groupPrefix = "agentsandbox-"

func homeName(dir *os.File) (string, error) {
	info, err := dir.Stat()
	if err != nil {
		return "", err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", errors.New("it has no inode")
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%d:%d", st.Dev, st.Ino))
	return groupPrefix + hex.EncodeToString(sum[:6]), nil
}

// openHome finds out what a state directory is called, and notes in its directory
// in /run, which it makes, whose that is.
func openHome(stateDir string) (*home, error) {
	dir, err := os.Open(stateDir)
	if err != nil {
		return nil, err
	}
	h := &home{dir: dir}
	if h.name, err = homeName(dir); err == nil {
		err = h.claim(stateDir)
	}
	if err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

// runDir is the directory of gVisor's files.
func (h *home) runDir() string { return filepath.Join(runDir, h.name) }

// owner is what the directory in /run says of the server that it belongs to.
type owner struct {
	// StateDir is where the state directory was when the server started.
	StateDir string `json:"state_dir"`
	// Handle finds it wherever it was moved to, on the device with that number.
	// Not every file system has handles.
	HandleType int32  `json:"handle_type,omitempty"`
	Handle     []byte `json:"handle,omitempty"`
	Device     uint64 `json:"device"`
}

const ownerFile = "owner"

func (h *home) claim(stateDir string) error {
	if err := os.MkdirAll(h.runDir(), 0o700); err != nil {
		return err
	}
	o := owner{StateDir: stateDir}
	var st unix.Stat_t
	if err := unix.Fstat(int(h.dir.Fd()), &st); err != nil {
		return err
	}
	o.Device = st.Dev
	if handle, _, err := unix.NameToHandleAt(int(h.dir.Fd()), "", unix.AT_EMPTY_PATH); err == nil {
		o.HandleType, o.Handle = handle.Type(), handle.Bytes()
	}
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	// Written in place: the lock is on the file and not on its name.
	if h.owner, err = os.OpenFile(filepath.Join(h.runDir(), ownerFile), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return err
	}
	if err := syscall.Flock(int(h.owner.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	if err := h.owner.Truncate(0); err != nil {
		return err
	}
	_, err = h.owner.WriteAt(text, 0)
	return err
}

// remove removes the directory in /run, which holds no sandbox's files any more.
func (h *home) remove() error {
	return errors.Join(os.Remove(filepath.Join(h.runDir(), ownerFile)), os.Remove(h.runDir()))
}

func (h *home) close() error {
	if h.owner != nil {
		h.owner.Close()
	}
	return h.dir.Close()
}

// foreign tells whether a record was made by another state directory and may lead
// to a sandbox of that one: the directory with the record is a copy of it, or a
// backup. A record of an earlier run of the host leads to nothing.
func (r *Runtime) foreign(rec record) bool {
	return rec.PID != 0 && rec.BootID == r.bootID && rec.Home != r.home.name
}

// disown forgets records of another state directory, and touches nothing else.
func (r *Runtime) disown(all []record) (own []record, foreign []string, err error) {
	for _, rec := range all {
		if !r.foreign(rec) {
			own = append(own, rec)
			continue
		}
		if err := r.records.remove(rec.ID); err != nil {
			return nil, nil, err
		}
		if !strings.HasPrefix(rec.ID, snapshotIDPrefix) {
			foreign = append(foreign, rec.ID)
		}
	}
	if len(foreign) > 0 {
		r.log.Warn("this data directory is a copy, a backup, or was moved from another file system: the sandboxes that its records speak of were made by another one, and are left alone",
			"sandboxes", len(foreign))
	}
	return own, foreign, nil
}
