package rawio

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

func TestNamesOfADirectory(t *testing.T) {
	dir := t.TempDir()
	var want []string
	for i := range 3000 { // more than one buffer of them
		name := "a-name-that-takes-some-room-" + strconv.Itoa(i)
		if err := WriteFile(filepath.Join(dir, name), unix.O_CREAT|unix.O_EXCL, []byte("x")); err != nil {
			t.Fatal(err)
		}
		want = append(want, name)
	}
	fd, err := OpenDirectory(unix.AT_FDCWD, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var got []string
	if err := ReadNames(fd, func(name string) bool { got = append(got, name); return true }); err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%d names, want %d", len(got), len(want))
	}
}

func TestLinksAreNotFollowed(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if fd, err := OpenDirectory(unix.AT_FDCWD, link); err == nil {
		unix.Close(fd)
		t.Error("a link was opened as a directory")
	}
	if err := WriteFile(link, unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, nil); !errors.Is(err, unix.EEXIST) {
		t.Errorf("a file was written over a link: %v", err)
	}
}
