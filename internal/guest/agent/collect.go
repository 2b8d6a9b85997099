package agent

import (
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/guest/rawio"
)

// What a look for changed files may cost: the user can make directories of any
// size.
const (
	walkEntries   = 200_000
	walkNameBytes = 16 << 20
	walkDepth     = 256
	walkTime      = 10 * time.Second // or less, if the request says so
)

// What comparing contents may cost, in one look: the user can make files of any
// size.
const (
	// sumBytes are of files that may have been written while their times stayed,
	// to tell whether they were. Past it they are reported, changed or not.
	sumBytes = 1 << 30
	sumTime  = 3 * time.Second
	// openSumBytes are of files that a process may have mapped. Past it, a change
	// is found out when the process lets go of the file.
	openSumBytes = 64 << 20
	// reportedSumBytes are of files that are reported, to compare them with later.
	reportedSumBytes = 256 << 20
)

// omissions counts what was left out, by reason.
type omissions map[agentsandbox.OmittedReason]int

// look finds the files that have changed since the last look, and notes their
// state.
type look struct {
	*walk
	k       *known
	changed []guest.Entry
	files   int   // how many may be reported
	bytes   int64 // of sizes that may still be reported; -1: any
	final   bool  // there is no look after it
	sums    int64 // bytes that may still be compared of files that were written
	opens   int64 // and of files that are open
	own     int64 // bytes of reported files that may still be summed up
	sumsEnd time.Time
}

// changedFiles lists the regular files that are not as they were, sorted by
// path, and counts those that were left out.
func (a *Agent) changedFiles(req *guest.RunRequest) ([]guest.Entry, omissions) {
	dirs := collectDirs(req)
	if len(dirs) == 0 {
		return nil, nil
	}
	k := &a.known
	k.look.Lock()
	defer k.look.Unlock()
	k.begin()
	l := &look{
		k: k, files: guest.MaxChanged, bytes: -1, final: req.Final,
		sums: sumBytes, opens: openSumBytes, own: reportedSumBytes, sumsEnd: time.Now().Add(sumTime),
	}
	if req.Files > 0 {
		l.files = min(l.files, req.Files)
	}
	if req.Bytes > 0 {
		l.bytes = req.Bytes
	}
	l.walk = newWalk(a, req, l)
	for _, dir := range dirs {
		l.start(dir)
	}
	if !l.partial() {
		k.forgetGone(dirs, l.skipped)
	} else {
		k.bound(2 * walkEntries)
	}
	slices.SortFunc(l.changed, func(x, y guest.Entry) int { return strings.Compare(string(x.Name), string(y.Name)) })
	return l.changed, l.omitted
}

// file looks at a regular file.
func (l *look) file(dirFD int, name, p string, st *unix.Stat_t) {
	found := l.k.check(p, st)
	if found == stateSame || l.a.uploads.has(st) {
		return
	}
	switch found {
	case stateChanged:
		now, still := l.k.take(dirFD, name, p)
		if !still || now.Mode&unix.S_IFMT != unix.S_IFREG {
			return
		}
		*st = now
	case stateWritten:
		if same, sure := l.same(dirFD, name, p, versionOf(st), &l.sums); same && sure {
			return
		}
	case stateOpen:
		if same, sure := l.same(dirFD, name, p, versionOf(st), &l.opens); same || !sure {
			return // what is not sure is found out when it is closed
		}
	}
	switch {
	case len(l.changed) == l.files:
		l.omitted[agentsandbox.OmittedFileLimit]++
		return
	case l.bytes >= 0 && st.Size > l.bytes:
		l.omitted[agentsandbox.OmittedSizeLimit]++
		return
	case l.bytes >= 0:
		l.bytes -= st.Size
	}
	l.changed = append(l.changed, entryOf(p, st, ""))
	if l.final {
		return
	}
	if sum, ok := l.k.contents(dirFD, name, versionOf(st), l.own, l.sumsEnd); ok {
		l.own -= st.Size
		l.k.set(p, versionOf(st), sum)
	}
}

// same tells whether a file holds what it held when it was last reported, or written
// by the host, as far as that is known and the bytes that may be read suffice.
func (l *look) same(dirFD int, name, p string, v version, bytes *int64) (same, sure bool) {
	before, ok := l.k.sumOf(p)
	if !ok {
		return false, false
	}
	now, ok := l.k.contents(dirFD, name, v, *bytes, l.sumsEnd)
	if !ok {
		return false, false
	}
	*bytes -= v.size
	l.k.set(p, v, now)
	return now == before, true
}

// directoryLeftOut counts a directory that is left out as a whole, once for each
// state that it is found in.
func (l *look) directoryLeftOut(dirFD int, name, p string, st *unix.Stat_t, why agentsandbox.OmittedReason) {
	l.skipped[p] = true
	if l.k.check(p, st) != stateChanged {
		return
	}
	if _, still := l.k.take(dirFD, name, p); still {
		l.omitted[why]++
	}
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

// visitor is told of what a walk finds, with the open directory that it is in.
type visitor interface {
	file(dirFD int, name, p string, st *unix.Stat_t)
	directoryLeftOut(dirFD int, name, p string, st *unix.Stat_t, why agentsandbox.OmittedReason)
}

// walk visits the regular files below directories, with root's rights, without
// following a link, in the order of the names in each directory.
type walk struct {
	a       *Agent
	visit   visitor
	depth   int
	ignored bool // whether it looks into directories of tools, too
	entries int  // that may still be looked at
	bytes   int  // of names
	end     time.Time
	omitted omissions // what was not looked at; a directory counts once
	skipped map[string]bool
	cut     bool // something was left out that another look may reach
}

func newWalk(a *Agent, req *guest.RunRequest, visit visitor) *walk {
	most := walkTime
	if req.CollectNS > 0 {
		most = min(most, time.Duration(req.CollectNS))
	}
	return &walk{
		a: a, visit: visit, depth: depthLimit(req), ignored: req.CollectIgnored,
		entries: walkEntries, bytes: walkNameBytes, end: time.Now().Add(most),
		omitted: omissions{}, skipped: map[string]bool{},
	}
}

// partial tells whether not everything was looked at that is to be.
func (w *walk) partial() bool { return w.cut }

func (w *walk) leaveOut(why agentsandbox.OmittedReason) {
	w.omitted[why]++
	w.cut = true
}

func (w *walk) start(dir string) {
	fd, err := rawio.OpenDirectory(unix.AT_FDCWD, w.a.path(dir))
	if err != nil {
		return // what is not there, or is a link, holds nothing
	}
	defer unix.Close(fd)
	w.directory(fd, strings.TrimSuffix(dir, "/"), w.list(fd, dir), 0)
}

// list watches a directory and returns the names in it.
func (w *walk) list(fd int, dir string) []string {
	w.a.known.watch(fd, dir)
	names, why := w.names(fd)
	if why != "" {
		w.leaveOut(why)
	}
	return names
}

// directory visits what is in an open directory.
func (w *walk) directory(fd int, prefix string, names []string, depth int) {
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			continue // it went away
		}
		p := prefix + "/" + name
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			if len(p) > maxPath {
				w.leaveOut(agentsandbox.OmittedUnreadable) // the host could not ask for it
				continue
			}
			w.visit.file(fd, name, p, &st)
		case unix.S_IFDIR:
			w.subdirectory(fd, name, p, &st, depth+1)
		}
	}
}

func (w *walk) subdirectory(parent int, name, p string, st *unix.Stat_t, depth int) {
	switch {
	case !w.ignored && toolDirectory(p):
		w.visit.directoryLeftOut(parent, name, p, st, agentsandbox.OmittedIgnored)
		return
	case depth > w.depth:
		w.visit.directoryLeftOut(parent, name, p, st, agentsandbox.OmittedDepthLimit)
		return
	case time.Now().After(w.end):
		w.leaveOut(agentsandbox.OmittedTimeLimit)
		return
	}
	fd, err := rawio.OpenDirectory(parent, name)
	if err != nil {
		w.leaveOut(agentsandbox.OmittedUnreadable)
		return
	}
	defer unix.Close(fd)
	names := w.list(fd, p)
	if !w.ignored && virtualEnvironment(p, names) {
		w.visit.directoryLeftOut(parent, name, p, st, agentsandbox.OmittedIgnored)
		return
	}
	w.directory(fd, p, names, depth)
}

// names lists a directory in order, as far as the budget goes, and says why not
// further.
func (w *walk) names(fd int) (names []string, why agentsandbox.OmittedReason) {
	err := rawio.ReadNames(fd, func(name string) bool {
		if w.entries == 0 || w.bytes < len(name) {
			why = agentsandbox.OmittedFileLimit
			return false
		}
		w.entries--
		w.bytes -= len(name)
		names = append(names, name)
		return true
	})
	if err != nil && why == "" {
		why = agentsandbox.OmittedUnreadable
	}
	slices.Sort(names)
	return names, why
}

// toolDirectory tells whether a directory is one that programs keep for themselves.
// What stands in the output directory is a result, whatever its name.
func toolDirectory(p string) bool {
	return below(p, []string{agentsandbox.Workspace}) && agentsandbox.ToolDirectory(p)
}

// virtualEnvironment tells whether a directory with those names is an environment
// of Python.
func virtualEnvironment(p string, names []string) bool {
	_, found := slices.BinarySearch(names, agentsandbox.VirtualEnvironmentMark)
	return found && below(p, []string{agentsandbox.Workspace})
}
