package runtimetest

import (
	"strings"
	"testing"
	"time"
)

// endTests are about ways in which runs end.
var endTests = map[string]func(*testing.T, *box){
	"End/the time limit ends a run": func(t *testing.T, b *box) {
		for name, cmd := range map[string]string{
			"busy":            "print('partial', flush=True)\nwhile True: pass",
			"asleep":          "import time\nprint('partial', flush=True)\ntime.sleep(1e6)",
			"ignores signals": "import signal, time\nfor s in signal.valid_signals() - {9, 19}:\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nprint('partial', flush=True)\nwhile True: time.sleep(1)",
			"stops itself":    "import os, signal\nprint('partial', flush=True)\nos.kill(os.getpid(), signal.SIGSTOP)",
		} {
			b.runOutOfTime(name, cmd, func(o *outcome) bool { return o.stdout.String() == "partial\n" })
		}
		c := python("print(1)")
		c.Timeout = time.Hour
		if o := b.run(c); o.TimedOut || o.stdout.String() != "1\n" {
			t.Errorf("a run within its limit: %v", o)
		}
	},
	"End/the time limit lets Python say where it was": func(t *testing.T, b *box) {
		for name, cmd := range map[string]struct{ code, stdout, stderr string }{
			"in the script":  {"import time\nprint('x', end='')\ntime.sleep(1e6)", "x", "line 3, in <module>\n    time.sleep(1e6)\nKeyboardInterrupt\n"},
			"in a child":     {"import subprocess\nprint('x')\nsubprocess.run(['sleep', '1000'])", "x\n", "line 3, in <module>"},
			"clears up":      {"import time\ntry: time.sleep(1e6)\nfinally: print('y')", "y\n", "KeyboardInterrupt\n"},
			"takes it well":  {"import time\ntry: time.sleep(1e6)\nexcept KeyboardInterrupt: print('z')", "z\n", ""},
			"does not mind":  {"import time\nprint('x')\nwhile True:\n    try: time.sleep(1e6)\n    except KeyboardInterrupt: pass", "x\n", ""},
			"exits as usual": {"import sys, time\ntry: time.sleep(1e6)\nexcept KeyboardInterrupt: sys.exit(3)", "", ""},
		} {
			b.runOutOfTime(name, cmd.code, func(o *outcome) bool {
				return o.stdout.String() == cmd.stdout && strings.Contains(o.stderr.String(), cmd.stderr) && (cmd.stderr != "" || o.stderr.Len() == 0)
			})
		}
	},
	"End/the time limit reaches descendants": func(t *testing.T, b *box) {
		// One in the same group, one in a session of its own.
		c := bash("sleep 1000 & echo $! >> pids\nsetsid sleep 1000 & echo $! >> pids\nbash -c 'setsid bash -c \"echo \\$\\$ >> pids; sleep 1000; :\"' & \nuntil test \"$(wc -l < pids)\" = 3; do sleep 0.01; done\necho ready\nwait")
		c.Timeout = 2 * time.Second
		if o := b.run(c); !o.TimedOut || o.stdout.String() != "ready\n" {
			t.Fatalf("got %v", o)
		}
		b.gone("pids")
	},
	"End/Kill ends a run and its result arrives": func(t *testing.T, b *box) {
		r := b.begin(bash("sleep 1000 & echo $! > pids; echo ready; wait"))
		b.await(r, "ready\n")
		if err := r.Kill(b.ctx()); err != nil {
			t.Fatal(err)
		}
		if o := b.finish(r); !o.Killed || o.TimedOut || o.Signal != 9 {
			t.Errorf("got %v", o)
		}
		if err := r.Kill(b.ctx()); err != nil {
			t.Errorf("Kill after the end: %v", err)
		}
		b.gone("pids")
	},
	"End/Close ends a run": func(t *testing.T, b *box) {
		r := b.begin(bash("echo $$ > pids; sleep 1000 & echo $! >> pids; echo ready; wait"))
		b.await(r, "ready\n")
		for range 2 {
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := r.Next(b.ctx()); err == nil {
			t.Error("Next after Close succeeds")
		}
		b.gone("pids")
	},
	"End/a run ends with its main process": func(t *testing.T, b *box) {
		// A process that keeps stdout open, and one that writes without end.
		o := b.run(bash("setsid bash -c 'while :; do echo more; done' & echo $! > pids; sleep 1000 & echo $! >> pids; echo last"))
		if o.ExitCode != 0 || !strings.Contains(o.stdout.String(), "last\n") {
			t.Errorf("got %v", o)
		}
		// What lives on is the session's own.
		if out := b.must(bash("kill -0 $(tail -n1 pids) && echo alive; kill -9 $(cat pids)")); out != "alive\n" {
			t.Errorf("got %q", out)
		}
		b.gone("pids")
	},
	"End/what is left behind can go on writing": func(t *testing.T, b *box) {
		b.run(bash("(i=0; while :; do echo line; i=$((i+1)); echo $i > new; mv new count; sleep 0.01; done) & echo $! > pids; until test -e count; do sleep 0.01; done"))
		first := b.get("/workspace/count")
		b.eventually("the process counts to ten more", func() bool {
			return len(b.get("/workspace/count")) > len(first)
		})
		b.must(bash("kill -9 $(cat pids)"))
		b.gone("pids")
	},
	"End/all that the main process wrote arrives": func(t *testing.T, b *box) {
		for range 10 {
			o := b.run(python("import os\nos.write(1, b'x' * 60000)\nos.write(2, b'y' * 60000)\nos._exit(5)"))
			if o.stdout.Len() != 60000 || o.stderr.Len() != 60000 || o.ExitCode != 5 {
				t.Fatalf("%d and %d bytes, exit code %d", o.stdout.Len(), o.stderr.Len(), o.ExitCode)
			}
		}
	},
	"End/a final run takes its group with it": func(t *testing.T, b *box) {
		c := bash("sleep 1000 & echo $! > pids; echo over")
		c.Final = true
		if o := b.run(c); o.stdout.String() != "over\n" || o.ExitCode != 0 {
			t.Fatalf("got %v", o)
		}
		b.gone("pids")
		if out := b.must(python("print('again')")); out != "again\n" {
			t.Errorf("got %q", out)
		}
	},
	"End/a sandbox can be used after a kill": func(t *testing.T, b *box) {
		r := b.begin(bash("echo ready; sleep 1000"))
		b.await(r, "ready\n")
		if err := r.Kill(b.ctx()); err != nil {
			t.Fatal(err)
		}
		b.finish(r)
		for i := range 5 {
			if out := b.must(python("print('alive')")); out != "alive\n" {
				t.Errorf("run %d: %q", i, out)
			}
		}
	},
	"End/orphans do not pile up": func(t *testing.T, b *box) {
		out := b.must(python("import os\nfor i in range(50):\n    if os.fork() == 0:\n        if os.fork() == 0: os._exit(0)\n        os._exit(0)\n    os.wait()\nprint('done')"))
		if out != "done\n" {
			t.Errorf("got %q", out)
		}
	},
}

// runOutOfTime runs Python code that its time limit ends, and checks what it said by
// then. How much of that a run manages in its time, and in the moment that it has
// after the interrupt, depends on the machine: it is tried again, with more time.
// That the limit ended the run, and not before its time, holds every time.
func (b *box) runOutOfTime(name, code string, said func(*outcome) bool) {
	b.t.Helper()
	var o *outcome
	for limit := 500 * time.Millisecond; limit < time.Minute; limit *= 2 {
		c := python(code)
		c.Timeout = limit
		o = b.run(c)
		if !o.TimedOut || o.Killed || o.Signal != 9 || o.ExitCode != 0 || o.Duration < limit {
			b.t.Errorf("%s, with a limit of %v: %v", name, limit, o)
			return
		}
		if said(o) {
			return
		}
	}
	b.t.Errorf("%s: %v", name, o)
}

// gone waits until the processes that a file in the workspace names have died.
// A zombie counts as dead: whose child it was will see to it.
func (b *box) gone(file string) {
	b.t.Helper()
	b.eventually("the processes end", func() bool {
		out := b.must(bash("for p in $(cat " + file + "); do test -e /proc/$p && ! grep -q '^State:.[ZX]' /proc/$p/status 2>/dev/null && echo $p; done; true"))
		return out == ""
	})
}
