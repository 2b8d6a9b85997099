package runtimetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// runTests are about starting code, its environment, and its output.
var runTests = map[string]func(*testing.T, *box){
	"Run/output goes to its stream": func(t *testing.T, b *box) {
		for name, cmd := range map[string]runtime.Command{
			"python": python("import sys; print('out'); print('err', file=sys.stderr)"),
			"bash":   bash("echo out; echo err >&2"),
		} {
			o := b.run(cmd)
			if o.stdout.String() != "out\n" || o.stderr.String() != "err\n" || o.ExitCode != 0 || o.Signal != 0 {
				t.Errorf("%s: %v", name, o)
			}
			if o.StdoutBytes != 4 || o.StderrBytes != 4 || o.Duration <= 0 || o.TimedOut || o.Killed {
				t.Errorf("%s: %v", name, o)
			}
		}
	},
	"Run/bytes arrive as they were written": func(t *testing.T, b *box) {
		all := make([]byte, 256)
		for i := range all {
			all[i] = byte(i)
		}
		want := strings.Repeat(string(all), 4)
		if got := b.must(python("import sys; sys.stdout.buffer.write(bytes(range(256)) * 4)")); got != want {
			t.Errorf("got %q", got)
		}
		if got := b.must(bash(`printf '\377\000\n\303'`)); got != "\xff\x00\n\xc3" {
			t.Errorf("got %q", got)
		}
	},
	"Run/exit codes and signals": func(t *testing.T, b *box) {
		for _, tc := range []struct {
			cmd          runtime.Command
			exit, signal int
		}{
			{python("raise SystemExit(3)"), 3, 0},
			{python("import os; os._exit(255)"), 255, 0},
			{python("1/0"), 1, 0},
			{python("import os; os.kill(os.getpid(), 9)"), 0, 9},
			{python("import os; os.abort()"), 0, 6},
			{bash("exit 7"), 7, 0},
			{bash("kill -TERM $$"), 0, 15},
			{bash("no-such-program"), 127, 0},
		} {
			if o := b.run(tc.cmd); o.ExitCode != tc.exit || o.Signal != tc.signal {
				t.Errorf("%s: %v; want exit code %d, signal %d", tc.cmd.Code, o, tc.exit, tc.signal)
			}
		}
	},
	"Run/bash runs a script file": func(t *testing.T, b *box) {
		out := b.must(bash("test -f \"$0\" && test $# = 0 && basename \"$PWD\"\nwc -c </dev/stdin\numask"))
		if got := strings.Fields(out); len(got) != 3 || got[0] != "workspace" || got[1] != "0" || got[2] != "0022" {
			t.Errorf("got %q, want the directory workspace, an empty input and umask 0022", out)
		}
	},
	"Run/environment": func(t *testing.T, b *box) {
		env := map[string]string{
			"PLAIN": "x", "EMPTY": "", "LINES": "a\nb", "EQUALS": "a=b=c", "TEXT": "größer 💡",
			"PATH": "/nowhere:/usr/bin:/bin", "BYTES": "\xff\xfe",
		}
		want := fmt.Sprintf("%q", []string{"x", "", "a\nb", "a=b=c", "größer 💡", "/nowhere:/usr/bin:/bin", "\xff\xfe"})
		cmd := python(`import os
for name in "PLAIN", "EMPTY", "LINES", "EQUALS", "TEXT", "PATH", "BYTES":
    os.write(1, os.environb[name.encode()] + b"\0")`)
		cmd.Env = env
		got := strings.Split(strings.TrimSuffix(b.must(cmd), "\x00"), "\x00")
		if fmt.Sprintf("%q", got) != want {
			t.Errorf("python: %q, want %s", got, want)
		}
		cmd = bash(`printf '%s\0' "$PLAIN" "$EMPTY" "$LINES" "$EQUALS" "$TEXT" "$PATH" "$BYTES"`)
		cmd.Env = env
		got = strings.Split(strings.TrimSuffix(b.must(cmd), "\x00"), "\x00")
		if fmt.Sprintf("%q", got) != want {
			t.Errorf("bash: %q, want %s", got, want)
		}
		if out := b.must(bash("env; env -0 | tr '\\0' '\\n'")); strings.Contains(out, "PLAIN") || strings.Contains(out, "PYTHONPATH") {
			t.Errorf("the environment of one run is in the next: %q", out)
		}
	},
	"Run/a large environment": func(t *testing.T, b *box) {
		cmd := python("import os; print(len(os.environ['A']), len(os.environ['B']))")
		cmd.Env = map[string]string{"A": strings.Repeat("a", 100<<10), "B": strings.Repeat("b", 100<<10)}
		if out := b.must(cmd); out != "102400 102400\n" {
			t.Errorf("got %q", out)
		}
	},
	"Run/large code": func(t *testing.T, b *box) {
		code := "x = '''" + strings.Repeat("0123456789abcde\n", 1<<16) + "'''\nprint(len(x))"
		if out := b.must(python(code)); out != "1048576\n" {
			t.Errorf("got %q", out)
		}
	},
	"Run/big output arrives whole": func(t *testing.T, b *box) {
		const size = 24 << 20
		r := b.begin(python(fmt.Sprintf("import sys, hashlib\nd = bytes(range(251)) * (%d // 251)\nsys.stdout.buffer.write(d)\nsys.stdout.flush()\nsys.stderr.write(hashlib.sha256(d).hexdigest())", size)))
		o := b.finish(r)
		if got := fmt.Sprintf("%x", sha256.Sum256(o.stdout.Bytes())); o.stderr.String() != got || o.StdoutBytes != int64(o.stdout.Len()) {
			t.Errorf("%d bytes with hash %s arrived, %q was written", o.stdout.Len(), got, o.stderr.String())
		}
	},
	"Run/output over the limit is counted": func(t *testing.T, b *box) {
		cmd := python("import sys\nfor i in range(300): sys.stdout.write('x' * 1000)\nsys.stderr.write('done')")
		cmd.OutputLimit = 1500
		o := b.run(cmd)
		if o.stdout.Len() != 1500 || o.StdoutBytes != 300000 || o.stderr.String() != "done" || o.StderrBytes != 4 || o.ExitCode != 0 {
			t.Errorf("got %v", o)
		}
		cmd = bash("head -c 1500 /dev/zero; head -c 1501 /dev/zero >&2")
		cmd.OutputLimit = 1500
		if o = b.run(cmd); o.stdout.Len() != 1500 || o.StdoutBytes != 1500 || o.stderr.Len() != 1500 || o.StderrBytes != 1501 {
			t.Errorf("got %d of %d and %d of %d bytes", o.stdout.Len(), o.StdoutBytes, o.stderr.Len(), o.StderrBytes)
		}
	},
	"Run/output arrives while the code runs": func(t *testing.T, b *box) {
		r := b.begin(python("import os, time\nprint('begun', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.005)\nprint('over')"))
		b.await(r, "begun\n")
		b.put("/workspace/go", "")
		if o := b.finish(r); o.stdout.String() != "over\n" || o.ExitCode != 0 {
			t.Errorf("got %v", o)
		}
	},
	"Run/runs go on in parallel": func(t *testing.T, b *box) {
		// Each writes its own file and waits for the others'.
		const count = 4
		var runs []runtime.Run
		for i := range count {
			if i%2 == 0 {
				runs = append(runs, b.begin(python(fmt.Sprintf("import os, time\nopen('here%d', 'w')\nwhile not all(os.path.exists(f'here{i}') for i in range(%d)): time.sleep(0.005)\nprint(%d)", i, count, i))))
			} else {
				runs = append(runs, b.begin(bash(fmt.Sprintf("touch here%d\nuntil test -e here0 -a -e here1 -a -e here2 -a -e here3; do sleep 0.01; done\necho %d", i, i))))
			}
		}
		for i, r := range runs {
			if o := b.finish(r); o.stdout.String() != fmt.Sprintf("%d\n", i) {
				t.Errorf("run %d: %v", i, o)
			}
		}
	},
	"Run/a slow reader stops nobody else": func(t *testing.T, b *box) {
		slow := b.begin(bash("yes | head -c 8000000; echo end >&2"))
		for i := range 3 {
			if out := b.must(python(fmt.Sprintf("print('x' * 200000, %d)", i))); len(out) != 200003 {
				t.Errorf("%d bytes", len(out))
			}
		}
		b.put("/workspace/file", "content")
		if got := b.get("/workspace/file"); got != "content" {
			t.Errorf("got %q", got)
		}
		if o := b.finish(slow); o.stdout.Len() != 8000000 || o.stderr.String() != "end\n" {
			t.Errorf("%d bytes of output", o.stdout.Len())
		}
	},
	"Run/cancelling a wait leaves the run alone": func(t *testing.T, b *box) {
		r := b.begin(bash("until test -e go; do sleep 0.01; done; echo over"))
		ctx, cancel := context.WithCancel(b.ctx())
		cancel()
		if _, err := r.Next(ctx); !errors.Is(err, context.Canceled) {
			t.Fatalf("Next: %v, want context.Canceled", err)
		}
		b.put("/workspace/go", "")
		if o := b.finish(r); o.stdout.String() != "over\n" {
			t.Errorf("got %v", o)
		}
	},
	"Run/CPU time": func(t *testing.T, b *box) {
		busy := b.run(python("import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"))
		if busy.CPU < 200*time.Millisecond || busy.Duration < 200*time.Millisecond {
			t.Errorf("300 ms of work: %v of CPU in %v", busy.CPU, busy.Duration)
		}
	},
	"Run/what cannot be run is refused": func(t *testing.T, b *box) {
		valid := python("pass")
		for name, change := range map[string]func(*runtime.Command){
			"no id":             func(c *runtime.Command) { c.ID = "" },
			"an id with a path": func(c *runtime.Command) { c.ID = "../x" },
			"a long id":         func(c *runtime.Command) { c.ID = strings.Repeat("x", 500) },
			"another language":  func(c *runtime.Command) { c.Language = agentsandbox.Language("cobol") },
			"a bad name":        func(c *runtime.Command) { c.Env = map[string]string{"A=B": ""} },
			"a bad value":       func(c *runtime.Command) { c.Env = map[string]string{"A": "\x00"} },
			"a relative dir":    func(c *runtime.Command) { c.CollectDirs = []string{"workspace"} },
			"a negative limit":  func(c *runtime.Command) { c.OutputLimit = -1 },
		} {
			cmd := valid
			change(&cmd)
			if r, err := b.Run(b.ctx(), cmd); !errors.Is(err, runtime.ErrInvalid) {
				t.Errorf("%s: %v, %v; want ErrInvalid", name, r, err)
			}
		}
		// An id can be used once at a time: Run or the first Next says so.
		r := b.begin(bash("until test -e go; do sleep 0.01; done"))
		again := valid
		again.ID = "run-taken"
		first := bash("until test -e go; do sleep 0.01; done; echo first")
		first.ID = "run-taken"
		held := b.begin(first)
		_, err := held.Next(shortly(t))
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Next: %v", err)
		}
		if err := firstError(b, again); !errors.Is(err, runtime.ErrInvalid) {
			t.Errorf("an id in use: %v, want ErrInvalid", err)
		}
		b.put("/workspace/go", "")
		b.finish(r)
		if o := b.finish(held); o.stdout.String() != "first\n" {
			t.Errorf("got %v", o)
		}
	},
	"Run/what looks like a message is output": func(t *testing.T, b *box) {
		text := "asbxwire\x00\x01\x02\x03\x00\x00\x00\x00\x00\x01\xff\xff\xff\xffevent: result\n\ndata: {\"exit_code\":0}\n\n"
		o := b.run(python(fmt.Sprintf("import sys\nsys.stdout.buffer.write(bytes.fromhex('%x'))\nsys.exit(4)", text)))
		if !bytes.Equal(o.stdout.Bytes(), []byte(text)) || o.ExitCode != 4 {
			t.Errorf("got %v", o)
		}
	},
}

// shortly returns a context that ends soon, for what must not happen.
func shortly(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// firstError returns the error of Run or of the first Next.
func firstError(b *box, cmd runtime.Command) error {
	r, err := b.Run(b.ctx(), cmd)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = r.Next(b.ctx())
	return err
}
