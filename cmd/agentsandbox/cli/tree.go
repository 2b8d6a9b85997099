package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/agentsandbox/agentsandbox"
)

// localFile is a file to upload, and where below /workspace it belongs.
type localFile struct {
	local, place string
	// placed says that the place is more than the name of the file.
	placed bool
}

func (f localFile) as() agentsandbox.FileUpload {
	if f.placed {
		return agentsandbox.FileUpload{Path: f.place}
	}
	return agentsandbox.FileUpload{Filename: f.place}
}

// localFiles returns the file at a path, or the regular files of the directory there.
// Links in it are not followed, and directories of tools are left out. place is where
// it belongs; empty: at its name; "." puts what is in a directory right below
// /workspace.
func localFiles(local, place string) ([]localFile, error) {
	info, err := os.Stat(local)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		if place == "" {
			return []localFile{{local, filepath.Base(local), false}}, nil
		}
		return []localFile{{local, place, true}}, nil
	}
	if place == "" {
		whole, err := filepath.Abs(local)
		if err != nil {
			return nil, err
		}
		place = filepath.Base(whole)
	}
	var files []localFile
	err = filepath.WalkDir(local, func(p string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		below, err := filepath.Rel(local, p)
		if err != nil {
			return err
		}
		switch {
		case entry.IsDir() && p != local && toolDirectory(p):
			return fs.SkipDir
		case entry.Type().IsRegular():
			files = append(files, localFile{p, path.Join(place, filepath.ToSlash(below)), true})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s: has no files to upload", local)
	}
	return files, nil
}

func toolDirectory(dir string) bool {
	if agentsandbox.ToolDirectory(filepath.ToSlash(dir)) {
		return true
	}
	_, err := os.Lstat(filepath.Join(dir, agentsandbox.VirtualEnvironmentMark))
	return !errors.Is(err, fs.ErrNotExist)
}
