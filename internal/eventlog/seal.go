package eventlog

import (
	"encoding/json"
	"fmt"
	"os"
)

// seal are the last events of a log, from Seal to Publish.
type seal struct {
	frames []byte
	Sealed
	// inFile says that the file has them, behind what readers see.
	inFile bool
}

// Finish says that the run is over and takes no more events but the last, and how
// much the code wrote to each stream, if that is known to be more than Append was
// given. A log whose file is not as it was written ends where that begins, which is
// a DamageError: the log can be sealed all the same. Totals is final then.
func (l *Log) Finish(stdout, stderr int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.finished {
		return fmt.Errorf("event log of %s: %w", l.c.id, ErrSealed)
	}
	l.finished = true
	c := l.c
	c.mu.Lock()
	c.streams[0].Written = max(c.streams[0].Written, stdout)
	c.streams[1].Written = max(c.streams[1].Written, stderr)
	c.mu.Unlock()
	if c.file == nil {
		return nil
	}
	info, err := c.file.Stat()
	switch {
	case err != nil:
		return fmt.Errorf("event log: %w", err)
	case info.Size() < c.written:
		return l.shorten()
	}
	return nil
}

// shorten has a log end where its file does, which was cut by somebody else.
func (l *Log) shorten() error {
	c := l.c
	there, err := scanFile(c, c.file)
	if err == nil {
		err = c.file.Truncate(there.end.offset)
	}
	if err != nil {
		return fmt.Errorf("event log: %w", err)
	}
	if there.damage == nil {
		there.damage = c.damage(there.end.offset, "the file ends, and %d bytes were written", c.written)
	}
	l.lost = true
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cutTo(there.end.offset, there.places)
	for i, s := range there.end.streams {
		c.streams[i].Kept, c.streams[i].Last = s.Kept, s.Last
	}
	return there.damage
}

// Seal ends a log that is finished with the last events, of which the very last is
// Ended; their numbers follow by themselves. A Gap comes before them if output is
// missing. Stderr among them is added to the output without limit. What Seal returns
// is for the row.
//
// The events are readable after Publish. Until then Seal can be called again, with
// other events, and after an error it has to be if the row is to have a log; Publish
// shows the events of the last call in any case.
func (l *Log) Seal(last ...Event) (Sealed, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.c
	switch {
	case !l.finished || l.published || l.closed:
		return Sealed{}, fmt.Errorf("event log of %s: only one that is finished can be sealed, until it is published", c.id)
	case len(last) == 0 || last[len(last)-1].Kind != Ended:
		return Sealed{}, fmt.Errorf("event log of %s: the last event is not that it has ended", c.id)
	}
	s := &seal{Sealed: Sealed{Stdout: c.streams[0].Kept, Stderr: c.streams[1].Kept}}
	if err := l.encodeLast(s, last); err != nil {
		return Sealed{}, err
	}
	l.seal = s
	s.Size = c.visible + int64(len(s.frames))
	var err error
	if s.Size <= InlineBytes {
		err = l.sealInline(s)
	} else {
		err = l.sealFile(s)
	}
	if err != nil {
		return Sealed{}, err
	}
	return s.Sealed, nil
}

// Sync writes what there is of a log that is finished, if that is too much for a row, and
// has it on the disk. Seal has less to wait for then.
func (l *Log) Sync() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.c
	if !l.finished || l.published || l.closed || c.visible <= InlineBytes {
		return nil
	}
	if len(c.tail) > 0 {
		if err := l.write(); err != nil {
			return err
		}
	}
	if err := c.file.Sync(); err != nil {
		return fmt.Errorf("event log: %w", err)
	}
	return c.dir.sync()
}

// encodeLast numbers the last events, and the Gap before them.
func (l *Log) encodeLast(s *seal, last []Event) error {
	c := l.c
	number := l.last
	stdout, stderr := c.streams[0], c.streams[1]
	missing := Missing{Stdout: stdout.Written - stdout.Kept, Stderr: stderr.Written - stderr.Kept}
	if l.lost || missing != (Missing{}) {
		data, err := json.Marshal(missing)
		if err != nil {
			return fmt.Errorf("event log of %s: %w", c.id, err)
		}
		number++
		s.frames = appendFrame(s.frames, frame{Number: number, Kind: Gap, Data: data})
	}
	for i, e := range last {
		early := e.Kind == Ended && i < len(last)-1
		if early || e.Kind == 0 || e.Kind == Gap || e.Kind == mark || len(e.Data) > MaxData {
			return fmt.Errorf("event log of %s: an event of kind %d and %d bytes cannot be among the last", c.id, e.Kind, len(e.Data))
		}
		number++
		s.frames = appendFrame(s.frames, frame{Number: number, Kind: e.Kind, Data: e.Data})
		switch e.Kind {
		case Stdout:
			s.Stdout += int64(len(e.Data))
		case Stderr:
			s.Stderr += int64(len(e.Data))
		}
	}
	return nil
}

// sealInline makes all of the log one slice.
func (l *Log) sealInline(s *seal) error {
	c := l.c
	inline := make([]byte, c.written, s.Size)
	if c.written > 0 {
		if _, err := c.file.ReadAt(inline, 0); err != nil {
			return fmt.Errorf("event log: %w", err)
		}
	}
	s.Inline = append(append(inline, c.tail...), s.frames...)
	return nil
}

// sealFile writes all of the log to the disk.
func (l *Log) sealFile(s *seal) error {
	c := l.c
	if len(c.tail) > 0 {
		if err := l.write(); err != nil {
			return err
		}
	}
	if err := c.file.Truncate(c.written); err != nil { // the events of an earlier Seal
		return fmt.Errorf("event log: %w", err)
	}
	if err := l.writeAt(s.frames); err != nil {
		return fmt.Errorf("event log: %w", err)
	}
	s.inFile = true
	if err := c.file.Sync(); err != nil {
		return fmt.Errorf("event log: %w", err)
	}
	return c.dir.sync()
}

// sync has the names of the files on the disk.
func (d *Dir) sync() error {
	dir, err := os.Open(d.path)
	if err != nil {
		return fmt.Errorf("event logs: %w", err)
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("event logs: %w", err)
	}
	return nil
}

// Publish shows the last events to readers, and removes the file of a log that the
// row has. It comes when the row is written, or cannot be: then readers see the end
// all the same, from memory if need be, and the caller removes the log.
func (l *Log) Publish() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seal == nil || l.published {
		return nil
	}
	l.published = true
	c, s := l.c, l.seal
	l.seal = nil
	c.mu.Lock()
	switch {
	case s.Inline != nil:
		c.tail, c.written, c.places = s.Inline, 0, nil
	case s.inFile:
		c.written += int64(len(s.frames))
	default:
		c.tail = append(c.tail, s.frames...)
	}
	c.visible += int64(len(s.frames))
	c.streams[0].Kept, c.streams[1].Kept = s.Stdout, s.Stderr
	c.ended = true
	c.announce()
	c.mu.Unlock()
	if s.Inline != nil && c.file != nil {
		return c.dir.unlink(c.id)
	}
	return nil
}
