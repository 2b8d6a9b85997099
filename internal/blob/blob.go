// Package blob keeps the contents of files on disk, by file id.
//
// It owns one directory, in which nothing but this package writes: below
// contents/ one file for each id, spread over 1024 directories, and below temp/
// what is being written. It knows nothing of tenants, names or the store, which
// says what exists: contents that no row names are removed by Sweep. It is never
// given a path, only ids, whose form it checks before it touches the disk.
//
// # What is safe when
//
// Contents appear under their id whole or not at all: they are written under a
// temporary name and renamed at the end. Once Put has returned they outlive the
// death of the process, by SIGKILL too. Their way to the disk is begun at once
// but not waited for, which would cost every run that makes a file several
// milliseconds: a power failure or a crash of the kernel can take, or cut short,
// the contents of the last seconds, as it can the rows of the store. So Open
// compares size and SHA-256 with those that Put returned, once in the life of the
// process as long as nobody touches the file.
//
// Contents are never written again: a second Put under an id fails.
//
// # How it fails
//
// Put refuses with *agentsandbox.Error values, of code too_large and
// storage_full, and passes on what reading the body returned; Open says
// fs.ErrNotExist or ErrDamaged. Anything else is an internal error. Opening and removing work
// on a full disk.
package blob

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox"
)

const (
	contentsName = "contents"
	tempName     = "temp"

	// bufferBytes is how much is read, hashed and written at a time.
	bufferBytes = 256 << 10

	// writebackBytes is after how much the kernel is told to begin writing.
	writebackBytes = 8 << 20
)

// Info says what was stored: the size, and the SHA-256 in hex. It has no name of
// its own, so that consumers can ask for it in an interface without importing
// this package.
type Info = struct {
	SizeBytes int64
	SHA256    string
}

// Dir keeps contents below one directory. It is safe for concurrent use.
type Dir struct {
	contents, temp string
	log            *slog.Logger
	// run marks the temporary names of this process.
	run string
	// opened is when this process began, by the clock of the file system.
	opened  time.Time
	buffers sync.Pool
	// verified has the contents that need not be read to be trusted.
	verified verified
}

// Open makes the directory if it is missing. One process at a time may use it:
// the caller sees to that. log receives what an operator should know; nil:
// nothing is logged.
func Open(path string, log *slog.Logger) (*Dir, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("blob: %w", err)
	}
	d := &Dir{
		contents: filepath.Join(path, contentsName), temp: filepath.Join(path, tempName),
		log: log, run: rand.Text(),
		buffers: sync.Pool{New: func() any { return new([bufferBytes]byte) }},
	}
	for _, dir := range []string{d.contents, d.temp} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("blob: %w", full(err))
		}
	}
	if d.opened, err = now(d.temp); err != nil {
		return nil, fmt.Errorf("blob: %w", full(err))
	}
	return d, nil
}

// now is the time that a file would get that is written in a directory now.
func now(dir string) (time.Time, error) {
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, dir, nil, 0); err != nil {
		return time.Time{}, err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

// place is where the contents of an id are. Two characters of the random part
// choose the directories: 1024 of them, which exist soon, so that a Put seldom
// has to make one, and which are still small with ten million files.
func (d *Dir) place(id string) (string, error) {
	if !agentsandbox.ValidID(agentsandbox.FilePrefix, id) {
		return "", fmt.Errorf("blob: %.80q is not a file id: %w", id, fs.ErrNotExist)
	}
	random := id[len(agentsandbox.FilePrefix):]
	return filepath.Join(d.contents, random[:1], random[1:2], id), nil
}

// Put stores body under an id, which has no contents yet, and says what was
// stored. limit bounds the size in bytes; 0: none. Past it the error has code
// too_large, on a full disk storage_full. After an error nothing is left.
//
// ctx is looked at between reads; it does not interrupt a read of body.
func (d *Dir) Put(ctx context.Context, id string, body io.Reader, limit int64) (_ Info, err error) {
	path, err := d.place(id)
	if err != nil {
		return Info{}, err
	}
	if limit < 0 {
		return Info{}, fmt.Errorf("blob: put %s: a limit of %d bytes makes no sense; 0 is none", id, limit)
	}
	temp := filepath.Join(d.temp, d.run+"-"+rand.Text())
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return Info{}, fmt.Errorf("blob: put %s: %w", id, full(err))
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("blob: put %s: %w", id, full(err))
			if removal := os.Remove(temp); removal != nil && !errors.Is(removal, fs.ErrNotExist) {
				err = errors.Join(err, removal)
			}
		}
	}()
	info, err := d.write(ctx, f, body, limit)
	if err = errors.Join(err, f.Close()); err != nil {
		return Info{}, err
	}
	if err := name(temp, path); err != nil {
		return Info{}, err
	}
	if written, err := os.Lstat(path); err == nil && written.Size() == info.SizeBytes {
		if s, ok := stampOf(written); ok {
			d.verified.add(id, s)
		}
	}
	return info, nil
}

// fill reads until p is full or body says why there is no more: bodies come in
// pieces that are too small to write one by one. Unlike io.ReadFull it never turns
// one error into another, because an end too soon is not the end.
func fill(ctx context.Context, body io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		if err = ctx.Err(); err != nil {
			break
		}
		var got int
		got, err = body.Read(p[n:])
		n += got
	}
	return n, err
}

// write copies body to f, and hashes it on the way.
func (d *Dir) write(ctx context.Context, f *os.File, body io.Reader, limit int64) (Info, error) {
	buffer := d.buffers.Get().(*[bufferBytes]byte)
	defer d.buffers.Put(buffer)
	hash := sha256.New()
	var size, begun int64 // of begun bytes, the way to the disk has begun
	for {
		room := int64(bufferBytes)
		if limit > 0 {
			room = min(room, limit-size+1) // one byte more shows that there is more
		}
		n, readErr := fill(ctx, body, buffer[:room])
		size += int64(n)
		if limit > 0 && size > limit {
			return Info{}, tooLarge(limit)
		}
		if _, err := f.Write(buffer[:n]); err != nil {
			return Info{}, err
		}
		hash.Write(buffer[:n]) // never fails
		ended := errors.Is(readErr, io.EOF)
		if ended || size-begun >= writebackBytes {
			if err := beginWriteback(f, begun, size-begun); err != nil {
				return Info{}, err
			}
			begun = size
		}
		switch {
		case ended:
			return Info{SizeBytes: size, SHA256: hex.EncodeToString(hash.Sum(nil))}, nil
		case readErr != nil:
			return Info{}, fmt.Errorf("read the body: %w", readErr)
		}
	}
}

// beginWriteback has the kernel write a part of a file to the disk, and does not
// wait. A large file then does not pile up in memory, where the next fsync of
// the database might have to wait for it.
func beginWriteback(f *os.File, offset, bytes int64) error {
	if bytes == 0 { // which would mean: to the end
		return nil
	}
	err := unix.SyncFileRange(int(f.Fd()), offset, bytes, unix.SYNC_FILE_RANGE_WRITE)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ESPIPE) {
		return nil // this file system has no such hint
	}
	return err
}

// name gives a file its name for good, unless that is taken.
func name(temp, path string) error {
	err := rename(temp, path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		err = rename(temp, path)
	}
	return err
}

func rename(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	// The file system cannot rename without replacing: a second name, which it
	// refuses if it is taken, and then the first one goes.
	if err := os.Link(from, to); err != nil {
		return err
	}
	return os.Remove(from)
}

// Open opens contents for reading; the result is an *os.File. want is what Put said
// of them: contents that are anything else are ErrDamaged. What is not there, or
// has no form of an id, is fs.ErrNotExist.
func (d *Dir) Open(id string, want Info) (io.ReadSeekCloser, error) {
	path, err := d.place(id)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("blob: open %s: %w", id, err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%w: it is no regular file, but %v", ErrDamaged, info.Mode())
	}
	if err == nil {
		err = d.verify(id, f, info, want)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("blob: open %s: %w", id, err), f.Close())
	}
	return f, nil
}

// Remove removes contents. It can be repeated: what is not there is removed.
func (d *Dir) Remove(id string) error {
	path, err := d.place(id)
	if err != nil {
		return nil //nolint:nilerr // what cannot be an id has no contents
	}
	d.verified.drop(id)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("blob: remove %s: %w", id, err)
	}
	return nil
}

func tooLarge(limit int64) error {
	return agentsandbox.Errorf(agentsandbox.CodeTooLarge, "The file is larger than %d bytes, the limit: send less, or in parts.", limit)
}

// full turns a full disk, or a quota, into a refusal.
func full(err error) error {
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	return &agentsandbox.Error{
		Code:    agentsandbox.CodeStorageFull,
		Message: "The server's data directory is full: delete files that are not needed, or have the operator make room.",
		Err:     err,
	}
}
