package eventlog

import (
	"errors"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// scanned is what stands in a log whose writer is gone, or whose file was changed.
type scanned struct {
	// end is behind the last whole frame, committed behind the last mark.
	end, committed point
	places         []place
	// damage is what comes after the end, if that is not a torn frame; nil: nothing.
	damage error
}

// point is a place in a log, and what stands before it.
type point struct {
	offset   int64
	number   uint64
	streams  [2]Total // without Written
	progress runtime.Progress
}

// scanFile scans the file of a log, without what the log has in memory.
func scanFile(c *content, f Disk) (scanned, error) {
	info, err := f.Stat()
	if err != nil {
		return scanned{}, err
	}
	return scan(&content{dir: c.dir, id: c.id, name: c.name, file: f, written: info.Size(), visible: info.Size()})
}

// scan reads all frames. It fails with what the disk says.
func scan(c *content) (s scanned, err error) {
	cursor := newCursor(c, 0)
	defer cursor.release()
	for {
		offset := cursor.pos
		f, err := cursor.next()
		var damage *DamageError
		switch {
		case errors.Is(err, errNoMore), errors.Is(err, errTorn):
			return s, nil
		case errors.As(err, &damage):
			s.damage = err
			return s, nil
		case err != nil:
			return s, err
		}
		if err := s.end.add(f); err != nil {
			s.damage = c.damage(offset, "a mark cannot be read: %v", err)
			return s, nil
		}
		s.end.offset = cursor.pos
		if f.Kind == mark {
			s.committed = s.end
			s.places = append(s.places, place{s.end.number, s.end.offset})
		}
	}
}

// add goes on from p behind a frame.
func (p *point) add(f frame) error {
	p.number = f.Number
	switch {
	case f.Kind == mark:
		return addMark(&p.progress, f.Data)
	case (f.Kind == Stdout || f.Kind == Stderr) && len(f.Data) > 0:
		s := &p.streams[f.Kind-Stdout]
		s.Kept += int64(len(f.Data))
		s.Last = f.Data[len(f.Data)-1]
	}
	return nil
}
