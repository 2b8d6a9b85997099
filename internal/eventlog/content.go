package eventlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sort"
	"sync"
)

// content is a log as its writer and its readers share it: the file up to written,
// and the tail in memory from there on. Only whole frames are in either.
type content struct {
	dir  *Dir
	id   string
	name string // of the file, and for messages

	users int // guarded by dir.mu

	mu      sync.Mutex
	file    Disk
	written int64
	// tail is only ever appended to, or replaced by another slice: readers read what
	// they have seen of it without the lock.
	tail []byte
	// visible is where the frames end that readers may see: after the tail, or before
	// the last events in the file, until these are published.
	visible int64
	// places to begin at: one for each write to the file, or for each mark.
	places []place
	// streams are Stdout and Stderr.
	streams [2]Total

	// ended says that nothing follows. stopped is why nothing more can be read:
	// ErrRemoved, or ErrLeft at the end of what there is.
	ended   bool
	stopped error
	// cuts counts how often the log was cut, and cutAt is where the last time.
	cuts  int
	cutAt int64
	// changed is closed when there is more to see; nil while nobody waits.
	changed chan struct{}
}

// place says that the events up to a number stand before an offset.
type place struct {
	number uint64
	offset int64
}

// stream is that of a kind; nil: the kind is not output.
func (c *content) stream(k Kind) *Total {
	switch k {
	case Stdout:
		return &c.streams[0]
	case Stderr:
		return &c.streams[1]
	}
	return nil
}

func (c *content) damage(offset int64, format string, args ...any) error {
	return &DamageError{File: c.name, Offset: offset, Reason: fmt.Sprintf(format, args...)}
}

func (c *content) wantSize(size int64) error {
	if size == c.visible {
		return nil
	}
	return c.damage(min(size, c.visible), "it has %d bytes, and not %d", size, c.visible)
}

// announce wakes the readers that wait. The caller holds mu.
func (c *content) announce() {
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
}

func (c *content) hasEnded() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

// stop has readers told why nothing more comes.
func (c *content) stop(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped == nil {
		c.stopped = why
	}
	c.announce()
}

// cutTo leaves of a log what stands in the file before an offset. The caller holds mu.
func (c *content) cutTo(offset int64, places []place) {
	c.tail, c.written, c.visible = nil, offset, offset
	if offset == 0 {
		c.tail, c.visible = []byte(magic), int64(len(magic))
	}
	c.places = places
	c.cuts++
	c.cutAt = offset
	c.announce()
}

// wait waits until there is something to see after an offset. The end of the log
// is io.EOF.
func (c *content) wait(ctx context.Context, offset int64, cuts int) error {
	for {
		c.mu.Lock()
		switch {
		case c.visible > offset || c.cuts != cuts:
			c.mu.Unlock()
			return nil
		case c.stopped != nil:
			defer c.mu.Unlock()
			return fmt.Errorf("event log of %s: %w", c.id, c.stopped)
		case c.ended:
			c.mu.Unlock()
			return io.EOF
		}
		if c.changed == nil {
			c.changed = make(chan struct{})
		}
		changed := c.changed
		c.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// placeOf returns an offset before which no event after a number stands.
func (c *content) placeOf(after uint64) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := sort.Search(len(c.places), func(i int) bool { return c.places[i].number > after })
	if i == 0 {
		return 0
	}
	return c.places[i-1].offset
}

var (
	// errNoMore says that there is no whole frame yet, and nothing else either.
	errNoMore = errors.New("no more frames")
	// errTorn says that there is the beginning of a frame.
	errTorn = errors.New("a frame is not whole")
)

const (
	// chunkBytes is how much a reader reads of a file at a time.
	chunkBytes = 64 << 10
	// keptChunkBytes bounds the buffers that are kept for other readers.
	keptChunkBytes = 1 << 20
)

var chunks = sync.Pool{New: func() any {
	b := make([]byte, chunkBytes)
	return &b
}}

// cursor reads the frames of a content in order. Between two frames at the end of
// what there is, it holds no memory.
type cursor struct {
	c    *content
	pos  int64  // of the next frame
	buf  []byte // what is read from there on
	own  *[]byte
	cuts int
	// number is that of the frame before, if it is known.
	number uint64
	known  bool
	// ofWriter says that the writer reads, who has the log until its Close.
	ofWriter bool
}

func newCursor(c *content, pos int64) cursor {
	c.mu.Lock()
	defer c.mu.Unlock()
	return cursor{c: c, pos: pos, cuts: c.cuts}
}

// next returns the next frame, whose data is valid until the next call; errNoMore
// or errTorn at the end of what can be seen.
func (r *cursor) next() (frame, error) {
	for {
		if r.pos == 0 {
			if err := r.skipMagic(); err != nil {
				return frame{}, err
			}
		}
		f, size, short, reason := parse(r.buf)
		switch {
		case reason != "":
			return f, r.c.damage(r.pos, "%s", reason)
		case short:
			if err := r.fill(size); err != nil {
				return f, err
			}
			continue
		case !r.follows(f):
			return f, r.c.damage(r.pos, "event %d comes after event %d", f.Number, r.number)
		}
		r.buf = r.buf[size:]
		r.pos += int64(size)
		r.number, r.known = f.Number, true
		return f, nil
	}
}

// follows tells whether a frame has the number that it should.
func (r *cursor) follows(f frame) bool {
	switch {
	case !r.known:
		return true
	case f.Kind == mark:
		return f.Number == r.number
	case f.Kind == Gap:
		return f.Number > r.number
	}
	return f.Number == r.number+1
}

func (r *cursor) skipMagic() error {
	if err := r.fill(len(magic)); err != nil {
		return err
	}
	if string(r.buf[:len(magic)]) != magic {
		return r.c.damage(0, "it does not begin as an event log of this version")
	}
	r.buf = r.buf[len(magic):]
	r.pos = int64(len(magic))
	r.number, r.known = 0, true
	return nil
}

// fill has buf begin at pos and have size bytes at least.
func (r *cursor) fill(size int) error {
	r.release()
	c := r.c
	c.mu.Lock()
	if errors.Is(c.stopped, ErrRemoved) && !r.ofWriter { // one that was left can be read to its end
		defer c.mu.Unlock()
		return fmt.Errorf("event log of %s: %w", c.id, c.stopped)
	}
	if r.cuts != c.cuts {
		r.cuts, r.pos, r.known = c.cuts, min(r.pos, c.cutAt), false
		size = headSize // of another frame than before
	}
	there := c.visible - r.pos
	switch {
	case there <= 0:
		c.mu.Unlock()
		return errNoMore
	case there < int64(size):
		c.mu.Unlock()
		return errTorn
	case r.pos >= c.written:
		r.buf = c.tail[r.pos-c.written : c.visible-c.written]
		c.mu.Unlock()
		return nil
	}
	there = min(there, c.written-r.pos)
	file := c.file
	c.mu.Unlock()

	if there < int64(size) {
		return c.damage(r.pos, "a frame reaches beyond what was written")
	}
	r.own = chunks.Get().(*[]byte)
	if len(*r.own) < size {
		*r.own = make([]byte, size)
	}
	b := (*r.own)[:min(there, int64(len(*r.own)))]
	if n, err := file.ReadAt(b, r.pos); n < len(b) {
		r.release()
		if err == io.EOF {
			return c.damage(r.pos+int64(n), "the file ends, and should have %d bytes more at least", len(b)-n)
		}
		return fmt.Errorf("event log: %w", err)
	}
	r.buf = b
	return nil
}

// release gives back the memory of the cursor. What it returned is not valid then.
func (r *cursor) release() {
	r.buf = nil
	if r.own == nil {
		return
	}
	if len(*r.own) <= keptChunkBytes {
		chunks.Put(r.own)
	}
	r.own = nil
}
