package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestAdminKeyRoundTrip(t *testing.T) {
	dir := t.TempDir()
	if _, err := ReadAdminKey(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("reading none: %v", err)
	}
	for _, key := range []string{"asbx_first", "asbx_second"} {
		if err := WriteAdminKey(dir, key); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadAdminKey(dir); err != nil || got != key {
			t.Fatalf("read %q, %v; want %q", got, err, key)
		}
	}
	info, err := os.Stat(filepath.Join(dir, AdminKeyFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v, %v", info.Mode(), err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	if err := WriteAdminKey(dir, "two words"); err == nil {
		t.Error("a key that fits no header was written")
	}
}

func TestAdminKeyThatOthersCouldHaveSeenOrMadeIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		make func(path string) error
		want string
	}{
		"readable by others": {func(p string) error { return os.WriteFile(p, []byte("asbx_k\n"), 0o644) }, "0644"},
		"a link": {func(p string) error {
			if err := os.WriteFile(p+".real", []byte("asbx_k\n"), 0o600); err != nil {
				return err
			}
			return os.Symlink(p+".real", p)
		}, "symbolic link"},
		"a FIFO":      {func(p string) error { return syscall.Mkfifo(p, 0o600) }, "not a regular file"},
		"empty":       {func(p string) error { return os.WriteFile(p, []byte("\n"), 0o600) }, "is empty"},
		"not a key":   {func(p string) error { return os.WriteFile(p, []byte("a b\n"), 0o600) }, "printable ASCII"},
		"a long file": {func(p string) error { return os.WriteFile(p, make([]byte, 4096), 0o600) }, "at most"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := test.make(filepath.Join(dir, AdminKeyFile)); err != nil {
				t.Fatal(err)
			}
			_, err := ReadAdminKey(dir)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("the error is %v, without %q", err, test.want)
			}
		})
	}
}
