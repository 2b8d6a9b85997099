package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/guest/rawio"
)

// What an interpreter reads of its environment while it starts: a run that sets
// one of these gets an interpreter that was started with it.
var (
	startNames    = []string{"HOME", "TZ", "LANG", "LANGUAGE", "LOCPATH", "GCONV_PATH"}
	startPrefixes = []string{"PYTHON", "LD_", "LC_", "MALLOC_", "GLIBC_"}
)

// handoverTime bounds the handing over of a run to an interpreter that waits.
const handoverTime = 2 * time.Second

// interpreter is a Python process that was started for one run, and may still
// wait for it. See the launcher for how it is told. It has to be Python 3.11 or
// later, the first that knows -P, and sys.flags.safe_path is the one difference
// that code can see: without -P, sys.path would begin with the directory of the
// script's path, which is not the workspace where there is no stage.
type interpreter struct {
	*child
	script script
	out    outputs
	// control is our end of the launcher's descriptor 3.
	control   *os.File
	controlFD int
	ready     chan struct{} // closed when it waits, or never will; then waits is set
	waits     bool
	mu        sync.Mutex
	begun     bool        // the launcher has said that it has the run
	modules   []string    // what it has loaded ahead
	sites     string      // the user's packages when it was started
	server    *forkServer // what forked it; nil: it was started
	borrowed  bool        // whether the server's script is its own
}

// interpreters keeps one interpreter waiting.
type interpreters struct {
	a  *Agent
	wg sync.WaitGroup // refills, and those that wait for a start

	mu      sync.Mutex
	waiting *interpreter
	modules []string      // what those of a snapshot load ahead
	filling chan struct{} // closed when the start under way is over; nil: none is
	failure error         // of the latest start
	closed  bool
}

func newInterpreters(a *Agent) *interpreters { return &interpreters{a: a} }

func (in *interpreters) close() {
	in.mu.Lock()
	in.closed = true
	waiting := in.waiting
	in.waiting = nil
	in.mu.Unlock()
	if waiting != nil {
		waiting.discard()
	}
	in.wg.Wait()
}

// launch starts an interpreter that will wait for its script, with modules that
// it has loaded by then.
func (in *interpreters) launch(env, modules []string) (*interpreter, error) {
	a := in.a
	script, err := a.scripts.new(".py")
	if err != nil {
		return nil, notStarted("make room for the script", err)
	}
	it := &interpreter{script: script, ready: make(chan struct{}), modules: modules, sites: in.userSites()}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		script.remove()
		return nil, notStarted("make a socket for the interpreter", err)
	}
	defer unix.Close(fds[1])
	_ = unix.SetNonblock(fds[0], true)
	it.controlFD = fds[0]
	it.control = os.NewFile(uintptr(fds[0]), "interpreter")

	pythonPath := a.opts.LauncherDir
	if own, ok := lookup(env, "PYTHONPATH"); ok && own != "" {
		pythonPath += ":" + own
	}
	full := merge(merge(a.opts.Env, env), []string{"PYTHONPATH=" + pythonPath})
	it.child, it.out, err = a.spawn(program{
		path:   a.opts.Python,
		args:   []string{a.opts.Python, "-P", script.name()},
		env:    full,
		files:  []uintptr{3: uintptr(fds[1])},
		script: script,
	})
	if err != nil {
		it.control.Close()
		script.remove()
		return nil, notStarted("start "+filepath.Base(a.opts.Python), err)
	}
	// It is the first message on a socket that nobody reads yet, and goes into its
	// buffer. If the interpreter has ended already, who waits for it will see.
	_ = it.send(strings.Join(modules, "\x00"))
	in.wg.Go(it.awaitReady)
	return it, nil
}

func (it *interpreter) awaitReady() {
	defer close(it.ready)
	var b [1]byte
	n, _ := it.control.Read(b[:])
	it.waits = n == 1 && b[0] == 'r'
}

func (it *interpreter) isReady() bool {
	select {
	case <-it.ready:
		return true
	default:
		return false
	}
}

// discard ends an interpreter that no run has been given.
func (it *interpreter) discard() {
	it.end()
	it.removeScript()
}

// end ends its process.
func (it *interpreter) end() {
	it.killTree()
	it.control.Close()
	<-it.done
	it.out.close()
}

// writeScript writes what the interpreter is to run, or nothing at all.
func (it *interpreter) writeScript(code []byte) error {
	if it.server != nil && !it.server.lend() {
		return errors.New("another run has the script")
	}
	it.borrowed = it.server != nil
	err := it.script.write(code)
	if err != nil {
		it.giveBack()
	}
	return err
}

// giveBack empties the script and lets another fork of the same server have it.
func (it *interpreter) giveBack() {
	if it.borrowed {
		it.borrowed = false
		it.script.clear()
		it.server.takeBack()
	}
}

// removeScript removes what the interpreter has run, or would have.
func (it *interpreter) removeScript() {
	if it.server == nil {
		it.script.remove()
		return
	}
	it.giveBack()
	it.server.leave()
}

// process is what a run runs as, from the moment that the interpreter is told.
func (it *interpreter) process() process {
	p := process{child: it.child, out: it.out, started: time.Now()}
	p.begun = it.hasBegun
	it.withLive(func(pid int) { p.usedBefore = cpuTime(pid) })
	p.release = func() {
		it.control.Close()
		it.removeScript()
	}
	return p
}

// hasBegun tells whether the launcher has said that it has the run. The launcher
// says so before the first of the code is run, so nothing of the run has happened
// before.
func (it *interpreter) hasBegun() bool {
	it.mu.Lock()
	defer it.mu.Unlock()
	if it.begun {
		return true
	}
	if it.exited() {
		_ = it.control.SetReadDeadline(longAgo) // another process may hold its end
		<-it.ready
	}
	if !it.isReady() {
		return false // what comes first has not been read yet
	}
	var b [4]byte
	n, _ := unix.Read(it.controlFD, b[:])
	it.begun = n > 0 && bytes.IndexByte(b[:n], 'g') >= 0
	return it.begun
}

// run runs code in the interpreter that waits, if that is as good as one that is
// started now, and otherwise in a fresh one.
func (in *interpreters) run(code []byte, env []string, req *guest.RunRequest) (process, error) {
	if slices.ContainsFunc(env, readAtStart) {
		return in.runFresh(code, env, req)
	}
	in.mu.Lock()
	it := in.waiting
	in.waiting = nil
	in.mu.Unlock()
	if it == nil {
		return in.runFresh(code, env, req)
	}
	p, err := in.runWaiting(it, code, env, req)
	switch {
	case err == nil:
		return p, nil
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		in.put(it)
		return process{}, notStarted("write the script", err)
	}
	it.discard()
	return in.runFresh(code, env, req)
}

// runFresh starts an interpreter for a run.
func (in *interpreters) runFresh(code []byte, env []string, req *guest.RunRequest) (process, error) {
	it, err := in.launch(env, nil)
	if err != nil {
		return process{}, err
	}
	if err := it.script.write(code); err != nil {
		it.discard()
		return process{}, notStarted("write the script", err)
	}
	if err := in.a.limit(it.child, req); err != nil {
		it.discard()
		return process{}, err
	}
	p := it.process()
	own, _ := lookup(env, "PYTHONPATH")
	p.preceded = own != ""
	in.tellStarting(it, env)
	return p, nil
}

// tellStarting sends an interpreter that is starting its run. It may print before
// it listens, so the run has to be read meanwhile.
func (in *interpreters) tellStarting(it *interpreter, env []string) {
	in.wg.Go(func() { _ = it.tell(in.a.workspace, env) })
}

// runWaiting hands a run to an interpreter that waits, or that will: one that is
// on its way is there sooner than one that is started now.
func (in *interpreters) runWaiting(it *interpreter, code []byte, env []string, req *guest.RunRequest) (process, error) {
	starting := !it.isReady()
	if starting && len(it.modules) > 0 {
		return process{}, errors.New("it has not loaded its modules yet")
	}
	if !starting && !it.waits || it.exited() || it.sites != in.userSites() {
		return process{}, errors.New("it is of no use any more")
	}
	if err := it.writeScript(code); err != nil {
		return process{}, err
	}
	if err := in.a.limit(it.child, req); err != nil {
		return process{}, err // and another one is tried
	}
	p := it.process()
	// Another run of the user may have stopped it.
	it.withLive(func(pid int) { _ = unix.Kill(pid, unix.SIGCONT) })
	if starting {
		in.tellStarting(it, env)
		return p, nil
	}
	_ = it.control.SetWriteDeadline(time.Now().Add(handoverTime))
	return p, it.tell(in.a.workspace, env)
}

// load sets what the interpreters that wait have loaded ahead, the one that may
// wait now included. None may be on its way.
func (in *interpreters) load(modules []string) {
	in.mu.Lock()
	in.modules = modules
	it := in.waiting
	in.waiting = nil
	in.mu.Unlock()
	if it != nil {
		it.discard()
	}
}

// put gives back an interpreter that was not used after all.
func (in *interpreters) put(it *interpreter) {
	in.mu.Lock()
	if in.waiting == nil && !in.closed {
		in.waiting, it = it, nil
	}
	in.mu.Unlock()
	if it != nil {
		it.discard()
	}
}

// tell sends the launcher its message.
func (it *interpreter) tell(workspace string, env []string) error {
	settings := append([]string{workspace}, without(env, "PYTHONPATH")...)
	if own, ok := lookup(env, "PYTHONPATH"); ok {
		settings = append(settings, "PYTHONPATH="+own)
	} else {
		settings = append(settings, "PYTHONPATH")
	}
	return it.send(strings.Join(settings, "\x00"))
}

// send sends the launcher a message.
func (it *interpreter) send(body string) error {
	message := append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
	_, err := it.control.Write(message)
	return err
}

// refill starts an interpreter that waits, if there is none, without waiting
// for it. Only those of a snapshot have modules: a session's are forked.
func (in *interpreters) refill() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if !in.a.preparing.Load() {
		in.modules = nil
	}
	in.fill()
}

// fill is refill for a caller that holds mu.
func (in *interpreters) fill() {
	if in.waiting != nil || in.filling != nil || in.closed {
		return
	}
	done := make(chan struct{})
	in.filling = done
	modules := in.modules
	in.wg.Go(func() {
		it, err := in.launch(nil, modules)
		if err == nil {
			in.put(it)
		} else {
			in.a.log.Info("no interpreter waits: the next run starts its own", "error", err)
		}
		in.mu.Lock()
		in.filling, in.failure = nil, err
		in.mu.Unlock()
		close(done)
	})
}

// wait makes sure that an interpreter waits, fully started.
func (in *interpreters) wait(ctx context.Context) error {
	it, err := in.current(ctx)
	if err != nil {
		return err
	}
	select {
	case <-it.ready:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if it.waits {
		return nil
	}
	in.mu.Lock()
	mine := in.waiting == it
	if mine {
		in.waiting = nil
	}
	in.mu.Unlock()
	var said []byte
	if mine {
		said = make([]byte, 16<<10)
		said = said[:it.out.stderr.readNow(said)]
		it.discard()
	}
	return refuse(guest.FailNotStarted, "the interpreter %s ended before it was ready: %s", in.a.opts.Python, tail(said))
}

// rehearse lets the interpreter that waits touch what a run will need, which
// after a restore is not mapped yet: the run would do so while somebody waits.
func (in *interpreters) rehearse() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if it := in.waiting; it != nil && it.isReady() && it.waits {
		_ = it.send("")
	}
}

// current returns the interpreter that waits or is on its way there.
func (in *interpreters) current(ctx context.Context) (*interpreter, error) {
	in.mu.Lock()
	in.fill()
	filling := in.filling
	in.mu.Unlock()
	if filling != nil {
		select {
		case <-filling:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.waiting != nil:
		return in.waiting, nil
	case in.failure != nil:
		return nil, in.failure
	}
	return nil, refuse(guest.FailOther, "the interpreter was taken while it was waited for")
}

// userSites says how the user's own package directories look now: an
// interpreter reads them when it starts, so one that started before a change is
// out of date.
func (in *interpreters) userSites() string {
	home, _ := lookup(in.a.opts.Env, "HOME")
	lib := filepath.Join(home, ".local", "lib")
	dir, err := unix.Open(lib, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(dir)
	const most = 64 // the user may have made any number of them
	var names []string
	err = rawio.ReadNames(dir, func(name string) bool {
		names = append(names, name)
		return len(names) < most
	})
	if err != nil {
		return "unreadable"
	}
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names {
		var st unix.Stat_t
		if unix.Stat(filepath.Join(lib, name, "site-packages"), &st) == nil {
			fmt.Fprintf(&b, "%s %d %d %d\n", name, st.Ino, st.Mtim.Nano(), st.Ctim.Nano())
		}
	}
	return b.String()
}

// readAtStart tells whether an interpreter reads a variable while it starts.
func readAtStart(setting string) bool {
	name, _, _ := strings.Cut(setting, "=")
	return slices.Contains(startNames, name) ||
		slices.ContainsFunc(startPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// lookup finds a variable; the last setting counts.
func lookup(env []string, name string) (string, bool) {
	for _, setting := range slices.Backward(env) {
		if n, value, _ := strings.Cut(setting, "="); n == name {
			return value, true
		}
	}
	return "", false
}

func without(env []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(setting string) bool {
		n, _, _ := strings.Cut(setting, "=")
		return n == name
	})
}
