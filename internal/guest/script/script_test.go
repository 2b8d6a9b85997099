package script

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/guest/rawio"
)

func TestScriptsComeAndGo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "scripts")
	if err := os.MkdirAll(filepath.Join(dir, "7", "of an earlier agent"), 0o755); err != nil {
		t.Fatal(err)
	}
	d, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	left := func(want int) {
		t.Helper()
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != want {
			t.Errorf("%d scripts, %v, want %d", len(entries), err, want)
		}
	}
	left(0)
	first, err := d.New(".py")
	if err != nil {
		t.Fatal(err)
	}
	second, err := d.New(".py")
	if err != nil || first.Path() == second.Path() || filepath.Base(first.Path()) != "__script__.py" {
		t.Fatalf("%v, %s and %s", err, first.Path(), second.Path())
	}
	// Where there is no stage, a run sees the file itself, and is forked as it is.
	if first.Name() != first.Path() {
		t.Errorf("the script is called %s", first.Name())
	}
	if pid, err := first.Fork(func() (int, error) { return 5, nil }); pid != 5 || err != nil {
		t.Error(pid, err)
	}
	before, _ := os.Stat(first.Path())
	for _, code := range []string{"a longer one", "short"} {
		if err := first.Write([]byte(code)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(first.Path()); string(got) != code {
			t.Errorf("%q, %v", got, err)
		}
	}
	// It may be mounted, so it stays the same file.
	if after, _ := os.Stat(first.Path()); !os.SameFile(before, after) {
		t.Error("writing has made another file")
	}
	if err := rawio.WriteFile(first.Beside("settings"), unix.O_CREAT|unix.O_EXCL, nil); err != nil {
		t.Fatal(err)
	}
	second.Remove()
	left(1)
	os.Remove(first.Beside("settings"))
	first.Remove()
	left(0)
}
