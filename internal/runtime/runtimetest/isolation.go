package runtimetest

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// isolationTests need a user, processes and a file system of the sandbox's own.
var isolationTests = map[string]func(*testing.T, *box){
	// A group with a high number may mark which run a process belongs to.
	"Isolation/code is not root": func(t *testing.T, b *box) {
		for range 2 {
			out := b.must(python("import os\nprint(os.getresuid(), os.getresgid(), [g for g in os.getgroups() if g < 1 << 20], os.getsid(0) == os.getpid() == os.getpgid(0))\nfor l in open('/proc/self/status'):\n    if l.startswith(('CapInh', 'CapPrm', 'CapEff', 'CapAmb')): print(int(l.split()[1], 16))"))
			if out != "(1000, 1000, 1000) (1000, 1000, 1000) [] True\n0\n0\n0\n0\n" {
				t.Errorf("python: %q", out)
			}
		}
		if out := b.must(bash("id -u; id -g; grep NoNewPrivs /proc/self/status || true; echo $HOME $USER $PWD $SHELL; locale charmap 2>/dev/null || true")); !strings.HasPrefix(out, "1000\n1000\n") || !strings.Contains(out, "/home/user user /workspace /bin/bash\n") {
			t.Errorf("bash: %q", out)
		}
	},
	"Isolation/no other descriptors": func(t *testing.T, b *box) {
		if out := b.must(python("import os\nfor fd in range(3, 256):\n    try: os.fstat(fd)\n    except OSError: continue\n    print(fd, os.readlink(f'/proc/self/fd/{fd}'))")); out != "" {
			t.Errorf("python has %q", out)
		}
		// 255 is bash's own, for its script.
		if out := b.must(bash("for fd in /proc/$$/fd/*; do case ${fd##*/} in 0|1|2|255) ;; *) test -e $fd && readlink $fd ;; esac; done; true")); out != "" {
			t.Errorf("bash has %q", out)
		}
	},
	"Isolation/the agent is out of reach": func(t *testing.T, b *box) {
		out := b.must(python(`
import os, ctypes
libc = ctypes.CDLL(None, use_errno=True)
PTRACE_ATTACH = 16
for task in os.listdir("/proc/1/task"):
    if libc.ptrace(PTRACE_ATTACH, int(task), 0, 0) == 0: print("traced", task)
    if libc.syscall(234, 1, int(task), 9) == 0: print("signalled", task)
for path in ["/proc/1/mem", "/proc/1/environ", "/proc/1/fd/3"]:
    try: open(path, "rb"); print("opened", path)
    except OSError: pass
try: os.kill(1, 9); print("killed")
except PermissionError: pass
for attempt in (lambda: open(__file__, "a"), lambda: os.unlink(__file__), lambda: os.rename(__file__, "mine.py"),
                lambda: os.chmod(__file__, 0o777), lambda: os.listdir("/run/agentsandbox") and open("/run/agentsandbox/x", "w")):
    try: attempt(); print("changed the script")
    except OSError: pass
`))
		if out != "" {
			t.Errorf("got %q", out)
		}
		if out := b.must(python("print('alive')")); out != "alive\n" {
			t.Errorf("afterwards: %q", out)
		}
	},
	"Isolation/kill -9 -1": func(t *testing.T, b *box) {
		other := b.begin(bash("echo ready; sleep 1000"))
		b.await(other, "ready\n")
		for range 3 {
			if o := b.run(bash("kill -9 -1; echo survived")); o.ExitCode != 0 && o.Signal != 9 {
				t.Errorf("got %v", o)
			}
			if out := b.must(python("print('alive')")); out != "alive\n" {
				t.Errorf("afterwards: %q", out)
			}
			if out := b.must(bash("echo alive")); out != "alive\n" {
				t.Errorf("afterwards, Bash: %q", out)
			}
		}
		if o := b.finish(other); o.Signal != 9 || o.Killed {
			t.Errorf("the neighbour: %v", o)
		}
	},
	"Isolation/runs that have not begun are begun again": func(t *testing.T, b *box) {
		// It signals everybody else while the next runs begin. One that has begun by
		// then may end so, or be stopped until the last signal.
		const killer = "import os, signal, time\nfor _ in range(40):\n    os.kill(-1, signal.%s)\n    time.sleep(0.005)\nos.kill(-1, signal.SIGCONT)\n"
		for _, how := range []string{"SIGKILL", "SIGSTOP", "SIGINT", "SIGTERM"} {
			r := b.begin(python("print('ready', flush=True)\n" + fmt.Sprintf(killer, how)))
			b.await(r, "ready\n")
			for _, c := range []runtime.Command{
				bash("touch begun; rm begun; echo over"), python("print('over', flush=True)"),
			} {
				if o := b.run(c); o.stdout.String() != "over\n" && o.ExitCode == 0 && o.Signal == 0 {
					t.Errorf("%s: %v", how, o)
				}
			}
			b.finish(r)
			if out := b.must(python("print('alive')")); out != "alive\n" {
				t.Errorf("after %s: %q", how, out)
			}
		}
	},
	"Isolation/a final run takes everybody with it": func(t *testing.T, b *box) {
		c := bash("setsid bash -c 'trap \"\" TERM HUP; while :; do sleep 0.1; done' & echo $! > pids; (setsid sleep 1000 & echo $! >> pids) ; echo over")
		c.Final = true
		if o := b.run(c); o.stdout.String() != "over\n" {
			t.Fatalf("got %v", o)
		}
		if out := b.must(bash("for p in $(cat pids); do test -e /proc/$p && ! grep -q '^State:.[ZX]' /proc/$p/status && echo $p; done; true")); out != "" {
			t.Errorf("alive: %q", out)
		}
	},
	"Isolation/files have the user's rights": func(t *testing.T, b *box) {
		if _, r, err := b.ReadFile(b.ctx(), "/proc/1/environ"); !errors.Is(err, runtime.ErrSystemPath) && !errors.Is(err, runtime.ErrPermission) {
			t.Errorf("ReadFile of a file of the kernel: %v, %v", r, err)
		}
		for _, path := range []string{"/etc/shadow", "/root/file"} {
			if _, r, err := b.ReadFile(b.ctx(), path); !errors.Is(err, runtime.ErrPermission) && !errors.Is(err, runtime.ErrNotExist) {
				t.Errorf("ReadFile %s: %v, %v", path, r, err)
			}
		}
		for _, path := range []string{"/etc/passwd", "/etc/new", "/usr/lib/agentsandbox/agent", "/run/agentsandbox/x", "/new"} {
			if _, err := b.WriteFile(b.ctx(), path, strings.NewReader("")); !errors.Is(err, runtime.ErrPermission) {
				t.Errorf("WriteFile %s: %v, want ErrPermission", path, err)
			}
		}
		for _, path := range []string{"/etc/passwd", "/usr/lib/agentsandbox", "/workspace"} {
			b.put("/workspace/kept", "x")
			if err := b.Remove(b.ctx(), path); !errors.Is(err, runtime.ErrPermission) {
				t.Errorf("Remove %s: %v, want ErrPermission", path, err)
			}
		}
		if got := b.get("/workspace/kept"); got != "x" {
			t.Errorf("got %q", got)
		}
		b.put("/workspace/mine", "")
		if out := b.must(bash("stat -c '%u %g' mine; echo secret > locked; chmod 000 locked")); out != "1000 1000\n" {
			t.Errorf("owner: %q", out)
		}
		if _, _, err := b.ReadFile(b.ctx(), "/workspace/locked"); !errors.Is(err, runtime.ErrPermission) {
			t.Errorf("ReadFile of a locked file: %v", err)
		}
	},
	"Isolation/unreadable files are reported": func(t *testing.T, b *box) {
		o := b.run(collecting(bash("mkdir d; echo x > d/f; chmod 000 d/f d"), runtime.CollectLimits{}))
		if got := changed(o); len(got) != 1 || got[0] != "d/f" {
			t.Errorf("got %q, %d omitted", got, o.omitted())
		}
	},
	"Isolation/orphans are reaped": func(t *testing.T, b *box) {
		b.must(python("import os\nfor i in range(20):\n    if os.fork() == 0:\n        os.fork(); os.fork()\n        os._exit(0)\n    os.wait()"))
		b.eventually("no zombie is left", func() bool {
			return b.must(bash("grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null || true")) == ""
		})
	},
	"Isolation/the identity is the sandbox's own": func(t *testing.T, b *box) {
		out := b.must(bash("hostname 2>/dev/null || cat /proc/sys/kernel/hostname; cat /etc/hostname; cat /etc/machine-id"))
		f := strings.Fields(out)
		if len(f) != 3 || f[0] != f[1] || len(f[2]) != 32 {
			t.Errorf("got %q", out)
		}
	},
	"Isolation/processes are bounded and the sandbox survives": func(t *testing.T, b *box) {
		c := bash("bomb() { bomb | bomb & }; for i in $(seq 20); do bomb; done 2>/dev/null; sleep 1; echo over")
		c.OutputLimit = 1 << 10
		c.Timeout = 3 * time.Second // it has no process left with which to end itself
		c.Final = true
		b.run(c)
		b.eventually("code runs again", func() bool {
			r, err := b.Run(b.ctx(), python("print('alive')"))
			if err != nil {
				return false
			}
			defer r.Close()
			event, err := r.Next(b.ctx())
			return err == nil && string(event.Data) == "alive\n"
		})
	},
}
