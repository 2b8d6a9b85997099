package blob_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/blob"
)

func open(t *testing.T, path string) *blob.Dir {
	t.Helper()
	d, err := blob.Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func newID() string { return agentsandbox.NewID(agentsandbox.FilePrefix) }

func put(t *testing.T, d *blob.Dir, id, contents string) {
	t.Helper()
	if _, err := d.Put(t.Context(), id, strings.NewReader(contents), 0); err != nil {
		t.Fatal(err)
	}
}

// infoOf is what Put says of contents.
func infoOf(content string) blob.Info {
	sum := sha256.Sum256([]byte(content))
	return blob.Info{SizeBytes: int64(len(content)), SHA256: hex.EncodeToString(sum[:])}
}

// read returns contents, or fs.ErrNotExist.
func read(t *testing.T, d *blob.Dir, id string, want blob.Info) ([]byte, error) {
	t.Helper()
	r, err := d.Open(id, want)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// files lists the regular files below a directory.
func files(t *testing.T, path string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(path, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func wantFiles(t *testing.T, path string, n int) {
	t.Helper()
	if all := files(t, path); len(all) != n {
		t.Errorf("%d files on the disk, want %d: %v", len(all), n, all)
	}
}

func TestRoundTrip(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "files"))
	for _, size := range []int{0, 1, 256<<10 - 1, 256 << 10, 256<<10 + 1, 1<<20 + 7} {
		want := bytes.Repeat([]byte("0123456789\x00\xff"), size/12+1)[:size]
		id := newID()
		info, err := d.Put(t.Context(), id, iotest.DataErrReader(iotest.HalfReader(bytes.NewReader(want))), int64(size))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(want)
		if info.SizeBytes != int64(size) || info.SHA256 != hex.EncodeToString(sum[:]) {
			t.Errorf("%d bytes: stored as %+v", size, info)
		}
		got, err := read(t, d, id, info)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes came back as %d: %v", size, len(got), err)
		}
	}
}

func TestOpenIsAFile(t *testing.T) {
	d := open(t, t.TempDir())
	id := newID()
	put(t, d, id, "abc")
	r, err := d.Open(id, infoOf("abc"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	f, ok := r.(*os.File) // the kernel can send it by itself
	if !ok {
		t.Fatalf("%T, want *os.File", r)
	}
	info, err := f.Stat()
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := d.Remove(id); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); err != nil || string(b) != "abc" {
		t.Errorf("a reader after Remove: %q, %v", b, err)
	}
}

func TestContentsNeverChange(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	id := newID()
	put(t, d, id, "first")
	if _, err := d.Put(t.Context(), id, strings.NewReader("second"), 0); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second Put: %v, want fs.ErrExist", err)
	}
	if got, err := read(t, d, id, infoOf("first")); err != nil || string(got) != "first" {
		t.Errorf("contents after a second Put: %q, %v", got, err)
	}
	wantFiles(t, dir, 1)
}

func TestLimit(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	for _, limit := range []int64{1, 1000, 256 << 10, 256<<10 + 1} {
		body := bytes.Repeat([]byte("x"), int(limit))
		if info, err := d.Put(t.Context(), newID(), bytes.NewReader(body), limit); err != nil || info.SizeBytes != limit {
			t.Errorf("exactly %d bytes: %+v, %v", limit, info, err)
		}
		_, err := d.Put(t.Context(), newID(), bytes.NewReader(append(body, 'x')), limit)
		if agentsandbox.CodeOf(err) != agentsandbox.CodeTooLarge || !strings.Contains(err.Error(), fmt.Sprint(limit)) {
			t.Errorf("%d bytes and one more: %v, want too_large that names the limit", limit, err)
		}
	}
	endless := &counter{Reader: zeros{}}
	if _, err := d.Put(t.Context(), newID(), endless, 1000); agentsandbox.CodeOf(err) != agentsandbox.CodeTooLarge {
		t.Errorf("an endless body: %v", err)
	}
	if endless.n != 1001 {
		t.Errorf("%d bytes were read of an endless body, want 1001", endless.n)
	}
	if _, err := d.Put(t.Context(), newID(), strings.NewReader(""), -1); err == nil {
		t.Error("a negative limit was taken for none")
	}
	wantFiles(t, dir, 4)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

type counter struct {
	io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}

// TestAbortedBody cuts bodies in several ways, of which nothing may stay.
func TestAbortedBody(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	broken := errors.New("connection reset")
	refusal := agentsandbox.Errorf(agentsandbox.CodeTooLarge, "too much")
	for _, cause := range []error{broken, io.ErrUnexpectedEOF, refusal} {
		body := io.MultiReader(strings.NewReader("half of it"), iotest.ErrReader(cause))
		if _, err := d.Put(t.Context(), newID(), body, 0); !errors.Is(err, cause) {
			t.Errorf("%v, want it to be %v", err, cause)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	body := io.MultiReader(strings.NewReader("half of it"), readerFunc(func([]byte) (int, error) {
		cancel()
		return 0, nil
	}), zeros{})
	if _, err := d.Put(ctx, newID(), body, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	wantFiles(t, dir, 0)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestIDsAreNotPaths(t *testing.T) {
	dir := t.TempDir()
	d := open(t, filepath.Join(dir, "files"))
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	good := newID()
	for _, id := range []string{
		"", ".", "..", "../../../../secret", secret, "fil_", good[:len(good)-1], good + "a",
		"fil_../../../../../../../../tmp", strings.ToUpper(good), good[:len(good)-1] + "\x00", good[:len(good)-1] + "/",
		agentsandbox.NewID(agentsandbox.SessionPrefix), strings.Repeat("a", 1<<20),
	} {
		if _, err := d.Put(t.Context(), id, strings.NewReader("x"), 0); err == nil {
			t.Errorf("Put(%.40q) succeeded", id)
		} else if len(err.Error()) > 500 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
		if _, err := d.Open(id, blob.Info{}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open(%.40q): %v, want fs.ErrNotExist", id, err)
		}
		if err := d.Remove(id); err != nil {
			t.Errorf("Remove(%.40q): %v", id, err)
		}
	}
	wantFiles(t, dir, 1)
}

// TestOpenFollowsNothing puts things in the place of contents that are not.
func TestOpenFollowsNothing(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, replace := range map[string]func(path string) error{
		"a link":      func(path string) error { return os.Symlink(secret, path) },
		"a FIFO":      func(path string) error { return unix.Mkfifo(path, 0o600) },
		"a directory": func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		id := newID()
		put(t, d, id, "x")
		var path string
		for _, f := range files(t, dir) {
			if filepath.Base(f) == id {
				path = f
			}
		}
		if err := errors.Join(os.Remove(path), replace(path)); err != nil {
			t.Fatal(err)
		}
		if b, err := read(t, d, id, infoOf("x")); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: read %q, %v", name, b, err)
		}
	}
}

func TestRemove(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	id := newID()
	put(t, d, id, "x")
	for range 2 {
		if err := d.Remove(id); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Open(id, blob.Info{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Remove: %v, want fs.ErrNotExist", err)
	}
	wantFiles(t, dir, 0)
}

// TestConcurrentUse stores, reads and removes from many goroutines; two that
// store under one id never both succeed.
func TestConcurrentUse(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	shared := newID()
	const users = 16
	type result struct {
		won bool
		err error
	}
	results := make(chan result)
	for n := range users {
		go func() {
			_, shareErr := d.Put(t.Context(), shared, strings.NewReader(fmt.Sprint(n)), 0)
			err := func() error {
				for range 20 {
					id, want := newID(), strings.Repeat(fmt.Sprint(n), 1000)
					if _, err := d.Put(t.Context(), id, strings.NewReader(want), 0); err != nil {
						return err
					}
					r, err := d.Open(id, infoOf(want))
					if err != nil {
						return err
					}
					got, err := io.ReadAll(r)
					if err := errors.Join(err, r.Close(), d.Remove(id)); err != nil || string(got) != want {
						return fmt.Errorf("%d bytes of %d: %w", len(got), len(want), err)
					}
				}
				return nil
			}()
			results <- result{shareErr == nil, err}
		}()
	}
	won := 0
	for range users {
		r := <-results
		if r.err != nil {
			t.Error(r.err)
		}
		if r.won {
			won++
		}
	}
	if won != 1 {
		t.Errorf("%d stored contents under one id, want 1", won)
	}
	wantFiles(t, dir, 1)
}

// TestMemoryIsFlat stores a large body, of which the heap sees no more than
// buffers.
func TestMemoryIsFlat(t *testing.T) {
	d := open(t, t.TempDir())
	const size = 256 << 20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := d.Put(t.Context(), newID(), io.LimitReader(zeros{}, size), 0); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 4<<20 {
		t.Errorf("storing %d bytes allocated %d", size, grown)
	}
}

func BenchmarkPut(b *testing.B) {
	for _, size := range []int64{1 << 10, 1 << 20, 64 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			d, err := blob.Open(b.TempDir(), nil)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(size)
			for b.Loop() {
				id := newID()
				if _, err := d.Put(b.Context(), id, io.LimitReader(zeros{}, size), 0); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := d.Remove(id); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// TestDamageIsNoticed: whatever was done to contents, and whether or not they were
// read before, they are an error and never other contents.
func TestDamageIsNoticed(t *testing.T) {
	const content = "some contents of a file"
	for name, damage := range map[string]func(path string) error{
		"a cut":        func(path string) error { return os.Truncate(path, 5) },
		"emptied":      func(path string) error { return os.Truncate(path, 0) },
		"too long":     func(path string) error { return os.Truncate(path, 100) },
		"another byte": func(path string) error { return os.WriteFile(path, []byte("some contents of a filE"), 0o600) },
		"another file": func(path string) error { return os.WriteFile(path+"x", []byte("SOME contents of a file"), 0o600) },
		"zeros": func(path string) error {
			return errors.Join(os.Truncate(path, 0), os.Truncate(path, int64(len(content))))
		},
		"the same times": func(path string) error { return sameTimes(path, "some contents of a filE") },
	} {
		for _, again := range []bool{false, true} {
			dir := t.TempDir()
			d := open(t, dir)
			id := newID()
			put(t, d, id, content)
			var path string
			for _, f := range files(t, dir) {
				if filepath.Base(f) == id {
					path = f
				}
			}
			if again { // another process, which has not written it
				d = open(t, dir)
			}
			if _, err := read(t, d, id, infoOf(content)); err != nil {
				t.Fatal(err)
			}
			if err := damage(path); err != nil {
				t.Fatal(err)
			}
			if name == "another file" {
				if err := os.Rename(path+"x", path); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				if got, err := read(t, d, id, infoOf(content)); !errors.Is(err, blob.ErrDamaged) {
					t.Errorf("%s: %q, %v; want ErrDamaged", name, got, err)
				}
			}
		}
	}
}

// sameTimes changes a file and then says that it was not.
func sameTimes(path, content string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		return err
	}
	return os.Chtimes(path, info.ModTime(), info.ModTime())
}
