package spool_test

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
	"github.com/agentsandbox/agentsandbox/internal/spool"
)

const id = "exe_a"

func open(t *testing.T, path string) *spool.Dir {
	t.Helper()
	d, err := spool.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func entry(seq uint64, out, err string, changed ...string) spool.Entry {
	e := spool.Entry{Stdout: []byte(out), Stderr: []byte(err), Progress: runtime.Progress{Sequence: seq, Stdout: int64(seq * 10), Stderr: int64(seq)}}
	for _, path := range changed {
		e.Progress.Changed = append(e.Progress.Changed, agentsandbox.PathInfo{Path: path, Kind: agentsandbox.PathFile, SizeBytes: 3})
	}
	return e
}

func check(t *testing.T, d *spool.Dir, want spool.Entry) {
	t.Helper()
	got, err := d.Read(id)
	if err != nil || string(got.Stdout) != string(want.Stdout) || string(got.Stderr) != string(want.Stderr) || !reflect.DeepEqual(got.Progress, want.Progress) {
		t.Fatalf("got %+v, %v\nwant %+v", got, err, want)
	}
}

func TestEntriesAddUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "spool")
	d := open(t, path)
	check(t, d, spool.Entry{})
	for _, e := range []spool.Entry{entry(3, "one\x00\xff", ""), entry(7, "", "two", "/workspace/\xffa"), entry(9, "three", "", "/workspace/b")} {
		if err := d.Append(id, e); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Append("exe_other", entry(1, "other", "")); err != nil {
		t.Fatal(err)
	}
	d = open(t, path) // as a later process
	got, err := d.Read(id)
	if err != nil || string(got.Stdout) != "one\x00\xffthree" || string(got.Stderr) != "two" || got.Progress.Sequence != 9 || len(got.Progress.Changed) != 2 {
		t.Fatalf("got %+v, %v", got, err)
	}
	if err := d.Sweep(func(name string) bool { return name != id }); err != nil {
		t.Fatal(err)
	}
	check(t, d, spool.Entry{})
	if other, err := d.Read("exe_other"); err != nil || string(other.Stdout) != "other" {
		t.Errorf("%+v, %v", other, err)
	}
	for range 2 {
		if err := d.Remove("exe_other"); err != nil {
			t.Error(err)
		}
	}
}

// What a death in the middle of an append leaves was never reported as there.
func TestTornAndDamagedFrames(t *testing.T) {
	whole := t.TempDir()
	d := open(t, whole)
	first, second := entry(1, "first", "e"), entry(2, "second", "")
	var length int // of the first frame
	for _, e := range []spool.Entry{first, second} {
		if err := d.Append(id, e); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(filepath.Join(whole, id)); err == nil && length == 0 {
			length = int(info.Size())
		}
	}
	text, err := os.ReadFile(filepath.Join(whole, id))
	if err != nil {
		t.Fatal(err)
	}
	for cut := range text {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, id), text[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := open(t, dir).Read(id)
		if err != nil || cut < length && len(got.Stdout) != 0 || cut >= length && string(got.Stdout) != "first" {
			t.Fatalf("cut at %d: %+v, %v", cut, got, err)
		}
		damaged := bytes.Clone(text)
		damaged[cut] ^= 1
		if err := os.WriteFile(filepath.Join(dir, id), damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err = open(t, dir).Read(id)
		if err != nil || cut < length && len(got.Stdout) != 0 || cut >= length && string(got.Stdout) != "first" {
			t.Fatalf("damaged at %d: %+v, %v", cut, got, err)
		}
	}
}

func TestNamesOutsideAreRefused(t *testing.T) {
	d := open(t, t.TempDir())
	for _, bad := range []string{"", "..", "../x", "a/b", ".hidden", strings.Repeat("x", 200)} {
		if d.Append(bad, spool.Entry{}) == nil || d.Remove(bad) == nil {
			t.Errorf("%q was taken", bad)
		}
		if _, err := d.Read(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700,size=1m"); err != nil {
		t.Fatalf("mounting a small tmpfs: %v; this test must run as root, with the right to mount", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	d := open(t, dir)
	small := entry(1, "small", "")
	if err := d.Append(id, small); err != nil {
		t.Fatal(err)
	}
	if err := d.Append(id, entry(2, strings.Repeat("x", 2<<20), "")); err == nil {
		t.Fatal("2 MiB went onto a disk of 1 MiB")
	}
	check(t, d, small)
	next := entry(3, "next", "")
	if err := d.Append(id, next); err != nil {
		t.Fatal(err)
	}
	next.Stdout = []byte("smallnext")
	check(t, d, next)
}
