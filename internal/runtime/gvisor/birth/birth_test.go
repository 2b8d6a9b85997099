package birth

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestMain(m *testing.M) {
	switch {
	case os.Args[0] != newborn:
		os.Exit(m.Run())
	case slices.Contains(os.Args, "--setup-root=false"):
		os.Exit(report())
	default:
		Main()
	}
}

// handOver makes a descriptor that nobody else closes, as the process finds it.
func handOver(t *testing.T, f *os.File) int {
	t.Helper()
	fd, err := syscall.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	return fd
}

func devNull(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestOrders(t *testing.T) {
	group, err := os.Create(filepath.Join(t.TempDir(), "tasks"))
	if err != nil {
		t.Fatal(err)
	}
	path := group.Name()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(write, "--cpu-num=3\n--total-memory=7"); err != nil {
		t.Fatal(err)
	}
	write.Close()
	o, err := open([]string{
		"runsc-sandbox", "boot", "--setup-root",
		fmt.Sprintf("--pass-fd=%d:%d", handOver(t, group), GroupFD+1),
		fmt.Sprintf("--pass-fd=%d:3", handOver(t, devNull(t))),
		fmt.Sprintf("--pass-fd=%d:%d", handOver(t, devNull(t)), LinkFD),
		fmt.Sprintf("--pass-fd=%d:%d", handOver(t, read), ArgumentsFD),
		fmt.Sprintf("--pass-fd=%d:%d", handOver(t, devNull(t)), ProgramFD),
		"the-id",
	})
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(ConversationFD)
	defer syscall.Close(KeptLinkFD)
	defer syscall.Close(o.program)
	if err := o.join(); err != nil {
		t.Fatal(err)
	}
	extra, err := o.readArguments()
	if err != nil {
		t.Fatal(err)
	}
	got := withExtra(o.args, extra)
	want := []string{"runsc-sandbox", "boot", "--setup-root", "--pass-fd=512:3", "--cpu-num=3", "--total-memory=7", "the-id"}
	if !slices.Equal(got, want) {
		t.Errorf("arguments %q", got)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "0" {
		t.Errorf("the group got %q, %v", b, err)
	}
}

func TestOrdersThatCannotBeFollowed(t *testing.T) {
	program := func() string { return fmt.Sprintf("--pass-fd=%d:%d", handOver(t, devNull(t)), ProgramFD) }
	t.Run("no program", func(t *testing.T) {
		if _, err := open([]string{newborn, "boot", "id"}); err == nil {
			t.Error("a process without a program goes on")
		}
	})
	t.Run("two files for the guest", func(t *testing.T) {
		defer syscall.Close(ConversationFD)
		a, b := handOver(t, devNull(t)), handOver(t, devNull(t))
		defer syscall.Close(b)
		if _, err := open([]string{newborn, "boot", program(), fmt.Sprintf("--pass-fd=%d:3", a), fmt.Sprintf("--pass-fd=%d:4", b), "id"}); err == nil {
			t.Error("one of two files was lost")
		}
	})
	t.Run("a group that cannot be joined", func(t *testing.T) {
		readOnly := fmt.Sprintf("--pass-fd=%d:%d", handOver(t, devNull(t)), GroupFD)
		o, err := open([]string{newborn, "boot", program(), readOnly, "id"})
		if err != nil {
			t.Fatal(err)
		}
		if err := o.join(); err == nil {
			t.Error("a process that could not join its group goes on")
		}
	})
	t.Run("arguments without an end", func(t *testing.T) {
		f, err := os.Create(filepath.Join(t.TempDir(), "arguments"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(strings.Repeat("x", maxArguments)); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		o := orders{arguments: handOver(t, f)}
		if args, err := o.readArguments(); err == nil {
			t.Errorf("cut off, and not refused: %d", len(args))
		}
	})
}
