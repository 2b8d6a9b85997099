package eventlog_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/agentsandbox/agentsandbox/internal/eventlog"
)

func TestReplayAndFollow(t *testing.T) {
	for name, size := range map[string]int{"inline": 100, "file": eventlog.InlineBytes} {
		t.Run(name, func(t *testing.T) {
			d := open(t, t.TempDir())
			l := begin(t, d, 0)
			early := l.Events(0)
			defer early.Close()
			wantNext(t, early, "1 started begun")
			wantNone(t, early)
			must(t, l.Append(eventlog.Stdout, []byte("one")))
			must(t, l.Append(eventlog.Stderr, []byte("two")))
			must(t, l.Commit(at(2)))
			big := strings.Repeat("x", size)
			must(t, l.Append(eventlog.Stdout, []byte(big)))
			must(t, l.Append(99, []byte("a kind that comes")))
			second, err := d.Events(id, eventlog.Sealed{}, 2)
			must(t, err)
			defer second.Close()
			bigText := text(eventlog.Event{Number: 4, Kind: eventlog.Stdout, Data: []byte(big)})
			wantNext(t, early, "2 stdout one", "3 stderr two", bigText, "5  a kind that comes")
			wantNext(t, second, "3 stderr two", bigText, "5  a kind that comes")
			wantNone(t, second)
			must(t, l.Finish(0, 0))
			sealed, err := l.Seal(eventlog.Event{Kind: eventlog.File, Data: []byte("made")}, over)
			must(t, err)
			wantNone(t, early) // the row is not written yet
			must(t, l.Publish())
			for _, r := range []*eventlog.Reader{early, second} {
				wantNext(t, r, "6 file made", "7 ended over", "EOF", "EOF")
			}
			l.Close()
			if inline := sealed.Inline != nil; inline != (size == 100) || sealed.Stdout != int64(3+size) || sealed.Stderr != 3 {
				t.Errorf("%d bytes inline, %+v", len(sealed.Inline), sealed)
			}
			want := []string{"1 started begun", "2 stdout one", "3 stderr two", bigText, "5  a kind that comes", "6 file made", "7 ended over"}
			for after := range want {
				if got := events(t, d, sealed, uint64(after)); !slices.Equal(got, want[after:]) {
					t.Errorf("after %d: %q", after, got)
				}
			}
			if got := events(t, d, sealed, 7); got != nil {
				t.Errorf("after the end: %q", got)
			}
			o, err := d.Output(id, sealed, eventlog.Stdout)
			if got := output(t, o, err); got != "one"+big {
				t.Errorf("%d bytes of stdout", len(got))
			}
		})
	}
}

func TestATinyRunMakesNoFile(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	l := begin(t, d, 0)
	must(t, l.Append(eventlog.Stdout, []byte("2\n")))
	sealed := end(t, l)
	if n := files(t, dir); n != 0 || int64(len(sealed.Inline)) != sealed.Size || sealed.Size > 100 {
		t.Errorf("%d files, sealed %+v", n, sealed)
	}
	l.Close()
	// A small one that had a file all the same leaves none.
	l = begin(t, d, 0)
	must(t, l.Commit(at(1)))
	if n := files(t, dir); n != 1 {
		t.Errorf("%d files", n)
	}
	sealed = end(t, l)
	if n := files(t, dir); n != 0 {
		t.Errorf("%d files", n)
	}
	if got := events(t, d, sealed, 0); !slices.Equal(got, []string{"1 started begun", "2 ended over"}) {
		t.Errorf("%q", got)
	}
}

func TestTheLimitAndTheGap(t *testing.T) {
	d := open(t, t.TempDir())
	l := begin(t, d, 5)
	for _, text := range []string{"abc", "defg", "h", ""} {
		must(t, l.Append(eventlog.Stdout, []byte(text)))
		must(t, l.Append(eventlog.File, []byte("f")))
	}
	must(t, l.Append(eventlog.Stderr, []byte("12345")))
	if got, want := l.Totals(), (eventlog.Totals{
		Stdout: eventlog.Total{Kept: 5, Written: 8, Last: 'e'}, Stderr: eventlog.Total{Kept: 5, Written: 5, Last: '5'},
	}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	must(t, l.Finish(100, 0)) // the sandbox dropped more before it came here
	if got := l.Totals(); got.Stdout != (eventlog.Total{Kept: 5, Written: 100, Last: 'e'}) {
		t.Errorf("%+v", got)
	}
	sealed, err := l.Seal(stderr("\na last line\n"), over)
	must(t, err)
	must(t, l.Publish())
	want := []string{"1 started begun", "2 stdout abc", "3 file f", "4 stdout de", "5 file f", "6 file f", "7 file f", "8 stderr 12345",
		`9 gap {"stdout":95}`, "10 stderr \na last line\n", "11 ended over"}
	if got := events(t, d, sealed, 0); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	o, err := d.Output(id, sealed, eventlog.Stderr)
	if got := output(t, o, err); got != "12345\na last line\n" {
		t.Errorf("%q", got)
	}
}

func TestOutputOfARunUnderWay(t *testing.T) {
	d := open(t, t.TempDir())
	l := begin(t, d, 0)
	must(t, l.Append(eventlog.Stdout, []byte("one ")))
	must(t, l.Commit(at(1)))
	must(t, l.Append(eventlog.Stderr, []byte("other")))
	must(t, l.Append(eventlog.Stdout, []byte("two ")))
	o, err := d.Output(id, eventlog.Sealed{}, eventlog.Stdout)
	must(t, l.Append(eventlog.Stdout, []byte("later")))
	if got := output(t, o, err); got != "one two " {
		t.Errorf("%q", got)
	}
	o = l.Output(eventlog.Stdout)
	defer o.Close()
	got, err := io.ReadAll(io.MultiReader(io.LimitReader(o, 3), o))
	if err != nil || string(got) != "one two later" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestSealIsRepeatedWhenTheRowIsNotWritten(t *testing.T) {
	for name, size := range map[string]int{"inline": 100, "file": 2 * eventlog.InlineBytes} {
		t.Run(name, func(t *testing.T) {
			d := open(t, t.TempDir())
			l := begin(t, d, 0)
			r := l.Events(1)
			defer r.Close()
			must(t, l.Append(eventlog.Stdout, make([]byte, size)))
			must(t, l.Commit(at(1)))
			must(t, l.Finish(0, 0))
			for range 2 {
				_, err := l.Seal(eventlog.Event{Kind: eventlog.File, Data: make([]byte, 300)}, over)
				must(t, err)
			}
			sealed, err := l.Seal(eventlog.Event{Kind: eventlog.Ended, Data: []byte("badly")})
			must(t, err)
			must(t, l.Publish())
			must(t, l.Publish())
			_, _ = next(t, r)
			wantNext(t, r, "3 ended badly", "EOF")
			r.Close()
			l.Close()
			if got := events(t, d, sealed, 2); !slices.Equal(got, []string{"3 ended badly"}) {
				t.Errorf("%q", got)
			}
		})
	}
}

func TestALogInTheWrongStateRefuses(t *testing.T) {
	d := open(t, t.TempDir())
	l := begin(t, d, 0)
	if _, err := d.Create(id, 0); err == nil {
		t.Error("one log was created twice")
	}
	if _, err := d.Resume(id, 0); err == nil {
		t.Error("a log under way was resumed")
	}
	for _, kind := range []eventlog.Kind{0, eventlog.Gap, eventlog.Ended, 255} {
		if l.Append(kind, nil) == nil {
			t.Errorf("kind %d was appended", kind)
		}
	}
	if l.Append(eventlog.Stdout, make([]byte, eventlog.MaxData+1)) == nil {
		t.Error("an event that nobody could read was appended")
	}
	if _, err := l.Seal(over); err == nil {
		t.Error("a log was sealed that is not finished")
	}
	must(t, l.Finish(0, 0))
	gap := eventlog.Event{Kind: eventlog.Gap}
	for _, last := range [][]eventlog.Event{nil, {stderr("x")}, {over, stderr("x")}, {gap, over}, {over, over}} {
		if _, err := l.Seal(last...); err == nil {
			t.Errorf("sealed with %v", last)
		}
	}
	for _, err := range []error{l.Append(eventlog.Stdout, []byte("x")), l.Commit(at(1)), l.Finish(0, 0)} {
		if !errors.Is(err, eventlog.ErrSealed) {
			t.Errorf("%v", err)
		}
	}
	for _, bad := range []string{"", "..", "../x", "a/b", ".hidden", strings.Repeat("x", 200)} {
		_, created := d.Create(bad, 0)
		_, resumed := d.Resume(bad, 0)
		_, read := d.Events(bad, eventlog.Sealed{}, 0)
		if created == nil || resumed == nil || read == nil || d.Remove(bad) == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestReadersOfARemovedLog(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	l := begin(t, d, 0)
	must(t, l.Append(eventlog.Stdout, make([]byte, 300<<10)))
	must(t, l.Append(eventlog.Stdout, make([]byte, 300<<10)))
	waiting, amid, own := l.Events(3), l.Events(0), l.Output(eventlog.Stdout)
	defer waiting.Close()
	defer amid.Close()
	out, err := d.Output(id, eventlog.Sealed{}, eventlog.Stdout)
	must(t, err)
	defer out.Close()
	wantNext(t, amid, "1 started begun")
	told := make(chan error)
	go func() {
		_, err := waiting.Next(context.Background())
		told <- err
	}()
	must(t, d.Remove(id))
	must(t, d.Remove(id))
	if err := <-told; !errors.Is(err, eventlog.ErrRemoved) {
		t.Errorf("%v", err)
	}
	for err == nil {
		_, err = next(t, amid)
	}
	_, outErr := io.Copy(io.Discard, out)
	if got := output(t, own, nil); len(got) != 600<<10 {
		t.Errorf("the writer reads %d bytes", len(got))
	}
	appendErr, commitErr := l.Append(eventlog.Stdout, []byte("x")), l.Commit(at(1))
	for _, err := range []error{err, outErr, appendErr, commitErr} {
		if !errors.Is(err, eventlog.ErrRemoved) {
			t.Errorf("%v", err)
		}
	}
	if n := files(t, dir); n != 0 {
		t.Errorf("%d files", n)
	}
	if _, err := d.Events(id, eventlog.Sealed{Size: 100}, 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if _, err := d.Events(id, eventlog.Sealed{}, 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// Who has the row of a log finds all of it, although it is not published yet.
func TestARowIsReadBeforeItsLogIsPublished(t *testing.T) {
	for _, size := range []int{10, 300 << 10} {
		d := open(t, t.TempDir())
		l := begin(t, d, 0)
		must(t, l.Append(eventlog.Stdout, bytes.Repeat([]byte("x"), size)))
		must(t, l.Finish(0, 0))
		sealed, err := l.Seal(stderr("note"), over)
		must(t, err)
		o, err := d.Output(id, sealed, eventlog.Stderr)
		if got := output(t, o, err); got != "note" {
			t.Errorf("%d bytes of output: %q", size, got)
		}
		o, err = d.Output(id, eventlog.Sealed{}, eventlog.Stderr)
		if got := output(t, o, err); got != "" {
			t.Errorf("%d bytes of output: %q is read without the row", size, got)
		}
		must(t, l.Publish())
		if got := events(t, d, sealed, 2); !slices.Equal(got, []string{"3 stderr note", "4 ended over"}) {
			t.Errorf("%d bytes of output: %q", size, got)
		}
		l.Close()
		if got := events(t, d, sealed, 2); len(got) != 2 {
			t.Errorf("%d bytes of output: %q", size, got)
		}
	}
}

func TestOutputIsReadFromAnyPlace(t *testing.T) {
	for _, pieces := range []int{3, 3000} {
		d := open(t, t.TempDir())
		l := begin(t, d, 0)
		var all bytes.Buffer
		for n := range pieces {
			piece := fmt.Appendf(nil, "%d %s\n", n, strings.Repeat("x", n%200))
			all.Write(piece)
			must(t, l.Append(eventlog.Stdout, piece))
			must(t, l.Append(eventlog.Stderr, []byte("e")))
			if n%50 == 49 {
				must(t, l.Commit(at(uint64(n))))
			}
		}
		sealed := end(t, l)
		l.Close()
		o, err := d.Output(id, sealed, eventlog.Stdout)
		must(t, err)
		defer o.Close()
		if err := iotest.TestReader(o, all.Bytes()); err != nil {
			t.Error(err)
		}
		if _, err := o.Seek(-1, io.SeekStart); err == nil {
			t.Error("there is a place before the beginning")
		}
	}
}

func TestAReaderOfALogThatWasLeft(t *testing.T) {
	d := open(t, t.TempDir())
	l := begin(t, d, 0)
	must(t, l.Append(eventlog.Stdout, []byte("out")))
	must(t, l.Commit(at(1)))
	r := l.Events(0)
	defer r.Close()
	l.Close()
	l.Close()
	wantNext(t, r, "1 started begun", "2 stdout out")
	if _, err := next(t, r); !errors.Is(err, eventlog.ErrLeft) {
		t.Errorf("%v", err)
	}
	if err := l.Append(eventlog.Stdout, []byte("x")); !errors.Is(err, eventlog.ErrSealed) {
		t.Errorf("%v", err)
	}
	// The next one is another log, also in the same process.
	if next := resume(t, d, 0); next.Last() != 2 || next.Progress().Sequence != 1 {
		t.Errorf("%d, %+v", next.Last(), next.Progress())
	}
}

// An ended log in a file that is not as it was written is never shown as shorter.
func TestDamageOfAnEndedLog(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	l := begin(t, d, 0)
	for range 100 {
		must(t, l.Append(eventlog.Stdout, bytes.Repeat([]byte("x"), 1000)))
	}
	sealed := end(t, l)
	l.Close()
	path := filepath.Join(dir, id)
	whole, err := os.ReadFile(path)
	must(t, err)
	readAll := func() error {
		r, err := d.Events(id, sealed, 0)
		if err != nil {
			return err
		}
		defer r.Close()
		for {
			if _, err := next(t, r); err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
		}
	}
	for offset := 0; offset < len(whole); offset += 997 {
		damaged := bytes.Clone(whole)
		damaged[offset] ^= 0x10
		must(t, os.WriteFile(path, damaged, 0o600))
		wantDamage(t, readAll(), path, int64(offset))
	}
	for _, size := range []int{0, 1, 8, 1000, len(whole) - 1} {
		must(t, os.WriteFile(path, whole[:size], 0o600))
		wantDamage(t, readAll(), path, int64(size))
	}
	must(t, os.WriteFile(path, append(bytes.Clone(whole), 0), 0o600))
	wantDamage(t, readAll(), path, int64(len(whole)))
	// One that lacks its end, and says so nowhere else.
	sealed.Size = int64(len(whole) - 24)
	must(t, os.WriteFile(path, whole[:sealed.Size], 0o600))
	wantDamage(t, readAll(), path, sealed.Size)
	// And one that is shortened under its reader.
	must(t, os.WriteFile(path, whole, 0o600))
	sealed.Size = int64(len(whole))
	r, err := d.Events(id, sealed, 0)
	must(t, err)
	defer r.Close()
	o, err := d.Output(id, sealed, eventlog.Stdout)
	must(t, err)
	defer o.Close()
	must(t, os.Truncate(path, 10_000))
	for err == nil {
		_, err = next(t, r)
	}
	wantDamage(t, err, path, 10_000)
	_, err = io.Copy(io.Discard, o)
	wantDamage(t, err, path, 10_000)
}

func TestDamageOfAnInlineLog(t *testing.T) {
	d := open(t, t.TempDir())
	l := begin(t, d, 0)
	must(t, l.Append(eventlog.Stdout, []byte("hello")))
	sealed := end(t, l)
	l.Close()
	for offset := range sealed.Inline {
		bad := sealed
		bad.Inline = bytes.Clone(sealed.Inline)
		bad.Inline[offset] ^= 1
		r, err := d.Events(id, bad, 0)
		must(t, err)
		for err == nil {
			_, err = next(t, r)
		}
		wantDamage(t, err, id, int64(offset))
		bad.Inline = sealed.Inline[:offset]
		_, err = d.Events(id, bad, 0)
		wantDamage(t, err, id, int64(offset))
	}
}

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	for _, name := range []string{"exe_kept", "exe_gone", ".strange"} {
		must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	l := begin(t, d, 0)
	must(t, l.Commit(at(1)))
	n, err := d.Sweep(t.Context(), func(name string) (bool, error) { return name == "exe_kept", nil })
	if err != nil || n != 2 || files(t, dir) != 2 {
		t.Errorf("%d removed, %v, %d left", n, err, files(t, dir))
	}
	no := errors.New("the store cannot say")
	if n, err := d.Sweep(t.Context(), func(string) (bool, error) { return false, no }); n != 0 || !errors.Is(err, no) || files(t, dir) != 2 {
		t.Errorf("%d removed, %v, %d left", n, err, files(t, dir))
	}
}
