package eventlog_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/eventlog"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

func TestAFullDisk(t *testing.T) {
	dir := smallDisk(t, 1<<20)
	d := open(t, dir)
	l := begin(t, d, 0)
	must(t, l.Append(eventlog.Stdout, []byte("small ")))
	must(t, l.Commit(at(1)))
	before, err := os.Stat(filepath.Join(dir, id))
	must(t, err)
	free := fill(t, dir)
	big := strings.Repeat("x", 300_000)
	must(t, l.Append(eventlog.Stdout, []byte(big)))
	for range 2 {
		if err := l.Commit(at(2)); !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
	// All of it is there, and what was written is as it was.
	must(t, l.Append(eventlog.Stdout, []byte(" more")))
	if got := output(t, l.Output(eventlog.Stdout), nil); got != "small "+big+" more" {
		t.Errorf("%d bytes", len(got))
	}
	copied := t.TempDir()
	written, err := os.ReadFile(filepath.Join(dir, id))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(copied, id), written, 0o600))
	if int64(len(written)) != before.Size() {
		t.Errorf("%d bytes are written, and %d were", len(written), before.Size())
	}
	if dead := resume(t, open(t, copied), 0); dead.Progress().Sequence != 1 || dead.Last() != 2 {
		t.Errorf("%+v, %d", dead.Progress(), dead.Last())
	}
	// A disk that has room again takes what was left.
	free()
	must(t, l.Commit(at(3)))
	l.Close()
	l = resume(t, d, 0)
	got := output(t, l.Output(eventlog.Stdout), nil)
	if got != "small "+big+" more" || l.Progress().Sequence != 3 || l.Totals().Stdout.Kept != int64(len(got)) {
		t.Errorf("%d bytes, %+v", len(got), l.Progress())
	}
}

// All logs that cannot be written share what memory there is for them. What does not
// fit is cut, and what follows it, too.
func TestMemoryOfLogsThatCannotBeWritten(t *testing.T) {
	dir := smallDisk(t, 1<<20)
	d := open(t, dir)
	free := fill(t, dir)
	other, err := d.Create("exe_other", 0)
	must(t, err)
	defer other.Close()
	l := begin(t, d, 0)
	for _, log := range []*eventlog.Log{l, other} {
		must(t, log.Append(eventlog.Stdout, []byte("before")))
		if log.Commit(at(1)) == nil {
			t.Fatal("the disk is not full")
		}
	}
	must(t, other.Append(eventlog.Stdout, make([]byte, unwritten-10)))
	for _, text := range []string{"12345678", "901", "2"} {
		must(t, l.Append(eventlog.Stdout, []byte(text)))
	}
	must(t, l.Append(eventlog.Stderr, []byte("ab")))
	if got := l.Totals(); got.Stdout.Kept != 14 || got.Stdout.Written != 18 || got.Stderr.Kept != 2 {
		t.Errorf("%+v", got)
	}
	must(t, l.Finish(0, 0))
	sealed, err := l.Seal(over)
	must(t, err) // it is small, and needs no disk but that of the row
	must(t, l.Publish())
	if got := events(t, d, sealed, 4); strings.Join(got, ", ") != `5 gap {"stdout":4}, 6 ended over` {
		t.Errorf("%q", got)
	}
	l.Close()
	other.Close()
	free()
	// The memory was given back.
	free = fill(t, dir)
	l = begin(t, d, 0)
	_ = l.Commit(at(1))
	must(t, l.Append(eventlog.Stdout, make([]byte, unwritten)))
	if got := l.Totals().Stdout; got.Kept != unwritten {
		t.Errorf("%+v", got)
	}
	// A large one cannot be sealed; whoever reads it sees its end all the same.
	r := l.Events(2)
	defer r.Close()
	must(t, l.Finish(0, 0))
	if _, err := l.Seal(over); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("%v", err)
	}
	worse := eventlog.Event{Kind: eventlog.Ended, Data: []byte("without output")}
	if _, err := l.Seal(worse); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("%v", err)
	}
	must(t, l.Publish())
	wantNext(t, r, "3 ended without output", "EOF")
	if got := output(t, l.Output(eventlog.Stdout), nil); len(got) != unwritten {
		t.Errorf("%d bytes", len(got))
	}
	free()
}

// What was cut stays cut, for a later server, too: what it keeps of a stream is its
// beginning.
func TestResumeOfALogThatWasCut(t *testing.T) {
	h := &diskHooks{}
	d, dir := hooked(t, h)
	l := begin(t, d, 0)
	must(t, l.Append(eventlog.Stdout, []byte("kept")))
	h.failWrite.Store(true)
	if err := l.Commit(at(1)); !errors.Is(err, errDisk) {
		t.Fatal(err)
	}
	must(t, l.Append(eventlog.Stdout, make([]byte, unwritten+1)))
	h.failWrite.Store(false)
	must(t, l.Commit(runtime.Progress{Sequence: 2, Stdout: 4 + unwritten + 1}))
	l.Close()
	l = resume(t, open(t, dir), 0)
	must(t, l.Append(eventlog.Stdout, []byte("late")))
	if got := l.Totals().Stdout; got != (eventlog.Total{Kept: 4, Written: 4 + unwritten + 1 + 4, Last: 't'}) {
		t.Errorf("%+v", got)
	}
}

// disk is a real file that can fail, and counts.
type disk struct {
	eventlog.Disk
	h *diskHooks
}

type diskHooks struct {
	read           atomic.Int64
	syncs          atomic.Int64
	failWrite      atomic.Bool
	failSync       atomic.Bool
	failReadAt     atomic.Bool
	writeHalfFirst bool
}

var errDisk = errors.New("the disk fails")

func (h *diskHooks) open(path string, flag int) (eventlog.Disk, error) {
	f, err := os.OpenFile(path, flag, 0o600)
	return disk{f, h}, err
}

func (d disk) WriteAt(b []byte, at int64) (int, error) {
	if d.h.failWrite.Load() {
		n := 0
		if d.h.writeHalfFirst {
			n, _ = d.Disk.WriteAt(b[:len(b)/2], at)
		}
		return n, errDisk
	}
	return d.Disk.WriteAt(b, at)
}

func (d disk) Truncate(size int64) error {
	if d.h.failWrite.Load() {
		return errDisk
	}
	return d.Disk.Truncate(size)
}

func (d disk) ReadAt(b []byte, at int64) (int, error) {
	if d.h.failReadAt.Load() {
		return 0, errDisk
	}
	d.h.read.Add(int64(len(b)))
	return d.Disk.ReadAt(b, at)
}

func (d disk) Sync() error {
	d.h.syncs.Add(1)
	if d.h.failSync.Load() {
		return errDisk
	}
	return d.Disk.Sync()
}

func hooked(t *testing.T, h *diskHooks) (*eventlog.Dir, string) {
	t.Helper()
	dir := t.TempDir()
	d, err := eventlog.Open(dir, eventlog.Options{UnwrittenBytes: unwritten, OpenFile: h.open})
	must(t, err)
	return d, dir
}

// Half a write that cannot even be taken back is a torn end, for whoever comes next.
func TestHalfAWriteThatStays(t *testing.T) {
	h := &diskHooks{writeHalfFirst: true}
	d, dir := hooked(t, h)
	l := begin(t, d, 0)
	must(t, l.Commit(at(1)))
	h.failWrite.Store(true)
	must(t, l.Append(eventlog.Stdout, []byte(strings.Repeat("0123456789", 100))))
	if err := l.Commit(at(2)); !errors.Is(err, errDisk) {
		t.Fatal(err)
	}
	l.Close()
	l = resume(t, open(t, dir), 0)
	if l.Progress().Sequence != 1 || l.Last() != 1 {
		t.Errorf("%+v, %d", l.Progress(), l.Last())
	}
}

func TestALargeLogIsSyncedAndASmallOneIsNot(t *testing.T) {
	h := &diskHooks{}
	d, _ := hooked(t, h)
	small := begin(t, d, 0)
	must(t, small.Commit(at(1)))
	end(t, small)
	small.Close()
	if n := h.syncs.Load(); n != 0 {
		t.Errorf("%d syncs", n)
	}
	l := begin(t, d, 0)
	for range 4 {
		must(t, l.Append(eventlog.Stdout, make([]byte, 100_000)))
		must(t, l.Commit(at(1)))
	}
	if n := h.syncs.Load(); n != 0 {
		t.Errorf("%d syncs", n)
	}
	must(t, l.Finish(0, 0))
	h.failSync.Store(true)
	if _, err := l.Seal(over); !errors.Is(err, errDisk) {
		t.Errorf("%v", err)
	}
	h.failSync.Store(false)
	if _, err := l.Seal(over); err != nil || h.syncs.Load() != 2 {
		t.Errorf("%v, %d syncs", err, h.syncs.Load())
	}
}

func TestADiskThatCannotBeReadIsTold(t *testing.T) {
	h := &diskHooks{}
	d, _ := hooked(t, h)
	l := begin(t, d, 0)
	must(t, l.Append(eventlog.Stdout, []byte("out")))
	must(t, l.Commit(at(1)))
	must(t, l.Finish(0, 0))
	h.failReadAt.Store(true)
	r, o := l.Events(0), l.Output(eventlog.Stdout)
	defer r.Close()
	defer o.Close()
	_, events := next(t, r)
	_, output := io.Copy(io.Discard, o)
	_, seal := l.Seal(over)
	for _, err := range []error{events, output, seal} {
		if !errors.Is(err, errDisk) {
			t.Errorf("%v", err)
		}
	}
	l.Close()
	if _, err := d.Resume(id, 0); !errors.Is(err, errDisk) {
		t.Errorf("%v", err)
	}
	h.failReadAt.Store(false)
	resume(t, d, 0)
}

// A reader that comes back to a large log does not read it from its beginning.
func TestAReaderBeginsWhereItWas(t *testing.T) {
	h := &diskHooks{}
	d, _ := hooked(t, h)
	l := begin(t, d, 0)
	for n := range uint64(100) {
		must(t, l.Append(eventlog.Stdout, make([]byte, 100_000)))
		must(t, l.Commit(at(n)))
	}
	check := func(l *eventlog.Log) {
		t.Helper()
		h.read.Store(0)
		r := l.Events(99)
		defer r.Close()
		if e, err := next(t, r); err != nil || e.Number != 100 {
			t.Errorf("%s, %v", text(e), err)
		}
		if n := h.read.Load(); n > 400_000 {
			t.Errorf("%d bytes were read", n)
		}
	}
	check(l)
	l.Close()
	check(resume(t, d, 0))
}

// TestSyncBeforeSeal: what is synced ahead is all that there is but the last events, and
// a log that a row has room for gets no file.
func TestSyncBeforeSeal(t *testing.T) {
	for _, size := range []int{10, 300_000} {
		dir := t.TempDir()
		d := open(t, dir)
		l := begin(t, d, 0)
		text := strings.Repeat("x", size)
		must(t, l.Append(eventlog.Stdout, []byte(text)))
		must(t, l.Finish(0, 0))
		must(t, l.Sync())
		if got := files(t, dir); (got == 1) != (size > eventlog.InlineBytes) {
			t.Errorf("%d bytes: %d files", size, got)
		}
		sealed, err := l.Seal(eventlog.Event{Kind: eventlog.Ended})
		must(t, err)
		must(t, l.Publish())
		l.Close()
		o, err := d.Output(id, sealed, eventlog.Stdout)
		if got := output(t, o, err); got != text {
			t.Errorf("%d of %d bytes", len(got), size)
		}
	}
}
