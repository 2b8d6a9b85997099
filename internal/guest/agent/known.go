package agent

import (
	"hash/maphash"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox"
)

// known has every file that a look found or that the host wrote, in the state in
// which it was then. A look reports what is not as it is here, and brings it up
// to date, so each change is reported by one run: the first that ends after it,
// whichever run or background process made it. It lives as long as the agent, and
// so outlives the server.
type known struct {
	a    *Agent
	seed maphash.Seed

	// look is held by the one look that goes on.
	look sync.Mutex

	mu      sync.Mutex
	files   map[string]knownFile
	pass    uint32 // numbers the looks
	watches watches
	// open counts how often files are open, known or not. One that is mapped counts
	// as open.
	open map[string]int

	runs      int  // under way
	leftovers bool // whether the last look has found processes that runs have left
	timer     *time.Timer
	closed    bool
}

// start makes it ready to be used.
func (k *known) start(a *Agent) {
	k.a, k.seed, k.files, k.open = a, maphash.MakeSeed(), map[string]knownFile{}, map[string]int{}
	k.watches = newWatches(a.log)
	k.timer = time.AfterFunc(drainEvery, k.tick)
}

func (k *known) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	k.timer.Stop()
	k.watches.close()
}

// knownFile is the state of one file, or of a directory that is left out.
type knownFile struct {
	version version
	// sum is of the contents; only if summed.
	sum    uint64
	summed bool
	// written says that somebody has had the file open for writing since: its contents may be others although its version is the same.
	written bool
	pass    uint32 // the last look that saw it
}

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

// begin begins a look.
func (k *known) begin() {
	left := k.a.processes.Leftovers()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pass++
	k.leftovers = left
	k.drain()
	if !left {
		clear(k.open) // runs under way tell of what they write at their end
	}
}

// watch watches a directory that a look is about to read.
func (k *known) watch(fd int, dir string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.watches.add(fd, dir, k.a.log)
}

// state is what is known of a file that is found with some version.
type state int

const (
	stateSame    state = iota
	stateOpen          // the same version, and a process may have it mapped
	stateWritten       // the same version, and it was open for writing; told once
	stateChanged       // another version, or not known
)

func (k *known) check(p string, st *unix.Stat_t) state {
	k.mu.Lock()
	defer k.mu.Unlock()
	f, ok := k.files[p]
	if !ok || f.version != versionOf(st) {
		return stateChanged
	}
	found := stateSame
	switch {
	case f.written:
		found = stateWritten
	case k.open[p] > 0:
		found = stateOpen
	}
	f.written, f.pass = false, k.pass
	k.files[p] = f
	return found
}

// take looks again at a file that has changed, notes its state, and returns that.
// The host may have replaced the file since: then it has not changed.
func (k *known) take(dirFD int, name, p string) (st unix.Stat_t, changed bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := unix.Fstatat(dirFD, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return st, false // it went away
	}
	if f, ok := k.files[p]; ok && f.version == versionOf(&st) {
		return st, false
	}
	k.files[p] = knownFile{version: versionOf(&st), pass: k.pass}
	return st, true
}

// set notes what a file holds that still has that version.
func (k *known) set(p string, v version, sum uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if f, ok := k.files[p]; ok && f.version == v {
		f.sum, f.summed = sum, true
		k.files[p] = f
	}
}

// sumOf returns what is known of the contents of a file.
func (k *known) sumOf(p string) (sum uint64, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f := k.files[p]
	return f.sum, f.summed
}

// forgetGone drops what the look that ends now has not seen, below dirs. skipped
// are directories that it left out.
func (k *known) forgetGone(dirs []string, skipped map[string]bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for p, f := range k.files {
		if f.pass != k.pass && below(p, dirs) && !belowAny(p, skipped) {
			delete(k.files, p)
		}
	}
}

// bound keeps a walk that never reaches the end from adding up files without end.
func (k *known) bound(most int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for p, f := range k.files {
		if len(k.files) <= most {
			return
		}
		if f.pass != k.pass {
			delete(k.files, p)
		}
	}
}

func below(p string, dirs []string) bool {
	for _, dir := range dirs {
		if strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/") {
			return true
		}
	}
	return false
}

func belowAny(p string, dirs map[string]bool) bool {
	for len(dirs) > 0 && len(p) > 1 {
		if p = filepath.Dir(p); dirs[p] {
			return true
		}
	}
	return false
}

// collected tells whether runs report files that stand in a directory.
func collected(dir string) bool {
	return below(dir+"/", []string{agentsandbox.Workspace, agentsandbox.OutputDir})
}

// watchUpload watches a file that the host begins to write, and its directory.
func (k *known) watchUpload(up *upload) {
	if collected(up.dir) {
		k.watch(up.dirFD, up.dir)
		k.watchFile(up.fd)
	}
}

func (k *known) watchFile(fd int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.watches.addFile(fd)
}

// rename gives a file that the host has written its name. The file is known from
// then on, because no run made it, unless somebody has written to it already.
func (k *known) rename(up *upload) (st unix.Stat_t, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := unix.Renameat(up.dirFD, up.temp, up.dirFD, up.name); err != nil {
		return st, &os.PathError{Op: "rename to", Path: up.name, Err: err}
	}
	if err := unix.Fstatat(up.dirFD, up.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return st, &os.PathError{Op: "stat", Path: up.name, Err: err}
	}
	was, is := versionOf(&up.st), versionOf(&st)
	was.ctime = is.ctime // the rename may have moved it
	if collected(up.dir) && was == is {
		k.files[filepath.Join(up.dir, up.name)] = knownFile{version: is, sum: up.sum.Sum64(), summed: true, pass: k.pass}
	}
	return st, nil
}

// drainEvery is how often the agent takes what the watches tell, so that it does not
// pile up in the kernel: while runs are under way, and while they have left
// processes behind.
const (
	drainEvery     = 500 * time.Millisecond
	drainLeftovers = 2 * time.Second
)

// runBegins and runEnds say that there is something that may open files.
func (k *known) runBegins() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.runs++; k.runs == 1 {
		k.timer.Reset(drainEvery)
	}
}

func (k *known) runEnds() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.runs--
}

// tick takes what the watches tell, and comes again as long as there may be more.
func (k *known) tick() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.drain()
	switch {
	case k.closed:
	case k.runs > 0:
		k.timer.Reset(drainEvery)
	case k.leftovers:
		k.timer.Reset(drainLeftovers)
	}
}

// maxOpen bounds the files that are counted as open.
const maxOpen = 1 << 16

// drain notes which files were opened and closed. The caller holds mu. The kernel tells
// of two equal events in a row once, so the count of openings can be wrong for files
// that have no watch of their own. That a file was closed for the last time after
// writing is told in any case.
func (k *known) drain() {
	k.watches.drain(func(p string, event uint32) {
		if event&unix.IN_OPEN != 0 {
			if n := k.open[p]; n > 0 || len(k.open) < maxOpen {
				k.open[p] = n + 1
			}
			return
		}
		if k.open[p]--; k.open[p] <= 0 {
			delete(k.open, p)
		}
		if f, ok := k.files[p]; ok && event&unix.IN_CLOSE_WRITE != 0 {
			f.written = true
			k.files[p] = f
		}
	})
}

// contents sums up the contents of a regular file, up to most bytes and until end.
func (k *known) contents(dirFD int, name string, v version, most int64, end time.Time) (sum uint64, ok bool) {
	if v.size > most {
		return 0, false
	}
	fd, err := unix.Openat(dirFD, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, false
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || versionOf(&st) != v {
		return 0, false // the next look sees the other version
	}
	k.watchFile(fd)
	var h maphash.Hash
	h.SetSeed(k.seed)
	buf := make([]byte, min(v.size+1, 1<<20))
	for {
		n, err := unix.Read(fd, buf)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil || time.Now().After(end):
			return 0, false
		case n == 0:
			return h.Sum64(), true
		}
		_, _ = h.Write(buf[:n])
	}
}
