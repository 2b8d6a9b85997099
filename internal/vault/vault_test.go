package vault

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func open(t *testing.T, dir string) *Vault {
	t.Helper()
	v, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestWhatIsSealedIsOpenedByTheSameKeyAndLabel(t *testing.T) {
	dir := t.TempDir()
	v := open(t, dir)
	sealed := v.Seal([]byte("value"), "secrets of a")
	if bytes.Contains(sealed, []byte("value")) || bytes.Equal(sealed, v.Seal([]byte("value"), "secrets of a")) {
		t.Error("it can be read, or compared")
	}
	if plain, err := open(t, dir).Unseal(sealed, "secrets of a"); err != nil || string(plain) != "value" {
		t.Errorf("opened: %q, %v", plain, err)
	}
	if _, err := v.Unseal(sealed, "secrets of b"); !errors.Is(err, ErrNotOurs) {
		t.Errorf("another label: %v", err)
	}
	if _, err := open(t, t.TempDir()).Unseal(sealed, "secrets of a"); !errors.Is(err, ErrNotOurs) {
		t.Errorf("another key: %v", err)
	}
	for i := range sealed {
		damaged := bytes.Clone(sealed)
		damaged[i] ^= 1
		if _, err := v.Unseal(damaged, "secrets of a"); !errors.Is(err, ErrNotOurs) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
	}
	if _, err := v.Unseal(nil, ""); !errors.Is(err, ErrNotOurs) {
		t.Error(err)
	}
}

func TestATokenTellsNothing(t *testing.T) {
	dir := t.TempDir()
	v := open(t, dir)
	token := v.Token([]byte("port 80"), "ports")
	if again := open(t, dir).Token([]byte("port 80"), "ports"); again != token {
		t.Errorf("another time it is %q, not %q", again, token)
	}
	if len(token) != 43 || strings.Trim(token, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
		t.Errorf("%q does not stand in a path as it is", token)
	}
	for name, other := range map[string]string{
		"another's": open(t, t.TempDir()).Token([]byte("port 80"), "ports"), "another label": v.Token([]byte("port 80"), "x"),
		"another payload": v.Token([]byte("port 81"), "ports"), "the label cut elsewhere": v.Token([]byte("s\x00port 80"), "port"),
	} {
		if other == token {
			t.Errorf("%s: the same token", name)
		}
	}
}

func TestTheKeyIsItsOwnersAlone(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	info, err := os.Stat(filepath.Join(dir, File))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(filepath.Join(dir, File), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "must have 32 bytes") {
		t.Error(err)
	}
}
