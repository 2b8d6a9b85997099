package eventlog_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/eventlog"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

func TestResumeGoesOnFromTheLastCommit(t *testing.T) {
	dir := t.TempDir()
	l := begin(t, open(t, dir), 10)
	must(t, l.Append(eventlog.Stdout, []byte("one")))
	first := runtime.Progress{Sequence: 4, Stdout: 3, Changed: []agentsandbox.PathInfo{changed("/workspace/\xffa")}}
	must(t, l.Commit(first))
	must(t, l.Append(eventlog.Stderr, []byte("two")))
	must(t, l.Append(eventlog.Stdout, []byte("12345678"))) // one more than the limit
	second := runtime.Progress{Sequence: 9, Stdout: 11, Stderr: 3}
	second.Changed = append(first.Changed, changed("/workspace/b"), changed("/workspace/c"))
	must(t, l.Commit(second))
	must(t, l.Append(eventlog.Stdout, []byte("x")))
	must(t, l.Append(eventlog.Stderr, []byte("not committed")))

	d := open(t, dir) // as a later process
	l = resume(t, d, 10)
	if got := l.Progress(); !reflect.DeepEqual(got, second) || l.Last() != 4 {
		t.Errorf("after event %d: %+v", l.Last(), got)
	}
	if got, want := l.Totals(), (eventlog.Totals{
		Stdout: eventlog.Total{Kept: 10, Written: 11, Last: '7'}, Stderr: eventlog.Total{Kept: 3, Written: 3, Last: 'o'},
	}); got != want {
		t.Errorf("%+v", got)
	}
	// The sandbox repeats what was not committed, and the numbers are the same.
	must(t, l.Append(eventlog.Stdout, []byte("x")))
	must(t, l.Append(eventlog.Stderr, []byte("not committed")))
	third := second
	third.Sequence, third.Changed = 11, append(second.Changed, changed("/workspace/d"))
	must(t, l.Commit(third))

	d = open(t, dir)
	l = resume(t, d, 10)
	if got := l.Progress(); !reflect.DeepEqual(got, third) {
		t.Errorf("%+v", got)
	}
	want := []string{"1 started begun", "2 stdout one", "3 stderr two", "4 stdout 1234567", "5 stderr not com",
		`6 gap {"stdout":2,"stderr":6}`, "7 ended over"}
	must(t, l.Finish(12, 16))
	sealed, err := l.Seal(over)
	must(t, err)
	must(t, l.Publish())
	if got := events(t, d, sealed, 0); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func changed(path string) agentsandbox.PathInfo {
	return agentsandbox.PathInfo{Path: path, Kind: agentsandbox.PathFile, SizeBytes: 3, Mode: 0o644, ModifiedAt: time.Unix(1, 2).UTC()}
}

func TestResumeOfALogThatWasNeverCommitted(t *testing.T) {
	l := resume(t, open(t, t.TempDir()), 0)
	if l.Last() != 0 || l.Progress().Sequence != 0 {
		t.Errorf("%d, %+v", l.Last(), l.Progress())
	}
	must(t, l.Append(eventlog.Started, []byte("begun")))
	sealed := end(t, l)
	if sealed.Inline == nil {
		t.Error("it is not small")
	}
}

// A log of three commits, the offsets behind them, and what is to be had then.
func committed(t *testing.T) (text []byte, ends []int64, sequences []uint64, outputs []string) {
	t.Helper()
	dir := t.TempDir()
	l := begin(t, open(t, dir), 0)
	defer l.Close()
	out := ""
	ends, sequences, outputs = []int64{0}, []uint64{0}, []string{""}
	for n := range uint64(3) {
		for range 2 {
			piece := fmt.Sprintf("piece %d\n", n)
			must(t, l.Append(eventlog.Stdout, []byte(piece)))
			out += piece
		}
		must(t, l.Commit(at(10+n)))
		info, err := os.Stat(filepath.Join(dir, id))
		must(t, err)
		ends, sequences, outputs = append(ends, info.Size()), append(sequences, 10+n), append(outputs, out)
	}
	text, err := os.ReadFile(filepath.Join(dir, id))
	must(t, err)
	return text, ends, sequences, outputs
}

// Wherever a death in the middle of a write cuts the file, the log is that of the
// last whole commit, and goes on from there.
func TestATornEndAtEachByte(t *testing.T) {
	text, ends, sequences, outputs := committed(t)
	dir := t.TempDir()
	for cut := range len(text) + 1 {
		must(t, os.WriteFile(filepath.Join(dir, id), text[:cut], 0o600))
		n := 0
		for n+1 < len(ends) && ends[n+1] <= int64(cut) {
			n++
		}
		d := open(t, dir)
		l := resume(t, d, 0)
		if got := output(t, l.Output(eventlog.Stdout), nil); got != outputs[n] || l.Progress().Sequence != sequences[n] {
			t.Fatalf("cut at %d: %q, %+v", cut, got, l.Progress())
		}
		if l.Last() == 0 {
			must(t, l.Append(eventlog.Started, []byte("begun")))
		}
		must(t, l.Append(eventlog.Stdout, []byte("more")))
		must(t, l.Commit(at(99)))
		l.Close()
		l = resume(t, d, 0)
		got := output(t, l.Output(eventlog.Stdout), nil)
		if got != outputs[n]+"more" || l.Progress().Sequence != 99 || l.Last() != uint64(2+2*n) {
			t.Fatalf("cut at %d and gone on: %q, %+v, %d", cut, got, l.Progress(), l.Last())
		}
		sealed := end(t, l)
		l.Close()
		if got := events(t, d, sealed, 0); len(got) != 3+2*n {
			t.Fatalf("cut at %d: %q", cut, got)
		}
	}
}

// Damage is no torn end. What was committed before it is still to be had.
func TestDamageAtEachByte(t *testing.T) {
	text, ends, sequences, outputs := committed(t)
	dir := t.TempDir()
	path := filepath.Join(dir, id)
	for offset := range text {
		damaged := bytes.Clone(text)
		damaged[offset] ^= 0x20
		must(t, os.WriteFile(path, damaged, 0o600))
		n := 0
		for n+1 < len(ends) && ends[n+1] <= int64(offset) {
			n++
		}
		l, err := open(t, dir).Resume(id, 0)
		wantDamage(t, err, path, int64(offset))
		if got := output(t, l.Output(eventlog.Stdout), nil); got != outputs[n] || l.Progress().Sequence != sequences[n] {
			t.Fatalf("damaged at %d: %q, %+v", offset, got, l.Progress())
		}
		l.Close()
	}
}

// A frame that was cut out whole is damage, too, also before a mark.
func TestAMissingFrameIsDamage(t *testing.T) {
	text, _, _, _ := committed(t)
	dir := t.TempDir()
	const magic, head = 8, 20
	first := magic + head + len("begun")
	piece := head + len("piece 0\n")
	path := filepath.Join(dir, id)
	for _, offset := range []int{first, first + piece} {
		must(t, os.WriteFile(path, slices.Concat(text[:offset], text[offset+piece:]), 0o600))
		l, err := open(t, dir).Resume(id, 0)
		wantDamage(t, err, path, int64(offset))
		if l.Last() != 0 {
			t.Errorf("event %d is there", l.Last())
		}
		l.Close()
	}
}

// A server that dies between Seal and the row has not ended the run: the last events,
// which nobody was shown, are gone, and the next one seals anew.
func TestSealedAndKilledBeforeTheRow(t *testing.T) {
	dir := t.TempDir()
	l := begin(t, open(t, dir), 0)
	must(t, l.Append(eventlog.Stdout, make([]byte, eventlog.InlineBytes)))
	must(t, l.Commit(at(1)))
	must(t, l.Append(eventlog.Stdout, []byte("again")))
	must(t, l.Finish(0, 0))
	_, err := l.Seal(eventlog.Event{Kind: eventlog.File, Data: []byte("fil_a")}, over)
	must(t, err)
	d := open(t, dir)
	l = resume(t, d, 0)
	if l.Last() != 2 || l.Progress().Sequence != 1 {
		t.Errorf("%d, %+v", l.Last(), l.Progress())
	}
	must(t, l.Append(eventlog.Stdout, []byte("again")))
	sealed := end(t, l, eventlog.Event{Kind: eventlog.File, Data: []byte("fil_b")})
	l.Close()
	if got := events(t, d, sealed, 2); !slices.Equal(got, []string{"3 stdout again", "4 file fil_b", "5 ended over"}) {
		t.Errorf("%q", got)
	}
}

// The sandbox could not repeat what readers had seen already: its numbers are not
// given again, and a gap tells of it.
func TestWhatIsLostIsTold(t *testing.T) {
	dir := t.TempDir()
	l := begin(t, open(t, dir), 0)
	must(t, l.Commit(at(1)))
	for range 5 {
		must(t, l.Append(eventlog.Stdout, []byte("seen")))
	}
	d := open(t, dir)
	l = resume(t, d, 0)
	l.SkipLost()
	if l.Append(eventlog.Stdout, []byte("x")) == nil {
		t.Error("a lost log goes on")
	}
	sealed := end(t, l, stderr("lost"))
	r, err := d.Events(id, sealed, 6) // as a reader that has seen all
	must(t, err)
	defer r.Close()
	gap, err := next(t, r)
	must(t, err)
	if m := missing(t, gap); m != (eventlog.Missing{}) || gap.Number <= 6 {
		t.Errorf("%s", text(gap))
	}
	wantNext(t, r, fmt.Sprintf("%d stderr lost", gap.Number+1), fmt.Sprintf("%d ended over", gap.Number+2), "EOF")
	if got := events(t, d, sealed, 0); len(got) != 4 {
		t.Errorf("%q", got)
	}
}

// Somebody shortens the file under a run: what is left is the beginning, and the rest
// is told to be missing.
func TestAFileThatIsShortenedUnderItsRun(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	l := begin(t, d, 0)
	r := l.Events(0)
	defer r.Close()
	for n := range 50 {
		must(t, l.Append(eventlog.Stdout, bytes.Repeat([]byte{'a' + byte(n%26)}, 10_000)))
		if n%5 == 4 {
			must(t, l.Commit(at(uint64(n))))
		}
	}
	for range 40 {
		_, err := next(t, r)
		must(t, err)
	}
	must(t, os.Truncate(filepath.Join(dir, id), 205_000))
	wantDamage(t, l.Finish(500_000, 0), dir, 205_000)
	if got := l.Totals().Stdout; got.Kept != 200_000 || got.Written != 500_000 || got.Last != 't' {
		t.Errorf("%+v", got)
	}
	sealed, err := l.Seal(over)
	must(t, err)
	must(t, l.Publish())
	l.Close()
	e, err := next(t, r)
	for err == nil && e.Kind == eventlog.Stdout { // what the reader had read before
		e, err = next(t, r)
	}
	if err != nil || text(e) != `52 gap {"stdout":300000}` {
		t.Errorf("%s, %v", text(e), err)
	}
	wantNext(t, r, "53 ended over", "EOF")
	got := events(t, d, sealed, 19)
	want := []string{"20 stdout ssssssss… 10000", "21 stdout tttttttt… 10000", `52 gap {"stdout":300000}`, "53 ended over"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	o, err := d.Output(id, sealed, eventlog.Stdout)
	if out := output(t, o, err); len(out) != 200_000 {
		t.Errorf("%d bytes", len(out))
	}
}

// message is what the sandbox of the test says, by its number: it repeats what was
// not committed, as a real one does.
func message(n uint64) (eventlog.Kind, []byte) {
	kind := eventlog.Stdout
	if n%7 == 0 {
		kind = eventlog.Stderr
	}
	return kind, []byte(strings.Repeat(strconv.FormatUint(n, 10)+"\n", 1+int(n*n%300)))
}

const killedDir = "EVENTLOG_TEST_DIR"

// TestMain is also a server that is to be killed: it appends until then.
func TestMain(m *testing.M) {
	dir := os.Getenv(killedDir)
	if dir == "" {
		os.Exit(m.Run())
	}
	d, err := eventlog.Open(dir, eventlog.Options{})
	check(err)
	l, err := d.Resume(id, 0)
	check(err)
	if l.Last() == 0 {
		check(l.Append(eventlog.Started, nil))
	}
	for n := l.Progress().Sequence + 1; ; n++ {
		kind, data := message(n)
		check(l.Append(kind, data))
		fmt.Println(l.Last()) // a reader was shown this one
		if n%13 == 0 {
			check(l.Commit(at(n)))
		}
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// After each kill -9 the log goes on with the same events under the same numbers:
// nothing is lost, and nothing is there twice.
func TestKilledServers(t *testing.T) {
	dir := t.TempDir()
	for round := range 10 {
		server := exec.Command(os.Args[0])
		server.Env = append(os.Environ(), killedDir+"="+dir)
		server.Stderr = os.Stderr
		shown, err := server.StdoutPipe()
		must(t, err)
		must(t, server.Start())
		_, err = io.ReadFull(shown, make([]byte, 2000+777*round)) // then it is at work
		must(t, err)
		must(t, server.Process.Kill())
		_, _ = io.Copy(io.Discard, shown)
		_ = server.Wait()
	}
	d := open(t, dir)
	l := resume(t, d, 0)
	taken := l.Progress().Sequence
	if l.Last() != taken+1 || taken < 1000 {
		t.Fatalf("%d messages, %d events", taken, l.Last())
	}
	r := l.Events(1)
	defer r.Close()
	for n := uint64(1); n <= taken; n++ {
		kind, data := message(n)
		if e, err := next(t, r); err != nil || e.Number != n+1 || e.Kind != kind || !bytes.Equal(e.Data, data) {
			t.Fatalf("message %d is %s, %v", n, text(e), err)
		}
	}
	wantNone(t, r)
}
