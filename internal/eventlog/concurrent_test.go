package eventlog_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	goruntime "runtime"
	"sync"
	"testing"

	"github.com/agentsandbox/agentsandbox/internal/eventlog"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// write has a run of so many messages, each committed in turn with some others.
func write(t testing.TB, l *eventlog.Log, from, to uint64) {
	t.Helper()
	var p runtime.Progress
	for n := from; n <= to; n++ {
		kind, data := message(n)
		must(t, l.Append(kind, data))
		p.Sequence = n
		if n%50 == 0 {
			must(t, l.Commit(p))
		}
	}
}

// verify reads the events of such a run after a number, to the end.
func verify(r *eventlog.Reader, after, to uint64) error {
	defer r.Close()
	for n := after; ; n++ {
		e, err := r.Next(context.Background())
		switch {
		case err != nil:
			return fmt.Errorf("after event %d: %w", n, err)
		case e.Number != n+1:
			return fmt.Errorf("event %d after event %d", e.Number, n)
		case e.Kind == eventlog.Ended:
			if n != to+1 {
				return fmt.Errorf("it ended after event %d", n)
			}
			if _, err := r.Next(context.Background()); err != io.EOF {
				return fmt.Errorf("after the end: %w", err)
			}
			return nil
		case e.Kind == eventlog.Started:
			continue
		}
		if kind, data := message(n); e.Kind != kind || !bytes.Equal(e.Data, data) {
			return fmt.Errorf("message %d is %s", n, text(e))
		}
	}
}

// Many readers, of which some come late, some go on from the middle and some read
// the output, while the log is written, sealed, published and let go of.
func TestReadersBesideTheWriter(t *testing.T) {
	for name, last := range map[string]uint64{"inline": 120, "file": 4000} {
		t.Run(name, func(t *testing.T) {
			d := open(t, t.TempDir())
			l := begin(t, d, 0)
			var readers sync.WaitGroup
			check := func(r *eventlog.Reader, after uint64) {
				readers.Go(func() {
					if err := verify(r, after, last); err != nil {
						t.Error(err)
					}
				})
			}
			for n := range uint64(8) {
				check(l.Events(n*3), n*3)
			}
			for n := uint64(1); n <= last; n += 20 {
				write(t, l, n, n+19)
				if n%200 == 1 {
					check(l.Events(n), n)
					o := l.Output(eventlog.Stderr)
					readers.Go(func() {
						defer o.Close()
						if got, err := io.Copy(io.Discard, o); err != nil || got != o.Size() {
							t.Errorf("%d of %d bytes, %v", got, o.Size(), err)
						}
					})
				}
			}
			sealed := end(t, l)
			late, err := d.Events(id, sealed, 5)
			must(t, err)
			check(late, 5)
			l.Close()
			ended, err := d.Events(id, sealed, 0)
			must(t, err)
			check(ended, 0)
			readers.Wait()
			if inline := sealed.Inline != nil; inline != (name == "inline") {
				t.Errorf("%d bytes", sealed.Size)
			}
		})
	}
}

func TestManyLogsAtOnce(t *testing.T) {
	d := open(t, t.TempDir())
	var runs sync.WaitGroup
	for n := range 50 {
		runs.Go(func() {
			name := fmt.Sprintf("exe_%d", n)
			l, err := d.Create(name, 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer l.Close()
			must(t, l.Append(eventlog.Started, nil))
			r := l.Events(0)
			done := make(chan error, 1)
			go func() { done <- verify(r, 0, 150) }()
			write(t, l, 1, 150)
			end(t, l)
			if err := <-done; err != nil {
				t.Errorf("%s: %v", name, err)
			}
			must(t, d.Remove(name))
		})
	}
	runs.Wait()
}

// A reader that stops reading holds up nobody, and costs no memory however much
// comes meanwhile; when it goes on, all of it is there.
func TestASlowReader(t *testing.T) {
	d := open(t, t.TempDir())
	l := begin(t, d, 0)
	slow := l.Events(0)
	wantNext(t, slow, "1 started begun")
	const last = 20_000
	before := heap()
	write(t, l, 1, last)
	if used := heap() - before; used > 2<<20 {
		t.Errorf("%d bytes of memory", used)
	}
	if sealed := end(t, l); sealed.Size < 8<<20 {
		t.Errorf("%d bytes only", sealed.Size)
	}
	if err := verify(slow, 1, last); err != nil {
		t.Error(err)
	}
}

// A log that nobody commits does not stay in memory either, and is none to resume.
func TestALogThatIsNotCommitted(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	l := begin(t, d, 0)
	before := heap()
	piece := make([]byte, 1000)
	for range 8000 {
		must(t, l.Append(eventlog.Stdout, piece))
	}
	if used := heap() - before; used > 2<<20 {
		t.Errorf("%d bytes of memory", used)
	}
	if got := output(t, l.Output(eventlog.Stdout), nil); len(got) != 8_000_000 {
		t.Errorf("%d bytes", len(got))
	}
	l.Close()
	if l := resume(t, d, 0); l.Last() != 0 || l.Totals().Stdout.Kept != 0 {
		t.Errorf("%d, %+v", l.Last(), l.Totals())
	}
}

func heap() int64 {
	var m goruntime.MemStats
	goruntime.GC()
	goruntime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestNextEndsWithItsContext(t *testing.T) {
	d := open(t, t.TempDir())
	l := begin(t, d, 0)
	r := l.Events(1)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(io.ErrNoProgress)
	if _, err := r.Next(ctx); err != io.ErrNoProgress {
		t.Errorf("%v", err)
	}
	must(t, l.Append(eventlog.Stdout, []byte("out")))
	wantNext(t, r, "2 stdout out") // the reader can go on
	r.Close()
	r.Close()
	if _, err := next(t, r); err == nil || err == io.EOF {
		t.Errorf("%v", err)
	}
	o := l.Output(eventlog.Stdout)
	must(t, o.Close())
	must(t, o.Close())
	if _, err := o.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("%v", err)
	}
}
