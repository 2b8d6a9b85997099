package eventlog

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// Reader reads the events of a log from some number on: those that there are, and
// then those that come. It is not safe for concurrent use.
type Reader struct {
	cursor cursor
	after  uint64 // the number of the last event that was returned or skipped
	ended  bool
	closed bool
}

func newReader(c *content, after uint64) *Reader {
	return &Reader{cursor: newCursor(c, c.placeOf(after)), after: after}
}

// Next waits for the next event. After the one that is Ended it returns io.EOF. The
// data is valid until the next call. A log that is removed is ErrRemoved, one whose
// writer is gone before its end ErrLeft, and one that is not as it was written a
// DamageError.
func (r *Reader) Next(ctx context.Context) (Event, error) {
	if r.closed {
		return Event{}, errClosed
	}
	for !r.ended {
		f, err := r.cursor.next()
		if errors.Is(err, errNoMore) {
			if err := r.wait(ctx); err != nil {
				return Event{}, err
			}
			continue
		}
		if errors.Is(err, errTorn) {
			err = r.cursor.c.damage(r.cursor.pos, "its last frame is not whole")
		}
		if err != nil {
			return Event{}, err
		}
		r.ended = f.Kind == Ended
		if f.Kind == mark || f.Number <= r.after {
			continue
		}
		r.after = f.Number
		return f, nil
	}
	r.cursor.release()
	return Event{}, io.EOF
}

// wait waits until there is more. A log must not end without its last event.
func (r *Reader) wait(ctx context.Context) error {
	err := r.cursor.c.wait(ctx, r.cursor.pos, r.cursor.cuts)
	if err == io.EOF {
		return r.cursor.c.damage(r.cursor.pos, "it ends without its last event")
	}
	return err
}

var errClosed = errors.New("the reader of the event log is closed")

// Close gives back what the reader holds. It can be repeated.
func (r *Reader) Close() {
	if r.closed {
		return
	}
	r.closed = true
	r.cursor.release()
	r.cursor.c.dir.release(r.cursor.c)
}

// Output reads one output stream of a log. It is not safe for concurrent use.
type Output struct {
	cursor cursor
	stream Kind
	size   int64
	data   []byte // of the frame at hand
	at     int64  // where data begins in the stream
	want   int64  // where Seek has the next Read begin
	closed bool
}

func newOutput(c *content, stream Kind) *Output {
	o := &Output{cursor: newCursor(c, 0), stream: stream}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.stream(stream); s != nil {
		o.size = max(0, s.Kept)
	}
	return o
}

// Size is how many bytes there are to be read, in all.
func (o *Output) Size() int64 { return o.size }

// fill waits for nothing: what the size counts is there.
func (o *Output) fill() error {
	if o.closed {
		return errClosed
	}
	if o.want < o.at {
		o.cursor.release()
		o.cursor.pos, o.cursor.known = 0, false
		o.data, o.at = nil, 0
	}
	for {
		o.take(int(min(o.want-o.at, int64(len(o.data)))))
		switch {
		case len(o.data) > 0:
			return nil
		case o.want >= o.size || o.at == o.size:
			o.cursor.release()
			return io.EOF
		}
		f, err := o.cursor.next()
		switch {
		case errors.Is(err, errNoMore), errors.Is(err, errTorn):
			return o.cursor.c.damage(o.cursor.pos, "it ends, and %d bytes of output are missing", o.size-o.at)
		case err != nil:
			return err
		case f.Kind == o.stream:
			o.data = f.Data[:min(int64(len(f.Data)), o.size-o.at)]
		}
	}
}

// take goes on behind n bytes of the data at hand.
func (o *Output) take(n int) {
	o.data = o.data[n:]
	o.at += int64(n)
	o.want = max(o.want, o.at)
}

// Read implements io.Reader.
func (o *Output) Read(b []byte) (int, error) {
	if err := o.fill(); err != nil {
		return 0, err
	}
	n := copy(b, o.data)
	o.take(n)
	return n, nil
}

// Seek implements io.Seeker. The next Read reads the log up to there: from its start,
// where that is before the place of the last one.
func (o *Output) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += o.want
	case io.SeekEnd:
		offset += o.size
	}
	if offset < 0 {
		return 0, errors.New("output: a place before the beginning")
	}
	o.want = offset
	return offset, nil
}

// WriteTo implements io.WriterTo. Each event is one write.
func (o *Output) WriteTo(w io.Writer) (total int64, err error) {
	for {
		if err := o.fill(); err != nil {
			if err == io.EOF {
				return total, nil
			}
			return total, err
		}
		n, err := w.Write(o.data)
		o.take(n)
		total += int64(n)
		if err != nil {
			return total, fmt.Errorf("output: %w", err)
		}
	}
}

// Close gives back what the Output holds. It can be repeated.
func (o *Output) Close() error {
	if !o.closed {
		o.closed = true
		o.cursor.release()
		o.cursor.c.dir.release(o.cursor.c)
	}
	return nil
}
