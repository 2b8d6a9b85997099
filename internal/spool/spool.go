// Package spool keeps the output of runs that go on, in one file for each
// execution, so that it outlives the death of the server: what is here, the guest
// agent in the sandbox need not retain.
//
// It owns one directory, and knows nothing of sandboxes or the store. A file is a
// sequence of frames with checksums, appended in one write each; reading stops at
// the first frame that is not whole, which was never reported as appended.
// Nothing is synced: a host that stops takes the sandboxes with it, and then the
// rest of the output is gone too.
//
// It fails with what the disk says; an id that cannot be a file's name is an
// error.
package spool

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// Entry is output as it was taken, up to a point. It has no name of its own, so
// that consumers can ask for it without importing this package.
type Entry = struct {
	// Stdout and Stderr are bytes since the entry before.
	Stdout, Stderr []byte
	// Progress is where the run was; of it, Changed is since the entry before.
	Progress runtime.Progress
}

// Dir keeps spools in one directory. It is safe for concurrent use, as long as
// one caller at a time deals with one id.
type Dir struct{ path string }

// Open makes the directory if it is missing. One process at a time may use it.
func Open(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	return &Dir{path: path}, nil
}

var idPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,127}$`)

func (d *Dir) file(id string) (string, error) {
	if !idPattern.MatchString(id) {
		return "", fmt.Errorf("spool: %q cannot be the id of an execution", id)
	}
	return filepath.Join(d.path, id), nil
}

// A frame begins with the lengths of its three parts, 4 bytes each, and the
// CRC-32C of these lengths and the parts.
const headSize = 4 * 4

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Append adds an entry to the spool of an execution. After an error the spool is
// as it was.
func (d *Dir) Append(id string, e Entry) (err error) {
	path, err := d.file(id)
	if err != nil {
		return err
	}
	progress, err := json.Marshal(e.Progress)
	if err != nil {
		return fmt.Errorf("spool of %s: %w", id, err)
	}
	frame := make([]byte, headSize, headSize+len(progress)+len(e.Stdout)+len(e.Stderr))
	for i, part := range [][]byte{progress, e.Stdout, e.Stderr} {
		if uint64(len(part)) > 1<<31 {
			return fmt.Errorf("spool of %s: an entry of %d bytes is too large", id, len(part))
		}
		binary.BigEndian.PutUint32(frame[4*i:], uint32(len(part)))
		frame = append(frame, part...)
	}
	binary.BigEndian.PutUint32(frame[12:], checksum(frame))

	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	before, err := f.Stat()
	if err == nil {
		if _, err = f.Write(frame); err != nil {
			err = errors.Join(err, f.Truncate(before.Size()))
		}
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	return nil
}

// checksum is that of a frame, its own place left out.
func checksum(frame []byte) uint32 {
	sum := crc32.Update(0, castagnoli, frame[:12])
	return crc32.Update(sum, castagnoli, frame[headSize:])
}

// Read adds up what was appended to the spool of an execution. Nothing is an
// empty entry.
func (d *Dir) Read(id string) (Entry, error) {
	var all Entry
	path, err := d.file(id)
	if err != nil {
		return all, err
	}
	rest, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	if err != nil {
		return all, fmt.Errorf("spool: %w", err)
	}
	all.Stdout, all.Stderr = reserve(rest)
	for {
		e, after, ok := parse(rest)
		if !ok {
			return all, nil
		}
		rest = after
		all.Stdout = append(all.Stdout, e.Stdout...)
		all.Stderr = append(all.Stderr, e.Stderr...)
		changed := append(all.Progress.Changed, e.Progress.Changed...)
		all.Progress = e.Progress
		all.Progress.Changed = changed
	}
}

// reserve makes room for the output of all frames, and no more: it may be large.
func reserve(frames []byte) (stdout, stderr []byte) {
	var n, m int
	for {
		e, rest, ok := parse(frames)
		if !ok {
			break
		}
		n, m, frames = n+len(e.Stdout), m+len(e.Stderr), rest
	}
	if n > 0 {
		stdout = make([]byte, 0, n)
	}
	if m > 0 {
		stderr = make([]byte, 0, m)
	}
	return stdout, stderr
}

// parse takes a frame off the front of b, if there is a whole one.
func parse(b []byte) (e Entry, rest []byte, ok bool) {
	if len(b) < headSize {
		return e, nil, false
	}
	size := uint64(headSize)
	var lengths [3]uint64
	for i := range lengths {
		lengths[i] = uint64(binary.BigEndian.Uint32(b[4*i:]))
		size += lengths[i]
	}
	if uint64(len(b)) < size || checksum(b[:size]) != binary.BigEndian.Uint32(b[12:]) {
		return e, nil, false
	}
	out := headSize + lengths[0]
	if json.Unmarshal(b[headSize:out], &e.Progress) != nil {
		return e, nil, false
	}
	e.Stdout, e.Stderr = b[out:out+lengths[1]], b[out+lengths[1]:size]
	return e, b[size:], true
}

// Remove removes the spool of an execution. It can be repeated.
func (d *Dir) Remove(id string) error {
	path, err := d.file(id)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("spool: %w", err)
	}
	return nil
}

// Sweep removes the spools for which keep says false.
func (d *Dir) Sweep(keep func(id string) bool) error {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if !keep(e.Name()) {
			errs = append(errs, os.Remove(filepath.Join(d.path, e.Name())))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	return nil
}
