package agent

import (
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/guest"
)

// waitingShell waits until a Bash waits and returns its process id.
func waitingShell(t *testing.T, a *Agent) int {
	t.Helper()
	if err := a.shells.wait(deadline(t)); err != nil {
		t.Fatal(err)
	}
	a.shells.mu.Lock()
	defer a.shells.mu.Unlock()
	return a.shells.waiting.pid
}

func TestWaitingShellIsUsedOnlyWhereItIsAsGoodAsNew(t *testing.T) {
	a := newAgent(t, nil)
	c := client(t, a)
	is := func(env map[string]string, waiting int, want bool) {
		t.Helper()
		if got := do(t, c, agentsandbox.Bash, "echo $$", env); (got == strconv.Itoa(waiting)+"\n") != want {
			t.Errorf("%v: process %q ran the code, %d was waiting; the same is %v", env, got, waiting, want)
		}
	}
	is(nil, waitingShell(t, a), true)
	is(map[string]string{"A": "1", "PATH": "/bin"}, waitingShell(t, a), true)
	for _, name := range []string{"BASH_ENV", "SHELLOPTS", "UID", "LC_ALL", "RANDOM", "a-b", "BASH_FUNC_f%%", "PS4", "LD_LIBRARY_PATH"} {
		is(map[string]string{name: "x"}, waitingShell(t, a), false)
	}
	p := waitingShell(t, a)
	if err := unix.Kill(p, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	is(nil, p, false)
	p = waitingShell(t, a)
	if err := unix.Kill(p, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	is(nil, p, true) // and is woken
	p = waitingShell(t, a)
	for range 3 {
		a.shells.rehearse()
	}
	is(nil, p, true)
}

// TestScriptsRunOnce wakes the Bash that waits at the very moment that it is given a
// script: it may begin before it is told, and must not be run again elsewhere.
func TestScriptsRunOnce(t *testing.T) {
	a := newAgent(t, nil)
	c := client(t, a)
	const runs = 20
	for range runs {
		waitingShell(t, a)
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				default:
					a.shells.rehearse()
					runtime.Gosched()
				}
			}
		}()
		do(t, c, agentsandbox.Bash, "echo ran >> count; sleep 0.02", nil)
		close(stop)
		<-stopped
	}
	if got := do(t, c, agentsandbox.Bash, "wc -l < count", nil); got != strconv.Itoa(runs)+"\n" {
		t.Errorf("%d runs were begun %s times", runs, got)
	}
}

// TestWaitingShellIsLikeAnyOther compares all that a script can ask its shell.
func TestWaitingShellIsLikeAnyOther(t *testing.T) {
	a := newAgent(t, nil)
	c := client(t, a)
	const ask = `echo "[$_] $? $# $LINENO ${BASH_SOURCE[*]} $SHLVL $BASH_SUBSHELL $- $SHELLOPTS $BASHOPTS ${FUNCNAME[*]}"
declare -p; declare -F; trap -p; hash; alias; shopt; set -o; ls -l /proc/$$/fd; ulimit -a; jobs; env | sort; pwd; caller; umask; echo "$VALUE"
cd /; echo "$OLDPWD"; f() { caller 0; }; f; printf '%s\n' "${BASH_LINENO[@]}"; echo "pid $$"; exit 3`
	env := map[string]string{"VALUE": "it's \"$HOME\" `pwd`\n\\ é\x01 end\n", "EMPTY": ""}
	// What differs between any two shells: ids, times, numbers of sockets, the
	// script's directory. BASH_ARGC is made by the first file that is read.
	own := regexp.MustCompile(`(?m)^.*(BASHPID|EPOCH|RANDOM|PPID|SECONDS|BASH_ARGC|LC_TIME).*$|pipe:\[\d+\]|` + regexp.QuoteMeta(a.scripts.dir) + `/\d+|\d\d:\d\d|_=.*|pid \d+`)
	normal := func(s string) string { return own.ReplaceAllString(s, "") }

	pid := strconv.Itoa(waitingShell(t, a))
	said := do(t, c, agentsandbox.Bash, ask, env)
	if !strings.HasSuffix(said, "\npid "+pid+"\n") {
		t.Errorf("the Bash that waited, %s, was not used: %.100s", pid, said)
	}
	waited := normal(said)
	// TZ is read at the start, so this one starts for the run.
	env["TZ"] = "UTC"
	fresh := normal(do(t, c, agentsandbox.Bash, ask, env))
	fresh = regexp.MustCompile(`(?m)^(declare -x )?TZ=.*\n`).ReplaceAllString(fresh, "")
	if waited != fresh {
		t.Errorf("one that waited:\n%s\none that did not:\n%s", firstDifference(waited, fresh), firstDifference(fresh, waited))
	}
}

// firstDifference is the first line of a that is not that of b.
func firstDifference(a, b string) string {
	other := strings.Split(b, "\n")
	for i, line := range strings.Split(a, "\n") {
		if i >= len(other) || other[i] != line {
			return strconv.Itoa(i) + ": " + line
		}
	}
	return "no difference, but shorter"
}

func TestWaitingShellsDrawTheirOwnNumbers(t *testing.T) {
	a := newAgent(t, nil)
	c := client(t, a)
	seen := map[string]bool{}
	for range 5 {
		waitingShell(t, a)
		seen[do(t, c, agentsandbox.Bash, "echo $RANDOM $RANDOM; test $SECONDS -le 1 || echo old", nil)] = true
	}
	if len(seen) != 5 {
		t.Errorf("five runs drew %v", seen)
	}
	if left, err := os.ReadDir(a.scripts.dir); err != nil || len(left) > 3 {
		t.Errorf("%d scripts are left, %v", len(left), err)
	}
	if _, err := os.Stat(filepath.Join(a.opts.Root, guest.ShellLauncherPath)); err != nil {
		t.Error(err)
	}
}
