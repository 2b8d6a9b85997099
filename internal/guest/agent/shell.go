package agent

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
	"github.com/agentsandbox/agentsandbox/internal/guest/rawio"
)

// shell is a Bash that was started for one run, and waits for its script as an
// interpreter does. See the launcher, wait.sh, for how it is told.
type shell struct {
	*interpreter
	settings string // the path that the launcher looks for
}

// shells keeps one Bash waiting. Unlike a Python interpreter it costs little to
// start, but a start is still most of the time of a short command.
type shells struct {
	a  *Agent
	wg sync.WaitGroup // refills

	mu      sync.Mutex
	waiting *shell
	filling chan struct{} // closed when the start under way is over; nil: none is
	failure error         // of the latest start
	closed  bool
}

func (sh *shells) close() {
	sh.mu.Lock()
	sh.closed = true
	waiting := sh.waiting
	sh.waiting = nil
	sh.mu.Unlock()
	if waiting != nil {
		waiting.discard()
	}
	sh.wg.Wait()
}

// launch starts a Bash that will wait for its script.
func (sh *shells) launch() (*shell, error) {
	a := sh.a
	script, err := a.scripts.new(".sh")
	if err != nil {
		return nil, err
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		script.remove()
		return nil, err
	}
	defer unix.Close(fds[1])
	_ = unix.SetNonblock(fds[0], true)
	s := &shell{
		interpreter: &interpreter{
			script: script, ready: make(chan struct{}), controlFD: fds[0], control: os.NewFile(uintptr(fds[0]), "shell"),
		},
		settings: filepath.Join(script.dir, "settings"),
	}
	s.child, s.out, err = a.spawn(program{
		path:   a.opts.Bash,
		args:   []string{filepath.Base(a.opts.Bash), script.name()},
		env:    merge(a.opts.Env, []string{"BASH_ENV=" + filepath.Join(a.opts.LauncherDir, filepath.Base(guest.ShellLauncherPath)), "AGENTSANDBOX_SETTINGS=" + s.settings}),
		files:  []uintptr{3: uintptr(fds[1])},
		script: script,
	})
	if err != nil {
		s.control.Close()
		script.remove()
		return nil, err
	}
	sh.wg.Go(s.awaitReady)
	return s, nil
}

// discard ends a Bash that no run has been given.
func (s *shell) discard() {
	_ = unix.Unlink(s.settings)
	s.interpreter.discard()
}

// wake sends the byte that it waits for.
func (s *shell) wake() error {
	_ = s.control.SetWriteDeadline(time.Now().Add(handoverTime))
	_, err := s.control.Write([]byte{'\n'})
	return err
}

// run runs code in the Bash that waits, if there is one and that is as good as
// one that is started now.
func (sh *shells) run(code []byte, env []string, req *guest.RunRequest) (process, bool) {
	settings, ok := shellSettings(env)
	if !ok {
		return process{}, false
	}
	sh.mu.Lock()
	s := sh.waiting
	sh.waiting = nil
	sh.mu.Unlock()
	if s == nil {
		return process{}, false
	}
	p, err := s.hand(sh.a, code, settings, req)
	if err != nil {
		s.discard()
		return process{}, false
	}
	return p, true
}

// hand gives a Bash that waits, or that will, its script.
func (s *shell) hand(a *Agent, code, settings []byte, req *guest.RunRequest) (process, error) {
	starting := !s.isReady()
	if !starting && !s.waits || s.exited() {
		return process{}, errors.New("it does not wait")
	}
	if err := s.script.write(code); err != nil {
		return process{}, err
	}
	if err := a.limit(s.child, req); err != nil {
		return process{}, err
	}
	// The settings come last, and under their name only when they are complete.
	if err := rawio.WriteFile(s.settings+".new", unix.O_CREAT|unix.O_EXCL, settings); err != nil {
		_ = unix.Unlink(s.settings + ".new")
		return process{}, err
	}
	p := s.process()
	if err := unix.Rename(s.settings+".new", s.settings); err != nil {
		return process{}, err
	}
	// From here on it may run the script, even before it is told: a rehearsal may
	// have it look for the settings just now. So nothing below is a reason to run
	// the script elsewhere: hasBegun tells what happened.
	release := p.release
	p.release = func() {
		_ = unix.Unlink(s.settings)
		release()
	}
	// Another run of the user may have stopped it.
	s.withLive(func(pid int) { _ = unix.Kill(pid, unix.SIGCONT) })
	_ = s.wake() // fails if it has begun, or has died
	return p, nil
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
		if !shellName.MatchString(name) || readAtStart(setting) || slices.Contains(shellNames, name) ||
			slices.ContainsFunc(shellPrefixes, func(p string) bool { return strings.HasPrefix(name, p) }) {
			return nil, false
		}
		fmt.Fprintf(&b, "export %s='%s'\n", name, strings.ReplaceAll(value, "'", `'\''`))
	}
	return []byte(b.String()), true
}

// refill starts a Bash that waits, if there is none, without waiting for it.
func (sh *shells) refill() {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.waiting != nil || sh.filling != nil || sh.closed {
		return
	}
	done := make(chan struct{})
	sh.filling = done
	sh.wg.Go(func() {
		defer close(done)
		s, err := sh.launch()
		sh.mu.Lock()
		sh.filling, sh.failure = nil, err
		if err == nil && !sh.closed {
			sh.waiting, s = s, nil
		}
		sh.mu.Unlock()
		switch {
		case err != nil:
			sh.a.log.Info("no Bash waits: the next run starts its own", "error", err)
		case s != nil:
			s.discard()
		}
	})
}

// wait makes sure that a Bash waits, fully started.
func (sh *shells) wait(ctx context.Context) error {
	sh.refill()
	for {
		sh.mu.Lock()
		s, filling, err := sh.waiting, sh.filling, sh.failure
		sh.mu.Unlock()
		switch {
		case filling != nil:
			select {
			case <-filling:
				continue
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		case err != nil:
			return notStarted("start "+filepath.Base(sh.a.opts.Bash), err)
		case s == nil:
			return refuse(guest.FailOther, "the shell was taken while it was waited for")
		}
		select {
		case <-s.ready:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if !s.waits {
			return refuse(guest.FailNotStarted, "the shell %s ended before it was ready", sh.a.opts.Bash)
		}
		return nil
	}
}

// rehearse lets the Bash that waits touch what a run will need, which after a
// restore is not mapped yet.
func (sh *shells) rehearse() {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if s := sh.waiting; s != nil && s.isReady() && s.waits {
		_ = s.wake()
	}
}
