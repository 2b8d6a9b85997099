package erofs

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	reader "github.com/erofs/go-erofs"
)

const testTime = 1735689600

// describe gives each entry as a string: kind, mode, owner, links and content.
func describe(t *testing.T, image fs.FS) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := fs.WalkDir(image, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		stat := info.Sys().(*reader.Stat)
		line := fmt.Sprintf("%v %d:%d links=%d", stat.Mode, stat.UID, stat.GID, stat.Nlink)
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := fs.ReadLink(image, name)
			if err != nil {
				return err
			}
			line += " -> " + target
		case info.Mode().IsRegular():
			content, err := fs.ReadFile(image, name)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %x", len(content), sha256.Sum256(content))
			if len(content) > 0 && stat.InodeLayout != layoutPlain {
				t.Errorf("%s: has layout %d: its content cannot be mapped", name, stat.InodeLayout)
			}
		}
		if stat.Mtime != testTime {
			t.Errorf("%s: modified at %d, want %d", name, stat.Mtime, testTime)
		}
		if stat.Ino == 0 {
			t.Errorf("%s: has inode number 0", name)
		}
		all[name] = line
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func regular(mode string, owner string, links int, content []byte) string {
	return fmt.Sprintf("%s %s links=%d %d %x", mode, owner, links, len(content), sha256.Sum256(content))
}

func create(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image.erofs"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func closed(t *testing.T, w *Writer, f *os.File) fs.FS {
	t.Helper()
	summary, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() != summary.SizeBytes || summary.SizeBytes%blockSize != 0 {
		t.Fatalf("the file has %d bytes, Close said %d", info.Size(), summary.SizeBytes)
	}
	fsck(t, f.Name())
	image, err := reader.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// fsck has the format's own tool look at the image where it is installed.
func fsck(t *testing.T, name string) {
	t.Helper()
	tool, err := exec.LookPath("fsck.erofs")
	if err != nil {
		t.Log("fsck.erofs (package erofs-utils) is not installed: the image is checked by the Go reader only")
		return
	}
	if out, err := exec.Command(tool, "--extract", name).CombinedOutput(); err != nil {
		t.Fatalf("fsck.erofs: %v\n%s", err, out)
	}
}

// sample is a tree with everything that the format treats differently.
func sample(t *testing.T) (dir string, contents map[string][]byte) {
	t.Helper()
	dir = t.TempDir()
	contents = map[string][]byte{
		"empty":                      nil,
		"small":                      []byte("x"),
		"block":                      bytes.Repeat([]byte("b"), blockSize),
		"block+1":                    bytes.Repeat([]byte("c"), blockSize+1),
		"large":                      bytes.Repeat([]byte("0123456789abcdef"), 5<<16),
		"dir/deep/er/f":              []byte("deep"),
		"!before-dot":                []byte("names sort before the dots, too"),
		"name \n\"ö\xff\\":           []byte("any bytes"),
		strings.Repeat("n", maxName): []byte("long name"),
	}
	for i := range 1000 {
		contents[fmt.Sprintf("many/%0*d", 20+i%50, i)] = []byte(fmt.Sprint(i))
	}
	for name, content := range contents {
		full := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(full), 0o755))
		must(t, os.WriteFile(full, content, 0o644))
	}
	must(t, os.Chmod(filepath.Join(dir, "small"), 0o751|os.ModeSetuid|os.ModeSetgid))
	must(t, os.Mkdir(filepath.Join(dir, "sticky"), 0o777))
	must(t, os.Chmod(filepath.Join(dir, "sticky"), 0o777|os.ModeSticky))
	must(t, os.Symlink("/etc/passwd", filepath.Join(dir, "absolute")))
	must(t, os.Symlink(strings.Repeat("l", 3000), filepath.Join(dir, "long-link")))
	must(t, os.Link(filepath.Join(dir, "large"), filepath.Join(dir, "dir", "hard")))
	must(t, os.Chmod(dir, 0o750))
	return dir, contents
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func writeTree(t *testing.T, dir string) *os.File {
	t.Helper()
	root, err := os.OpenRoot(dir)
	must(t, err)
	defer root.Close()
	f := create(t)
	w := NewWriter(f, testTime)
	must(t, w.Tree(t.Context(), root))
	closed(t, w, f)
	return f
}

func TestTreeRoundTrip(t *testing.T) {
	dir, contents := sample(t)
	f := writeTree(t, dir)
	image, err := reader.Open(f)
	must(t, err)
	got := describe(t, image)

	owner := fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid())
	want := map[string]string{
		"sticky":    "dtrwxrwxrwx " + owner + " links=2",
		"absolute":  "Lrwxrwxrwx " + owner + " links=1 -> /etc/passwd",
		"long-link": "Lrwxrwxrwx " + owner + " links=1 -> " + strings.Repeat("l", 3000),
		".":         "drwxr-x--- " + owner + " links=5",
		"dir":       "drwxr-xr-x " + owner + " links=3",
		"dir/deep":  "drwxr-xr-x " + owner + " links=3",
		"dir/hard":  regular("-rw-r--r--", owner, 2, contents["large"]),
		"small":     regular("-rwxr-x--x", owner, 1, contents["small"]),
	}
	for name, content := range contents {
		if want[name] == "" {
			links := 1
			if name == "large" {
				links = 2
			}
			want[name] = regular("-rw-r--r--", owner, links, content)
		}
	}
	for name, line := range want {
		if got[name] != line {
			t.Errorf("%q:\n got %s\nwant %s", name, got[name], line)
		}
	}
	if len(got) != len(contents)+9 {
		t.Errorf("the image has %d entries, want %d", len(got), len(contents)+9)
	}
}

func TestSameTreeSameBytes(t *testing.T) {
	dir, _ := sample(t)
	a, err := os.ReadFile(writeTree(t, dir).Name())
	must(t, err)
	b, err := os.ReadFile(writeTree(t, dir).Name())
	must(t, err)
	if !bytes.Equal(a, b) {
		t.Error("two images of one tree differ")
	}
}

func TestSuperBlockChecksum(t *testing.T) {
	dir, _ := sample(t)
	image, err := os.ReadFile(writeTree(t, dir).Name())
	must(t, err)
	block := bytes.Clone(image[superOffset:blockSize])
	stored := binary.LittleEndian.Uint32(block[4:])
	binary.LittleEndian.PutUint32(block[4:], 0)
	if sum := ^crc32.Checksum(block, crc32.MakeTable(crc32.Castagnoli)); sum != stored {
		t.Errorf("checksum %#x, want %#x", stored, sum)
	}
	if blocks := binary.LittleEndian.Uint32(block[36:]); int(blocks)*blockSize != len(image) {
		t.Errorf("the super block counts %d blocks, the file has %d bytes", blocks, len(image))
	}
}

func TestExtend(t *testing.T) {
	dir, contents := sample(t)
	base := writeTree(t, dir)
	baseImage, err := reader.Open(base)
	must(t, err)
	before := describe(t, baseImage)

	f := create(t)
	w, err := Extend(f, base, "digest", testTime)
	must(t, err)
	added := bytes.Repeat([]byte("agent"), 3000)
	must(t, w.Dir("/usr", Attr{Mode: 0o755}))
	must(t, w.File("/usr/agent", Attr{Mode: 0o755, UID: 7, GID: 8}, int64(len(added)), bytes.NewReader(added)))
	must(t, w.File("/small", Attr{Mode: 0o600}, 3, strings.NewReader("new")))
	after := describe(t, closed(t, w, f))

	before["usr"] = "drwxr-xr-x 0:0 links=2"
	before["usr/agent"] = regular("-rwxr-xr-x", "7:8", 1, added)
	before["small"] = regular("-rw-------", "0:0", 1, []byte("new"))
	before["."] = strings.Replace(before["."], "links=5", "links=6", 1)
	for name, line := range before {
		if after[name] != line {
			t.Errorf("%q:\n got %s\nwant %s", name, after[name], line)
		}
	}
	if len(after) != len(before) || len(after) < len(contents) {
		t.Errorf("the image has %d entries, want %d", len(after), len(before))
	}
}

func TestExtendByNothing(t *testing.T) {
	dir, _ := sample(t)
	base := writeTree(t, dir)
	f := create(t)
	w, err := Extend(f, base, "digest", testTime)
	must(t, err)
	closed(t, w, f)
	a, err := os.ReadFile(base.Name())
	must(t, err)
	b, err := os.ReadFile(f.Name())
	must(t, err)
	if !bytes.Equal(a, b) {
		t.Error("an image extended by nothing differs from its base")
	}
}

func TestDigest(t *testing.T) {
	digest := func(base, content string) string {
		f := create(t)
		w := NewWriter(f, testTime)
		w.sum.Write([]byte(base))
		must(t, w.File("/f", Attr{Mode: 0o644}, int64(len(content)), strings.NewReader(content)))
		summary, err := w.Close()
		must(t, err)
		return summary.Digest
	}
	first := digest("", "content")
	if again := digest("", "content"); again != first {
		t.Errorf("two digests of one content: %s and %s", first, again)
	}
	if first == digest("", "Content") || first == digest("base", "content") {
		t.Error("other content, or another base, has the same digest")
	}
}

func TestRefusals(t *testing.T) {
	attr := Attr{Mode: 0o644}
	file := func(name string, size int64, content string) func(*Writer) error {
		return func(w *Writer) error { return w.File(name, attr, size, strings.NewReader(content)) }
	}
	cases := map[string]struct {
		add  func(*Writer) error
		want string
	}{
		"short file":       {file("/f", 5, "1234"), "4 bytes where 5 were announced"},
		"long file":        {file("/f", 3, "1234"), "more than the 3 bytes"},
		"relative path":    {file("f", 0, ""), "clean absolute path"},
		"path with dots":   {file("/etc/../f", 0, ""), "clean absolute path"},
		"root":             {file("/", 0, ""), "clean absolute path"},
		"no directory":     {file("/none/f", 0, ""), `no "none"`},
		"below a link":     {file("/link/f", 0, ""), "not a directory"},
		"over a directory": {file("/etc", 0, ""), "another kind"},
		"long name":        {file("/"+strings.Repeat("n", 256), 0, ""), "255 bytes"},
		"empty target":     {func(w *Writer) error { return w.Symlink("/l", "", attr) }, "1 to"},
		"long target":      {func(w *Writer) error { return w.Symlink("/l", strings.Repeat("t", 4096), attr) }, "1 to"},
		"directory over a file": {func(w *Writer) error {
			must(t, w.File("/f", attr, 0, strings.NewReader("")))
			return w.Dir("/f", attr)
		}, "another kind"},
		"link to a directory": {func(w *Writer) error { return w.Link("/l", "/etc") }, "not a regular file"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := NewWriter(create(t), testTime)
			must(t, w.Dir("/etc", Attr{Mode: 0o755}))
			must(t, w.Symlink("/link", "etc", attr))
			err := c.add(w)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got error %v, want one with %q", err, c.want)
			}
			if _, err := w.Close(); err == nil {
				t.Error("a failed writer made an image")
			}
		})
	}
}

func TestExtendRefusesForeignImage(t *testing.T) {
	foreign := create(t)
	_, err := io.Copy(foreign, bytes.NewReader(make([]byte, 2*blockSize)))
	must(t, err)
	if _, err := Extend(create(t), foreign, "", testTime); err == nil || !strings.Contains(err.Error(), "not an image of this program") {
		t.Errorf("got error %v", err)
	}
}
