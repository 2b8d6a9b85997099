package warm

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/guest/proc"
	"github.com/agentsandbox/agentsandbox/internal/guest/rawio"
	"github.com/agentsandbox/agentsandbox/internal/guest/script"
)

// Bash gives runs their shells, and keeps one waiting. Unlike a Python interpreter it
// costs little to start, but a start is still most of the time of a short command.
type Bash struct {
	opts Options
	slot slot[*shell]
	wg   sync.WaitGroup // goroutines that wait for launchers
}

// shell is a Bash that waits for its script, as an interpreter does. See the launcher,
// wait.sh, for how it is told.
type shell struct {
	*waiting
	settings string // the path that the launcher looks for
}

// NewBash makes a Bash of which nothing waits yet.
func NewBash(opts Options) *Bash {
	b := &Bash{opts: opts}
	b.slot = slot[*shell]{what: "shell", missing: "no Bash waits: the next run starts its own", log: opts.Logger}
	return b
}

// Close ends what waits. No run may be under way.
func (b *Bash) Close() {
	b.slot.close()
	b.slot.wait()
	b.wg.Wait()
}

// Start gives a run the Bash that waits, if there is one and that is as good as one
// that is started now, and otherwise a fresh one.
func (b *Bash) Start(run Run) (proc.Process, error) {
	settings, ok := shellSettings(run.Env)
	if !ok {
		return b.StartFresh(run)
	}
	s := b.slot.take()
	if s == nil {
		return b.StartFresh(run)
	}
	made, err := s.handOver(run, settings)
	if err != nil {
		s.discard()
		return b.StartFresh(run)
	}
	return made, nil
}

// StartFresh starts a Bash for a run.
func (b *Bash) StartFresh(run Run) (proc.Process, error) {
	s, err := b.opts.Scripts.New(b.opts.Extension)
	if err != nil {
		return nil, notStarted("make room for the script", err)
	}
	if err := s.Write(run.Code); err != nil {
		s.Remove()
		return nil, notStarted("write the script", err)
	}
	// Bash opens the script when it is about to run it.
	opened, err := watchOpen(s.Path())
	if err != nil {
		s.Remove()
		return nil, notStarted("watch the script", err)
	}
	made := &process{started: time.Now(), begun: opened.happened}
	made.release = func() {
		opened.close()
		s.Remove()
	}
	name := filepath.Base(b.opts.Program)
	made.Child, made.out, err = b.opts.Processes.Start(proc.Program{
		Path: b.opts.Program,
		Args: []string{name, s.Name()},
		Env:  merge(b.opts.Env, run.Env),
		Fork: s.Fork,
	})
	if err != nil {
		made.release()
		return nil, notStarted("start "+name, err)
	}
	if err := made.Limit(run.Limits); err != nil {
		made.Kill()
		<-made.Done()
		made.out.Close()
		made.release()
		return nil, err
	}
	if first, _ := lookup(run.Env, "BASH_ENV"); first != "" {
		made.begun = func() bool { return true } // that is code of the user's, and comes first
	}
	return made, nil
}

// handOver gives a Bash that waits, or that will, its script.
func (s *shell) handOver(run Run, settings []byte) (*process, error) {
	starting := !s.isReady()
	if !starting && !s.waits || s.Exited() {
		return nil, errors.New("it does not wait")
	}
	if err := s.script.Write(run.Code); err != nil {
		return nil, err
	}
	if err := s.Limit(run.Limits); err != nil {
		return nil, err
	}
	// The settings come last, and under their name only when they are complete.
	if err := rawio.WriteFile(s.settings+".new", unix.O_CREAT|unix.O_EXCL, settings); err != nil {
		_ = unix.Unlink(s.settings + ".new")
		return nil, err
	}
	made := s.process(s.removeScript)
	if err := unix.Rename(s.settings+".new", s.settings); err != nil {
		return nil, err
	}
	// From here on it may run the script, even before it is told: a rehearsal may
	// have it look for the settings just now. So nothing below is a reason to run
	// the script elsewhere: hasBegun tells what happened.
	s.Continue()   // another run of the user may have stopped it
	_ = s.signal() // fails if it has begun, or has died
	return made, nil
}

// Refill starts a Bash that waits in place of the one that a run has used, if there is
// none, without waiting for it.
func (b *Bash) Refill(Run) { b.slot.fill(b.launch) }

// Await makes sure that a Bash waits, fully started.
func (b *Bash) Await(ctx context.Context) error {
	b.slot.fill(b.launch)
	s, err := b.slot.await(ctx)
	if err == nil && !s.waits {
		return guest.Failure{Code: guest.FailNotStarted, Text: fmt.Sprintf("the shell %s ended before it was ready", b.opts.Program)}
	}
	return err
}

// Rehearse lets the Bash that waits touch what a run will need, which after a restore
// is not mapped yet.
func (b *Bash) Rehearse() {
	b.slot.withReady(func(s *shell) { _ = s.signal() })
}

// launch starts a Bash that will wait for its script.
func (b *Bash) launch() (*shell, error) {
	made := &shell{}
	w, err := launch(&b.opts, func(s script.Script) proc.Program {
		made.settings = s.Beside("settings")
		launcher := filepath.Join(b.opts.LauncherDir, filepath.Base(guest.ShellLauncherPath))
		return proc.Program{
			Args: []string{filepath.Base(b.opts.Program), s.Name()},
			Env:  merge(b.opts.Env, []string{"BASH_ENV=" + launcher, "AGENTSANDBOX_SETTINGS=" + made.settings}),
		}
	})
	if err != nil {
		return nil, err
	}
	made.waiting = w
	b.wg.Go(made.awaitReady)
	return made, nil
}

// discard ends a Bash that no run has been given.
func (s *shell) discard() {
	_ = unix.Unlink(s.settings)
	s.end()
	s.removeScript()
}

func (s *shell) removeScript() {
	_ = unix.Unlink(s.settings)
	s.script.Remove()
}

// signal sends the byte at which a launcher looks for its settings.
func (s *shell) signal() error {
	_ = s.control.SetWriteDeadline(time.Now().Add(handoverTime))
	_, err := s.control.Write([]byte{'\n'})
	return err
}

// shellName is a name that Bash takes over from its environment as it is.
var shellName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// Variables that Bash, or the C library in it, reads when it starts, or that
// cannot be assigned as any other: a run that sets one of these gets a Bash of
// its own. The list is that of the Bash manual, section "Shell Variables".
var (
	shellNames = []string{
		"_", "COPROC", "CHILD_MAX", "DIRSTACK", "ENV", "EPOCHREALTIME", "EPOCHSECONDS", "EUID", "EXECIGNORE", "FUNCNAME",
		"FUNCNEST", "GLOBIGNORE", "GROUPS", "HISTCMD", "HOSTFILE", "HOSTNAME", "HOSTTYPE", "IFS", "INSIDE_EMACS", "LINENO",
		"LINES", "COLUMNS", "MACHTYPE", "MAPFILE", "OLDPWD", "OPTARG", "OPTERR", "OPTIND", "OSTYPE", "PIPESTATUS",
		"POSIXLY_CORRECT", "PPID", "PWD", "RANDOM", "READLINE_LINE", "REPLY", "SECONDS", "SHELLOPTS", "SHLVL", "SRANDOM",
		"TERM", "TEXTDOMAIN", "TEXTDOMAINDIR", "UID", "AGENTSANDBOX_SETTINGS",
	}
	shellPrefixes = []string{"BASH", "HIST", "COMP_", "PS", "TERM"}
)

// shellSettings is what a Bash that waits reads before its script; ok is false
// if that would not be the same as to start it with env.
func shellSettings(env []string) (settings []byte, ok bool) {
	var b strings.Builder
	// Its random numbers would be those of the snapshot, and its clock too.
	var seed [4]byte
	_, _ = rand.Read(seed[:]) // never fails: crypto/rand ends the program instead
	fmt.Fprintf(&b, "printf g >&3\nexec 3<&-\nunset -v BASH_ENV AGENTSANDBOX_SETTINGS REPLY\nRANDOM=%d SECONDS=0\n", binary.BigEndian.Uint32(seed[:]))
	for _, setting := range env {
		name, value, _ := strings.Cut(setting, "=")
		if !shellName.MatchString(name) || readAtStart(setting) || slices.Contains(shellNames, name) || hasPrefix(name, shellPrefixes) {
			return nil, false
		}
		fmt.Fprintf(&b, "export %s='%s'\n", name, strings.ReplaceAll(value, "'", `'\''`))
	}
	return []byte(b.String()), true
}

// openWatch tells whether a file has been opened.
type openWatch struct {
	fd int

	mu   sync.Mutex
	seen bool
}

func watchOpen(path string) (*openWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_OPEN); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("inotify_add_watch", err)
	}
	return &openWatch{fd: fd}, nil
}

func (w *openWatch) happened() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.seen {
		var event [unix.SizeofInotifyEvent + unix.NAME_MAX + 1]byte
		n, _ := unix.Read(w.fd, event[:])
		w.seen = n > 0
	}
	return w.seen
}

func (w *openWatch) close() { unix.Close(w.fd) }
