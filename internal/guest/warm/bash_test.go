package warm

import (
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/guest"
)

func TestWaitingShellIsUsedOnlyWhereItIsAsGoodAsNew(t *testing.T) {
	w := newWorld(t)
	is := func(env map[string]string, waiting int, want bool) {
		t.Helper()
		if got := do(t, w.bash, "echo $$", env); (got == strconv.Itoa(waiting)+"\n") != want {
			t.Errorf("%v: process %q ran the code, %d was waiting; the same is %v", env, got, waiting, want)
		}
	}
	is(nil, w.waitingShell(t), true)
	is(map[string]string{"A": "1", "PATH": "/bin"}, w.waitingShell(t), true)
	for _, name := range []string{"BASH_ENV", "SHELLOPTS", "UID", "LC_ALL", "RANDOM", "a-b", "BASH_FUNC_f%%", "PS4", "LD_LIBRARY_PATH"} {
		is(map[string]string{name: "x"}, w.waitingShell(t), false)
	}
	p := w.waitingShell(t)
	signal(t, p, unix.SIGKILL)
	is(nil, p, false)
	p = w.waitingShell(t)
	signal(t, p, unix.SIGSTOP)
	is(nil, p, true) // and is woken
	p = w.waitingShell(t)
	for range 3 {
		w.bash.Rehearse()
	}
	is(nil, p, true)
}

// TestScriptsRunOnce wakes the Bash that waits at the very moment that it is given a
// script: it may begin before it is told, and must not be run again elsewhere.
func TestScriptsRunOnce(t *testing.T) {
	w := newWorld(t)
	const runs = 20
	for range runs {
		w.waitingShell(t)
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				default:
					w.bash.Rehearse()
					runtime.Gosched()
				}
			}
		}()
		do(t, w.bash, "echo ran >> count; sleep 0.02", nil)
		close(stop)
		<-stopped
	}
	if got := do(t, w.bash, "wc -l < count", nil); got != strconv.Itoa(runs)+"\n" {
		t.Errorf("%d runs were begun %s times", runs, got)
	}
}

// TestWaitingShellIsLikeAnyOther compares all that a script can ask its shell.
func TestWaitingShellIsLikeAnyOther(t *testing.T) {
	w := newWorld(t)
	const ask = `echo "[$_] $? $# $LINENO ${BASH_SOURCE[*]} $SHLVL $BASH_SUBSHELL $- $SHELLOPTS $BASHOPTS ${FUNCNAME[*]}"
declare -p; declare -F; trap -p; hash; alias; shopt; set -o; ls -l /proc/$$/fd; ulimit -a; jobs; env | sort; pwd; caller; umask; echo "$VALUE"
cd /; echo "$OLDPWD"; f() { caller 0; }; f; printf '%s\n' "${BASH_LINENO[@]}"; echo "pid $$"; exit 3`
	env := map[string]string{"VALUE": "it's \"$HOME\" `pwd`\n\\ é\x01 end\n", "EMPTY": ""}
	// What differs between any two shells: ids, times, numbers of sockets, the
	// script's directory. BASH_ARGC is made by the first file that is read.
	own := regexp.MustCompile(`(?m)^.*(BASHPID|EPOCH|RANDOM|PPID|SECONDS|BASH_ARGC|LC_TIME).*$|pipe:\[\d+\]|` + regexp.QuoteMeta(w.scripts) + `/\d+|\d\d:\d\d|_=.*|pid \d+`)
	normal := func(s string) string { return own.ReplaceAllString(s, "") }

	pid := strconv.Itoa(w.waitingShell(t))
	said := do(t, w.bash, ask, env)
	if !strings.HasSuffix(said, "\npid "+pid+"\n") {
		t.Errorf("the Bash that waited, %s, was not used: %.100s", pid, said)
	}
	waited := normal(said)
	// TZ is read at the start, so this one starts for the run.
	env["TZ"] = "UTC"
	fresh := normal(do(t, w.bash, ask, env))
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
	w := newWorld(t)
	seen := map[string]bool{}
	for range 5 {
		w.waitingShell(t)
		seen[do(t, w.bash, "echo $RANDOM $RANDOM; test $SECONDS -le 1 || echo old", nil)] = true
	}
	if len(seen) != 5 {
		t.Errorf("five runs drew %v", seen)
	}
	if left, err := os.ReadDir(w.scripts); err != nil || len(left) > 3 {
		t.Errorf("%d scripts are left, %v", len(left), err)
	}
	if _, err := os.Stat(filepath.Join(w.root, guest.ShellLauncherPath)); err != nil {
		t.Error(err)
	}
}
