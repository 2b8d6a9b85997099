package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/agentsandbox/agentsandbox"
)

// fileOpener is what saving needs of a service.
type fileOpener interface {
	OpenFile(ctx context.Context, id string) (*agentsandbox.File, io.ReadCloser, error)
}

// saveAll downloads files that an execution made into a directory, each under
// its own name. It goes on after one that cannot be saved.
func (a *app) saveAll(service fileOpener, dir string, files []agentsandbox.File, overwrite bool) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return fmt.Errorf("--output-dir: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("--output-dir: %w", err)
	}
	defer func() { _ = root.Close() }()
	names := localNames(files)
	var errs []error
	for i, file := range files {
		if err := a.saveInto(service, root, names[i], file, overwrite); err != nil {
			errs = append(errs, fmt.Errorf("save %s: %w", filepath.Join(dir, names[i]), err))
			continue
		}
		a.note("saved %s (%s)", filepath.Join(dir, names[i]), sizeText(file.SizeBytes))
	}
	return errors.Join(errs...)
}

// localNames returns the name of each file below the output directory: its file
// name, or its whole path in the sandbox where two have the same file name, one
// in /workspace and one in /output. Names that would still be the same, or of which
// one is a directory of another, get a number.
func localNames(files []agentsandbox.File) []string {
	count := make(map[string]int)
	for _, f := range files {
		count[path.Clean(f.Filename)]++
	}
	names := make([]string, len(files))
	taken := make(map[string]bool) // names, and the directories above them
	isFile := make(map[string]bool)
	for i, f := range files {
		name := f.Filename
		if count[path.Clean(f.Filename)] > 1 && f.Path != "" {
			name = strings.TrimPrefix(f.Path, "/")
		}
		names[i] = name
		for n := 2; clashes(names[i], taken, isFile); n++ {
			names[i] = numbered(name, n)
		}
		isFile[folded(names[i])] = true
		for dir := folded(names[i]); dir != "." && dir != "/"; dir = path.Dir(dir) {
			taken[dir] = true
		}
	}
	return names
}

// folded is what two names have in common that are one on some file systems.
func folded(name string) string {
	if runtime.GOOS == "darwin" || runtime.GOOS == "windows" {
		name = strings.ToLower(name)
	}
	return path.Clean(name)
}

// clashes tells whether a name is in use, or below a file.
func clashes(name string, taken, isFile map[string]bool) bool {
	name = folded(name)
	if taken[name] {
		return true
	}
	for dir := path.Dir(name); dir != "." && dir != "/"; dir = path.Dir(dir) {
		if isFile[dir] {
			return true
		}
	}
	return false
}

// numbered puts a number before the extension of a name.
func numbered(name string, n int) string {
	dir, base := path.Split(name)
	ext := path.Ext(base)
	if ext == base {
		ext = ""
	}
	if dir != "" { // which may be what is in the way
		dir = fmt.Sprintf("%s-%d/", strings.TrimSuffix(dir, "/"), n)
	}
	return fmt.Sprintf("%s%s-%d%s", dir, strings.TrimSuffix(base, ext), n, ext)
}

// saveInto downloads one file. Its name comes out of a sandbox: os.Root keeps it
// inside the directory whatever it contains and whatever links are there.
func (a *app) saveInto(service fileOpener, root *os.Root, name string, file agentsandbox.File, overwrite bool) error {
	if !filepath.IsLocal(name) || strings.HasSuffix(name, "/") {
		return errors.New("the name leads out of the directory")
	}
	if err := root.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		return err
	}
	_, body, err := service.OpenFile(a.ctx, file.ID)
	if err != nil {
		return err
	}
	defer body.Close()
	if overwrite {
		return replace(root, name, body)
	}
	err = writeNew(root, name, body)
	if errors.Is(err, fs.ErrExist) {
		return errors.New("is already there; --overwrite replaces it")
	}
	return err
}

// writeNew writes a file that is not there yet, wholly or not at all. It never
// follows a link of that name.
func writeNew(root *os.Root, name string, body io.Reader) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, body)
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, root.Remove(name))
	}
	return nil
}

// replace writes a file under another name first, so that what is there stays
// until all has arrived, and a link that is there is replaced, not followed.
func replace(root *os.Root, name string, body io.Reader) error {
	temporary := filepath.Join(filepath.Dir(name), ".agentsandbox-"+rand.Text())
	if err := writeNew(root, temporary, body); err != nil {
		return err
	}
	if err := root.Rename(temporary, name); err != nil {
		return errors.Join(err, root.Remove(temporary))
	}
	return nil
}

// saveAs writes body to a path that the user chose, replacing what is there
// once all of it has arrived; "-" is standard output.
func (a *app) saveAs(target string, body io.Reader) error {
	if target == "" || target == "-" {
		return a.copyOut(body)
	}
	root, err := os.OpenRoot(filepath.Dir(target))
	if err != nil {
		return fmt.Errorf("save %s: %w", target, err)
	}
	defer func() { _ = root.Close() }()
	name := filepath.Base(target)
	if info, err := root.Stat(name); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("save %s: is there and not a regular file; name another", target)
	}
	if err := replace(root, name, body); err != nil {
		return fmt.Errorf("save %s: %w", target, err)
	}
	return nil
}
