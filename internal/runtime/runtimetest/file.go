package runtimetest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// special makes one of everything in the workspace.
const special = `
mkdir dir; echo in > dir/file; echo x > file
ln -s file link; ln -s nowhere dangling; ln -s /etc/passwd outside; ln -s dir dirlink; ln -s loop loop
mkfifo fifo
python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("socket")'`

// fileTests are about files by path.
var fileTests = map[string]func(*testing.T, *box){
	"File/write and read": func(t *testing.T, b *box) {
		info := b.put("/workspace/new/deep/file", "content")
		if info.Path != "/workspace/new/deep/file" || info.SizeBytes != 7 || info.Kind != agentsandbox.PathFile || info.Mode != 0o644 {
			t.Errorf("got %+v", info)
		}
		if got := b.get("/workspace/new/deep/file"); got != "content" {
			t.Errorf("got %q", got)
		}
		if out := b.must(bash("cat new/deep/file; echo more >> new/deep/file; chmod 755 new/deep/file; ls -A new/deep")); out != "contentfile\n" {
			t.Errorf("got %q", out)
		}
		if info = b.put("/workspace/./new//deep/../deep/file", ""); info.SizeBytes != 0 || info.Path != "/workspace/new/deep/file" || info.Mode != 0o755 {
			t.Errorf("a replaced file: %+v", info)
		}
		if got := b.get("/workspace/new/deep/file"); got != "" {
			t.Errorf("got %q", got)
		}
	},
	"File/large files stream both ways": func(t *testing.T, b *box) {
		const size = 64 << 20
		in := sha256.New()
		info, err := b.WriteFile(b.ctx(), "/workspace/large", io.TeeReader(io.LimitReader(pattern{}, size), in))
		if err != nil || info.SizeBytes != size {
			t.Fatalf("WriteFile: %+v, %v", info, err)
		}
		want := fmt.Sprintf("%x", in.Sum(nil))
		if out := b.must(bash("sha256sum < large")); out != want+"  -\n" {
			t.Errorf("in the sandbox: %q, want %q", out, want)
		}
		info, r, err := b.ReadFile(b.ctx(), "/workspace/large")
		if err != nil || info.SizeBytes != size {
			t.Fatalf("ReadFile: %+v, %v", info, err)
		}
		defer r.Close()
		if got := sum(t, sha256.New(), r); got != want {
			t.Errorf("read back: %s, want %s", got, want)
		}
	},
	"File/a body that fails leaves nothing": func(t *testing.T, b *box) {
		b.put("/workspace/kept", "old")
		broken := errors.New("the upload was cut")
		body := func() io.Reader {
			return io.MultiReader(strings.NewReader(strings.Repeat("x", 200000)), iotest.ErrReader(broken))
		}
		for _, path := range []string{"/workspace/kept", "/workspace/not", "/workspace/not/there"} {
			if _, err := b.WriteFile(b.ctx(), path, body()); !errors.Is(err, broken) {
				t.Errorf("WriteFile %s: %v", path, err)
			}
		}
		if got := b.names("/workspace"); !slices.Equal(got, []string{"kept"}) {
			t.Errorf("left: %q", got)
		}
		if got := b.get("/workspace/kept"); got != "old" {
			t.Errorf("got %q", got)
		}
	},
	"File/a cancelled write leaves nothing": func(t *testing.T, b *box) {
		ctx, cancel := context.WithCancel(b.ctx())
		r, w := io.Pipe()
		go func() {
			_, _ = w.Write([]byte("some"))
			cancel()
			for {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}()
		if _, err := b.WriteFile(ctx, "/workspace/file", r); !errors.Is(err, context.Canceled) {
			t.Errorf("WriteFile: %v", err)
		}
		r.Close()
		b.eventually("the temporary file goes", func() bool { return len(b.names("/workspace")) == 0 })
	},
	"File/only regular files are read and replaced": func(t *testing.T, b *box) {
		b.must(bash(special))
		for _, name := range []string{"dir", "link", "dangling", "outside", "dirlink", "loop", "fifo", "socket"} {
			if _, r, err := b.ReadFile(b.ctx(), "/workspace/"+name); !errors.Is(err, runtime.ErrNotRegular) {
				t.Errorf("ReadFile %s: %v, %v; want ErrNotRegular", name, r, err)
			}
			if _, err := b.WriteFile(b.ctx(), "/workspace/"+name, strings.NewReader("x")); !errors.Is(err, runtime.ErrNotRegular) {
				t.Errorf("WriteFile %s: %v, want ErrNotRegular", name, err)
			}
		}
		if _, err := b.WriteFile(b.ctx(), "/workspace/file/below", strings.NewReader("")); !errors.Is(err, runtime.ErrNotRegular) {
			t.Errorf("WriteFile below a file: %v, want ErrNotRegular", err)
		}
		if got := b.get("/workspace/dirlink/file"); got != "in\n" {
			t.Errorf("a link in the middle of a path: %q", got)
		}
		if out := b.must(bash("cat file; readlink link")); out != "x\nfile\n" {
			t.Errorf("afterwards: %q", out)
		}
	},
	"File/what is not there": func(t *testing.T, b *box) {
		b.put("/workspace/file", "")
		for _, path := range []string{"/workspace/none", "/workspace/none/below", "/workspace/file/below"} {
			_, _, readErr := b.ReadFile(b.ctx(), path)
			_, statErr := b.Stat(b.ctx(), path)
			_, listErr := b.List(b.ctx(), path, "", 10)
			for method, err := range map[string]error{"ReadFile": readErr, "Stat": statErr, "List": listErr, "Remove": b.Remove(b.ctx(), path)} {
				if !errors.Is(err, runtime.ErrNotExist) {
					t.Errorf("%s %s: %v, want ErrNotExist", method, path, err)
				}
			}
		}
	},
	"File/paths that cannot be": func(t *testing.T, b *box) {
		for _, path := range []string{"", "relative", "/nul\x00", "/" + strings.Repeat("long/", 1000)} {
			_, _, readErr := b.ReadFile(b.ctx(), path)
			_, writeErr := b.WriteFile(b.ctx(), path, strings.NewReader(""))
			_, statErr := b.Stat(b.ctx(), path)
			_, listErr := b.List(b.ctx(), path, "", 10)
			for method, err := range map[string]error{"ReadFile": readErr, "WriteFile": writeErr, "Stat": statErr, "List": listErr, "Remove": b.Remove(b.ctx(), path)} {
				if !errors.Is(err, runtime.ErrInvalid) {
					t.Errorf("%s %.20q: %v, want ErrInvalid", method, path, err)
				}
			}
		}
		if _, err := b.Stat(b.ctx(), "/workspace/"+strings.Repeat("n", 300)); !errors.Is(err, runtime.ErrInvalid) {
			t.Errorf("a long name: %v, want ErrInvalid", err)
		}
		if err := b.Remove(b.ctx(), "/"); !errors.Is(err, runtime.ErrInvalid) {
			t.Errorf("Remove /: %v, want ErrInvalid", err)
		}
		for _, limit := range []int{0, -1, 1001} {
			if _, err := b.List(b.ctx(), "/workspace", "", limit); !errors.Is(err, runtime.ErrInvalid) {
				t.Errorf("List with limit %d: %v, want ErrInvalid", limit, err)
			}
		}
	},
	"File/files of the kernel are refused": func(t *testing.T, b *box) {
		b.must(bash("ln -s /proc proc; ln -s /proc/self/fd fds; mkdir deep; ln -s ../proc deep/up; ln -s /sys sys; ln -s /dev dev; ln -s /dev/shm shm; echo x > file"))
		for _, p := range []string{
			"/proc", "/proc/self/environ", "/proc/1/status", "/sys", "/sys/kernel", "/dev", "/dev/null", "/workspace/../proc/version",
			"/workspace/proc/version", "/workspace/proc/self", "/workspace/fds/0", "/workspace/deep/up/1/cmdline", "/workspace/sys/kernel",
			"/workspace/dev/zero", "/workspace/dev/new",
		} {
			for what, do := range map[string]func() error{
				"ReadFile":  func() error { _, _, err := b.ReadFile(b.ctx(), p); return err },
				"WriteFile": func() error { _, err := b.WriteFile(b.ctx(), p, strings.NewReader("x")); return err },
				"Stat":      func() error { _, err := b.Stat(b.ctx(), p); return err },
				"List":      func() error { _, err := b.List(b.ctx(), p, "", 10); return err },
				"Remove":    func() error { return b.Remove(b.ctx(), p) },
			} {
				if err := do(); !errors.Is(err, runtime.ErrSystemPath) {
					t.Errorf("%s %s: %v, want ErrSystemPath", what, p, err)
				}
			}
		}
		b.put("/workspace/processes", "a name that only looks like it")
		if got := b.get("/workspace/processes"); got == "" {
			t.Error("it is empty")
		}
		if info, err := b.Stat(b.ctx(), "/workspace/proc"); err != nil || info.Kind != agentsandbox.PathSymlink {
			t.Errorf("a link to it, itself: %+v, %v", info, err)
		}
	},
	"File/stat": func(t *testing.T, b *box) {
		b.must(bash(special + "\nchmod 640 file; touch -d '2001-02-03 04:05:06 UTC' file; touch -d @-100 dir/file; touch -d 3000-01-01 fifo"))
		for name, want := range map[string]agentsandbox.PathKind{
			"file": agentsandbox.PathFile, "dir": agentsandbox.PathDirectory, "link": agentsandbox.PathSymlink,
			"dangling": agentsandbox.PathSymlink, "fifo": agentsandbox.PathOther, "socket": agentsandbox.PathOther,
		} {
			info, err := b.Stat(b.ctx(), "/workspace/"+name)
			if err != nil || info.Kind != want || info.Path != "/workspace/"+name {
				t.Errorf("%s: %+v, %v; want %s", name, info, err, want)
			}
			switch {
			case name == "file" && (info.SizeBytes != 2 || info.Mode != 0o640 || info.ModifiedAt.Format("2006-01-02 15:04:05") != "2001-02-03 04:05:06"):
				t.Errorf("got %+v", info)
			case name == "link" && info.Target != "file", name != "link" && name != "dangling" && info.Target != "":
				t.Errorf("got %+v", info)
			}
		}
		if _, err := b.Stat(b.ctx(), "/workspace/dir/file"); err != nil {
			t.Errorf("a time before 1970: %v", err)
		}
	},
	"File/list in pages": func(t *testing.T, b *box) {
		b.must(python("for i in range(2500): open(f'f{i:04}', 'w')"))
		var got []string
		after, pages := "", 0
		for {
			page, err := b.List(b.ctx(), "/workspace", after, 1000)
			if err != nil {
				t.Fatal(err)
			}
			pages++
			for _, e := range page.Entries {
				got = append(got, strings.TrimPrefix(e.Path, "/workspace/"))
			}
			if after = page.Next; after == "" {
				break
			}
		}
		if len(got) != 2500 || pages != 3 || !slices.IsSorted(got) || got[0] != "f0000" || got[2499] != "f2499" {
			t.Errorf("%d names in %d pages", len(got), pages)
		}
		page, err := b.List(b.ctx(), "/workspace", "f1234x", 2)
		if err != nil || len(page.Entries) != 2 || page.Entries[0].Path != "/workspace/f1235" || page.Next != "f1236" {
			t.Errorf("got %+v, %v", page, err)
		}
		if page, err = b.List(b.ctx(), "/workspace", "f2499", 10); err != nil || len(page.Entries) != 0 || page.Next != "" {
			t.Errorf("after the last: %+v, %v", page, err)
		}
	},
	"File/list shows what is there": func(t *testing.T, b *box) {
		b.must(bash(special))
		want := []string{"dangling", "dir", "dirlink", "fifo", "file", "link", "loop", "outside", "socket"}
		if got := b.names("/workspace"); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		for _, name := range []string{"file", "link", "dirlink", "fifo", "dangling"} {
			if page, err := b.List(b.ctx(), "/workspace/"+name, "", 10); !errors.Is(err, runtime.ErrNotRegular) {
				t.Errorf("List %s: %+v, %v; want ErrNotRegular", name, page, err)
			}
		}
	},
	"File/any name": func(t *testing.T, b *box) {
		for _, name := range oddNames {
			b.put("/workspace/"+name, name)
		}
		if got, want := b.names("/workspace"), slices.Sorted(slices.Values(oddNames)); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		out := b.must(python(fmt.Sprintf("import os\nprint(sorted(os.listdir(b'.')) == sorted(%s))", pythonNames())))
		if out != "True\n" {
			t.Errorf("the sandbox has other names: %q", out)
		}
		for _, name := range oddNames {
			if got := b.get("/workspace/" + name); got != name {
				t.Errorf("%q holds %q", name, got)
			}
			if err := b.Remove(b.ctx(), "/workspace/"+name); err != nil {
				t.Errorf("Remove %q: %v", name, err)
			}
		}
		if got := b.names("/workspace"); len(got) != 0 {
			t.Errorf("left: %q", got)
		}
	},
	"File/remove": func(t *testing.T, b *box) {
		b.must(bash(special + "\nmkdir -p tree/a/b/c tree/d; touch tree/a/{1..50} tree/a/b/c/x; ln -s ../../dir tree/d/link; mkdir many; touch many/{1..3000}"))
		for _, name := range []string{"link", "dirlink", "outside", "fifo", "socket", "tree", "many"} {
			if err := b.Remove(b.ctx(), "/workspace/"+name); err != nil {
				t.Errorf("Remove %s: %v", name, err)
			}
		}
		if got := b.names("/workspace"); !slices.Equal(got, []string{"dangling", "dir", "file", "loop"}) {
			t.Errorf("left: %q", got)
		}
		if got := b.get("/workspace/dir/file"); got != "in\n" {
			t.Errorf("behind the links: %q", got)
		}
	},
	"File/reading can be given up": func(t *testing.T, b *box) {
		b.must(bash("truncate -s 100M large"))
		for range 20 {
			_, r, err := b.ReadFile(b.ctx(), "/workspace/large")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
			r.Close()
		}
		ctx, cancel := context.WithCancel(b.ctx())
		_, r, err := b.ReadFile(ctx, "/workspace/large")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		cancel()
		if _, err := io.Copy(io.Discard, r); !errors.Is(err, context.Canceled) {
			t.Errorf("reading after the cancellation: %v", err)
		}
		b.put("/workspace/other", "fine")
	},
}

// pattern is a reader without end whose bytes do not repeat with any block.
type pattern struct{}

func (pattern) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(i*7 + i>>8 + len(b))
	}
	return len(b), nil
}

func sum(t *testing.T, h hash.Hash, r io.Reader) string {
	t.Helper()
	if _, err := io.Copy(h, r); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}
