package agent

import (
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/guest"
)

// What looking for changed files may cost, once before and once after a run:
// the user can make directories of any size.
const (
	walkEntries   = 200_000
	walkNameBytes = 16 << 20
	walkDepth     = 256
	walkTime      = 10 * time.Second // or less, if the request says so
)

// version tells two states of a file apart. The user can set the other times of
// a file at will, but not ctime.
type version struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
}

func versionOf(st *unix.Stat_t) version {
	return version{dev: st.Dev, ino: st.Ino, size: st.Size, mtime: st.Mtim, ctime: st.Ctim}
}

// index is what the directories of a run held before it.
type index struct {
	files map[string]version
	// partial says that not everything was looked at, and taken when: then a
	// file that is not in the index is new if it changed since.
	partial bool
	taken   time.Time
}

// isNew tells whether a file was made or changed since.
func (ix *index) isNew(p string, st *unix.Stat_t) bool {
	if old, ok := ix.files[p]; ok {
		return old != versionOf(st)
	}
	return !ix.partial || !time.Unix(st.Ctim.Unix()).Before(ix.taken)
}

// snapshotFiles remembers what the directories of a run hold.
func (a *Agent) snapshotFiles(req *guest.RunRequest) *index {
	ix := &index{files: map[string]version{}, taken: time.Now()}
	dirs := collectDirs(req)
	if len(dirs) == 0 {
		return ix
	}
	w := newWalk(a, req, func(p string, st *unix.Stat_t) { ix.files[p] = versionOf(st) })
	for _, dir := range dirs {
		w.start(dir)
	}
	ix.partial = w.omitted > 0
	return ix
}

// changedFiles lists the regular files that are not as they were, sorted by
// path, and counts those that were left out because of a limit.
func (a *Agent) changedFiles(req *guest.RunRequest, before *index) (changed []guest.Entry, omitted int) {
	dirs := collectDirs(req)
	if len(dirs) == 0 {
		return nil, 0
	}
	files := guest.MaxChanged
	if req.Files > 0 {
		files = min(files, req.Files)
	}
	left := req.Bytes
	w := newWalk(a, req, func(p string, st *unix.Stat_t) {
		switch {
		case !before.isNew(p, st) || a.uploads.has(st):
		case len(changed) == files, req.Bytes > 0 && st.Size > left:
			omitted++
		default:
			left -= st.Size
			changed = append(changed, entryOf(p, st, ""))
		}
	})
	for _, dir := range dirs {
		w.start(dir)
	}
	slices.SortFunc(changed, func(x, y guest.Entry) int { return strings.Compare(string(x.Name), string(y.Name)) })
	return changed, omitted + w.omitted
}

// collectDirs returns the directories of a request without those below others.
func collectDirs(req *guest.RunRequest) []string {
	var dirs []string
	for _, d := range req.CollectDirs {
		dirs = append(dirs, filepath.Clean("/"+string(d)))
	}
	slices.Sort(dirs)
	kept := dirs[:0]
	for _, d := range dirs {
		if !slices.ContainsFunc(kept, func(k string) bool {
			return d == k || strings.HasPrefix(d, strings.TrimSuffix(k, "/")+"/")
		}) {
			kept = append(kept, d)
		}
	}
	return kept
}

func depthLimit(req *guest.RunRequest) int {
	if req.Depth > 0 {
		return min(req.Depth, walkDepth)
	}
	return walkDepth
}

// walk visits the regular files below directories, with root's rights, without
// following a link, in the order of the names in each directory.
type walk struct {
	a       *Agent
	visit   func(p string, st *unix.Stat_t)
	depth   int
	entries int // that may still be looked at
	bytes   int // of names
	end     time.Time
	// omitted counts what was not looked at; a directory counts once.
	omitted int
}

func newWalk(a *Agent, req *guest.RunRequest, visit func(string, *unix.Stat_t)) *walk {
	most := walkTime
	if req.CollectNS > 0 {
		most = min(most, time.Duration(req.CollectNS))
	}
	return &walk{a: a, visit: visit, depth: depthLimit(req), entries: walkEntries, bytes: walkNameBytes, end: time.Now().Add(most)}
}

func (w *walk) start(dir string) {
	fd, err := openDirectory(unix.AT_FDCWD, w.a.path(dir))
	if err != nil {
		return // what is not there, or is a link, holds nothing
	}
	w.directory(fd, strings.TrimSuffix(dir, "/"), 0)
}

// directory visits what is in an open directory, and closes it.
func (w *walk) directory(fd int, prefix string, depth int) {
	defer unix.Close(fd)
	names, whole := w.names(fd)
	if !whole {
		w.omitted++
	}
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			continue // it went away
		}
		p := prefix + "/" + name
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			if len(p) > maxPath {
				w.omitted++ // the host could not ask for it
				continue
			}
			w.visit(p, &st)
		case unix.S_IFDIR:
			if depth+1 > w.depth || time.Now().After(w.end) {
				w.omitted++
				continue
			}
			sub, err := openDirectory(fd, name)
			if err != nil {
				w.omitted++
				continue
			}
			w.directory(sub, p, depth+1)
		}
	}
}

// names lists a directory in order, as far as the budget goes.
func (w *walk) names(fd int) (names []string, whole bool) {
	whole = true
	err := readNames(fd, func(name string) bool {
		if w.entries == 0 || w.bytes < len(name) {
			whole = false
			return false
		}
		w.entries--
		w.bytes -= len(name)
		names = append(names, name)
		return true
	})
	slices.Sort(names)
	return names, whole && err == nil
}
