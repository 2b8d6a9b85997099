package gvisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// record is what a later daemon needs to know of a sandbox to destroy it, or to
// know that it is gone. It is written before anything of the sandbox exists, and
// removed when nothing of it is left. The sandbox's control group, and gVisor's
// files, bear the sandbox's id.
type record struct {
	ID string `json:"id"`
	// Snapshot is what the sandbox started from. Records of earlier versions have
	// the template in its place.
	Snapshot  string    `json:"snapshot"`
	CreatedAt time.Time `json:"created_at"`

	// Of the sandbox's process, once there is one. A process is the sandbox's
	// only if all three are the same.
	PID        int    `json:"pid,omitempty"`
	StartTicks uint64 `json:"start_ticks,omitempty"`
	BootID     string `json:"boot_id,omitempty"`
	// Home is the name of the state directory that made the sandbox.
	Home string `json:"home"`

	// Limits are those that were set last.
	Limits runtime.Limits `json:"limits"`
	// Link is the inode of the daemon's end of the sandbox's network, of which
	// the sandbox's process keeps a duplicate; 0 without a network.
	Link uint64 `json:"link,omitempty"`
}

const recordSuffix = ".json"

// records keeps records in a directory, one file each, named after the sandbox.
type records struct{ dir string }

func (r records) path(id string) string { return filepath.Join(r.dir, id+recordSuffix) }

// create writes the first record of a sandbox. An id that has one already is an
// error. What an interruption leaves is read as a record without a process.
func (r records) create(rec record) error {
	b, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("record of sandbox %s: %w", rec.ID, err)
	}
	f, err := os.OpenFile(r.path(rec.ID), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("sandbox %s exists already: ids must be unique for ever", rec.ID)
	}
	if err != nil {
		return fmt.Errorf("record of sandbox %s: %w", rec.ID, err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(fmt.Errorf("record of sandbox %s: %w", rec.ID, err), r.remove(rec.ID))
	}
	return nil
}

// write replaces a record, under a temporary name that it renames. A record must
// survive the daemon, not the host: a host that stops takes its sandboxes with
// it, so nothing is synced.
func (r records) write(rec record) error {
	b, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("record of sandbox %s: %w", rec.ID, err)
	}
	tmp := filepath.Join(r.dir, "."+rec.ID)
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return errors.Join(fmt.Errorf("record of sandbox %s: %w", rec.ID, err), os.RemoveAll(tmp))
	}
	if err := os.Rename(tmp, r.path(rec.ID)); err != nil {
		return errors.Join(fmt.Errorf("record of sandbox %s: %w", rec.ID, err), os.RemoveAll(tmp))
	}
	return nil
}

// remove can be repeated.
func (r records) remove(id string) error {
	if err := os.Remove(r.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("record of sandbox %s: %w", id, err)
	}
	return nil
}

// list returns every record, and removes what an interrupted write left. A
// record that cannot be read still says, by its name, which sandbox there was.
func (r records) list() ([]record, error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, fmt.Errorf("records of sandboxes: %w", err)
	}
	var all []record
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, ".") {
			if err := os.Remove(filepath.Join(r.dir, name)); err != nil {
				return nil, fmt.Errorf("records of sandboxes: %w", err)
			}
			continue
		}
		id, ok := strings.CutSuffix(name, recordSuffix)
		if !ok || !validID(id) {
			continue
		}
		rec := record{ID: id}
		b, err := os.ReadFile(r.path(id))
		if err != nil {
			return nil, fmt.Errorf("records of sandboxes: %w", err)
		}
		var read record
		if json.Unmarshal(b, &read) == nil && read.ID == id {
			rec = read
		}
		all = append(all, rec)
	}
	return all, nil
}

// maxIDLength keeps the path of a sandbox's control socket within what a Unix
// socket address holds.
const maxIDLength = 48

// validID tells whether an id can name files, groups and gVisor's containers.
func validID(id string) bool {
	if id == "" || len(id) > maxIDLength {
		return false
	}
	for _, c := range []byte(id) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && c != '_' && c != '-' {
			return false
		}
	}
	return true
}
