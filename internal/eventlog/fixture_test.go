package eventlog_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/eventlog"
	"github.com/agentsandbox/agentsandbox/internal/roottest"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

const id = "exe_a"

// unwritten is what logs may hold in memory in these tests, see Options.
const unwritten = 1 << 20

func open(t testing.TB, path string) *eventlog.Dir {
	t.Helper()
	d, err := eventlog.Open(path, eventlog.Options{UnwrittenBytes: unwritten})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// begin creates a log that has begun.
func begin(t testing.TB, d *eventlog.Dir, limit int64) *eventlog.Log {
	t.Helper()
	l, err := d.Create(id, limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	must(t, l.Append(eventlog.Started, []byte("begun")))
	return l
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// resume goes on with the log of a server that is gone.
func resume(t testing.TB, d *eventlog.Dir, limit int64) *eventlog.Log {
	t.Helper()
	l, err := d.Resume(id, limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// end seals and publishes a log.
func end(t testing.TB, l *eventlog.Log, last ...eventlog.Event) eventlog.Sealed {
	t.Helper()
	must(t, l.Finish(0, 0))
	sealed, err := l.Seal(append(last, over)...)
	if err != nil {
		t.Fatal(err)
	}
	must(t, l.Publish())
	return sealed
}

var over = eventlog.Event{Kind: eventlog.Ended, Data: []byte("over")}

func stderr(text string) eventlog.Event {
	return eventlog.Event{Kind: eventlog.Stderr, Data: []byte(text)}
}

func at(sequence uint64) runtime.Progress { return runtime.Progress{Sequence: sequence} }

// names are how the events look in these tests.
var names = map[eventlog.Kind]string{
	eventlog.Started: "started", eventlog.Stdout: "stdout", eventlog.Stderr: "stderr",
	eventlog.File: "file", eventlog.Gap: "gap", eventlog.Ended: "ended",
}

func text(e eventlog.Event) string {
	data := string(e.Data)
	if len(data) > 40 {
		data = fmt.Sprintf("%s… %d", data[:8], len(data))
	}
	return fmt.Sprintf("%d %s %s", e.Number, names[e.Kind], data)
}

// next returns the next event, which has to come soon.
func next(t testing.TB, r *eventlog.Reader) (eventlog.Event, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	return r.Next(ctx)
}

// wantNext checks the next events, one for each text; "EOF" is the end.
func wantNext(t testing.TB, r *eventlog.Reader, want ...string) {
	t.Helper()
	for _, w := range want {
		e, err := next(t, r)
		got := text(e)
		if err == io.EOF {
			got = "EOF"
		} else if err != nil {
			got = err.Error()
		}
		if got != w {
			t.Fatalf("got %q, want %q", got, w)
		}
	}
}

// wantNone checks that a reader has to wait.
func wantNone(t testing.TB, r *eventlog.Reader) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if e, err := r.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %s, %v", text(e), err)
	}
}

// events reads the events after a number, to the end of the log.
func events(t testing.TB, d *eventlog.Dir, sealed eventlog.Sealed, after uint64) []string {
	t.Helper()
	r, err := d.Events(id, sealed, after)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var all []string
	for {
		e, err := next(t, r)
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatalf("after %d events: %v", len(all), err)
		}
		all = append(all, text(e))
	}
}

func output(t testing.TB, o *eventlog.Output, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	var b strings.Builder
	if _, err := io.Copy(&b, o); err != nil {
		t.Fatal(err)
	}
	if int64(b.Len()) != o.Size() {
		t.Errorf("%d bytes, not %d", b.Len(), o.Size())
	}
	return b.String()
}

func missing(t testing.TB, e eventlog.Event) (m eventlog.Missing) {
	t.Helper()
	if e.Kind != eventlog.Gap {
		t.Fatalf("%s is not a gap", text(e))
	}
	must(t, json.Unmarshal(e.Data, &m))
	return m
}

func wantDamage(t testing.TB, err error, file string, most int64) {
	t.Helper()
	var damage *eventlog.DamageError
	if !errors.As(err, &damage) || !strings.Contains(damage.File, file) || damage.Offset < 0 || damage.Offset > most {
		t.Fatalf("got %v; want damage of %s at %d at most", err, file, most)
	}
}

func files(t testing.TB, dir string) int {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	must(t, err)
	return len(names)
}

// smallDisk mounts a file system of so many bytes.
func smallDisk(t *testing.T, bytes int) string {
	t.Helper()
	roottest.Need(t, "mounts a small file system")
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("mode=0700,size=%d", bytes)); err != nil {
		t.Fatalf("mounting a small tmpfs: %v; this test must run as root, with the right to mount", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill takes all room of a disk, and gives it back when told.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	for size := 64 << 10; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	return func() { must(t, os.Remove(path)) }
}
