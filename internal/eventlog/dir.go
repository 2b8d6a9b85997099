package eventlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"sync/atomic"
)

// Options of a Dir.
type Options struct {
	// UnwrittenBytes is how much output all logs together keep in memory that cannot
	// be written; 0: none.
	UnwrittenBytes int64
	// OpenFile opens files; nil: as os.OpenFile does. Tests put a disk that fails here.
	OpenFile func(path string, flag int) (Disk, error)
}

// Disk is the file of a log.
type Disk interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Truncate(size int64) error
	Sync() error
	Stat() (fs.FileInfo, error)
}

func openFile(path string, flag int) (Disk, error) { return os.OpenFile(path, flag, 0o600) }

// Dir keeps logs in one directory. It is safe for concurrent use.
type Dir struct {
	path     string
	openFile func(path string, flag int) (Disk, error)

	mostUnwritten int64
	unwritten     atomic.Int64

	mu sync.Mutex
	// open has what is written or read at the moment, inline logs aside.
	open map[string]*content
}

// Open makes the directory if it is missing. One process at a time may use it.
func Open(path string, o Options) (*Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("event logs: %w", err)
	}
	if o.OpenFile == nil {
		o.OpenFile = openFile
	}
	return &Dir{path: path, openFile: o.OpenFile, mostUnwritten: o.UnwrittenBytes, open: map[string]*content{}}, nil
}

var idPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,127}$`)

// enlist makes a content for an id that is not open.
func (d *Dir) enlist(id string) (*content, error) {
	if !idPattern.MatchString(id) {
		return nil, fmt.Errorf("event log: %q cannot be the id of an execution", id)
	}
	c := &content{dir: d, id: id, name: filepath.Join(d.path, id), users: 1}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open[id] != nil {
		return nil, fmt.Errorf("event log of %s is open already", id)
	}
	d.open[id] = c
	return c, nil
}

// Create begins a log. It makes no file, so that one that is there already is an
// error of the first Commit only. limit bounds the bytes that are kept of each
// output stream; 0: all of them.
func (d *Dir) Create(id string, limit int64) (*Log, error) {
	c, err := d.enlist(id)
	if err != nil {
		return nil, err
	}
	return newLog(c, limit), nil
}

// Resume goes on with the log of a run that an earlier process followed, from its
// last Commit: Log.Progress says where in the sandbox's log that is. A log that was
// never committed is empty.
//
// Of a damaged log, what was committed before the damage is returned beside the
// DamageError, and the rest is cut off.
func (d *Dir) Resume(id string, limit int64) (*Log, error) {
	c, err := d.enlist(id)
	if err != nil {
		return nil, err
	}
	l := newLog(c, limit)
	err = l.resume()
	var damage *DamageError
	if err != nil && !errors.As(err, &damage) {
		l.Close()
		return nil, err
	}
	return l, err
}

// Events reads the events after a number: those of a log under way, and sealed of one
// that has ended, whose last events are there then, published or not. A log that is not
// there is fs.ErrNotExist: if that is what a row said that had not ended, it has ended
// since, and the caller reads it again. The caller closes the Reader.
func (d *Dir) Events(id string, sealed Sealed, after uint64) (*Reader, error) {
	c, err := d.use(id, sealed)
	if err != nil {
		return nil, err
	}
	return newReader(c, after), nil
}

// Output reads one output stream, as Events does: what there is now of a log under
// way, and all of one that has ended. The caller closes the Output.
func (d *Dir) Output(id string, sealed Sealed, stream Kind) (*Output, error) {
	c, err := d.use(id, sealed)
	if err != nil {
		return nil, err
	}
	return newOutput(c, stream), nil
}

// use returns the content of a log, with a use that is to be given back.
func (d *Dir) use(id string, sealed Sealed) (*content, error) {
	if !idPattern.MatchString(id) {
		return nil, fmt.Errorf("event log: %q cannot be the id of an execution", id)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	known := d.open[id]
	if known != nil && (sealed.Size == 0 || known.hasEnded()) {
		known.users++
		return known, nil
	}
	c := &content{dir: d, id: id, name: filepath.Join(d.path, id), users: 1, visible: sealed.Size, ended: true}
	c.streams[0].Kept, c.streams[1].Kept = sealed.Stdout, sealed.Stderr
	switch {
	case sealed.Inline != nil:
		c.name, c.tail = "in the row of "+id, sealed.Inline
		return c, c.wantSize(int64(len(sealed.Inline)))
	case sealed.Size == 0:
		return nil, fmt.Errorf("event log of %s: %w", id, fs.ErrNotExist)
	}
	f, err := d.openFile(c.name, os.O_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("event log: %w", err)
	}
	info, err := f.Stat()
	if err == nil {
		err = c.wantSize(info.Size())
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	c.file, c.written = f, sealed.Size
	if known == nil {
		d.open[id] = c
	}
	return c, nil
}

// retain takes one more use of a content that is in use.
func (d *Dir) retain(c *content) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c.users++
}

// forget has nobody find a content any more.
func (d *Dir) forget(c *content) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open[c.id] == c {
		delete(d.open, c.id)
	}
}

// release gives back a use of a content.
func (d *Dir) release(c *content) {
	d.mu.Lock()
	c.users--
	last := c.users == 0
	if last && d.open[c.id] == c {
		delete(d.open, c.id)
	}
	d.mu.Unlock()
	if last && c.file != nil {
		c.file.Close() // what it has is written, and synced where that matters
	}
}

// Remove removes a log, also under its writer and its readers, which are told. It
// can be repeated.
func (d *Dir) Remove(id string) error {
	if !idPattern.MatchString(id) {
		return fmt.Errorf("event log: %q cannot be the id of an execution", id)
	}
	d.mu.Lock()
	c := d.open[id]
	delete(d.open, id)
	d.mu.Unlock()
	if c != nil {
		c.stop(ErrRemoved)
	}
	return d.unlink(id)
}

func (d *Dir) unlink(id string) error {
	if err := os.Remove(filepath.Join(d.path, id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("event log: %w", err)
	}
	return nil
}

// sweepPage is how many names of the directory are held in memory at a time.
const sweepPage = 512

// Sweep removes the files for which keep says false, those of open logs aside, and
// returns how many it removed, also with an error.
func (d *Dir) Sweep(ctx context.Context, keep func(id string) (bool, error)) (removed int, err error) {
	dir, err := os.Open(d.path)
	if err != nil {
		return 0, fmt.Errorf("event logs: %w", err)
	}
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(sweepPage)
		if errors.Is(err, io.EOF) {
			return removed, nil
		}
		if err != nil {
			return removed, fmt.Errorf("event logs: %w", err)
		}
		for _, name := range names {
			if ctx.Err() != nil {
				return removed, context.Cause(ctx)
			}
			gone, err := d.sweepOne(name, keep)
			if err != nil {
				return removed, fmt.Errorf("event logs: sweep: %w", err)
			}
			if gone {
				removed++
			}
		}
	}
}

func (d *Dir) sweepOne(name string, keep func(id string) (bool, error)) (bool, error) {
	kept, err := keep(name)
	if kept || err != nil {
		return false, err
	}
	d.mu.Lock()
	defer d.mu.Unlock() // nobody opens it meanwhile
	if d.open[name] != nil {
		return false, nil
	}
	return true, d.unlink(name)
}
