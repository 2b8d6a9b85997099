package blob_test

import (
	"bytes"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/roottest"
)

// TestFullDisk fills a disk of 4 MiB: what does not fit is refused and leaves
// nothing, what is there can be read and removed, and then there is room.
func TestFullDisk(t *testing.T) {
	roottest.Need(t, "mounts a small file system")
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700,size=4m"); err != nil {
		t.Fatalf("mounting a small tmpfs: %v; this test must run as root, with the right to mount", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	d := open(t, dir)
	small := newID()
	put(t, d, small, "abc")

	large := bytes.Repeat([]byte("x"), 3<<20)
	held := newID()
	put(t, d, held, string(large))
	_, err := d.Put(t.Context(), newID(), bytes.NewReader(large), 0)
	if agentsandbox.CodeOf(err) != agentsandbox.CodeStorageFull {
		t.Fatalf("%v, want storage_full", err)
	}
	wantFiles(t, dir, 2)

	if got, err := read(t, d, small, infoOf("abc")); err != nil || string(got) != "abc" {
		t.Errorf("reading: %q, %v", got, err)
	}
	if err := d.Remove(held); err != nil {
		t.Fatal(err)
	}
	put(t, d, newID(), string(large))
}

// TestNoInodesLeft fills a disk with names instead of bytes.
func TestNoInodesLeft(t *testing.T) {
	roottest.Need(t, "mounts a small file system")
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700,nr_inodes=64"); err != nil {
		t.Fatalf("mounting a small tmpfs: %v; this test must run as root, with the right to mount", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	d := open(t, dir)
	for stored := 0; ; stored++ {
		_, err := d.Put(t.Context(), newID(), strings.NewReader("x"), 0)
		if err == nil && stored < 64 {
			continue
		}
		if agentsandbox.CodeOf(err) != agentsandbox.CodeStorageFull {
			t.Fatalf("after %d: %v, want storage_full", stored, err)
		}
		wantFiles(t, dir, stored)
		return
	}
}
