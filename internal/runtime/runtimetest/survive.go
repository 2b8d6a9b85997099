package runtimetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// Reopen releases a sandbox and takes it over again, as a later process would.
type Reopen func(t *testing.T, sb runtime.Sandbox) runtime.Sandbox

// SurvivalSuite is what outlives the process that started a sandbox.
func SurvivalSuite(t *testing.T, start Start, reopen Reopen) {
	for name, test := range survivalTests {
		t.Run(name, func(t *testing.T) {
			sb := start(t)
			b := &box{Sandbox: sb, t: t}
			t.Cleanup(func() {
				if err := b.Destroy(context.Background()); err != nil {
					t.Errorf("Destroy: %v", err)
				}
			})
			test(t, b, func() { b.Sandbox = reopen(t, b.Sandbox) })
		})
	}
}

// keeper is a command whose output outlives a conversation, and what was kept.
type keeper struct {
	runtime.Command
	kept  runtime.Progress
	times int
}

func kept(cmd runtime.Command) *keeper {
	k := &keeper{Command: cmd}
	k.Keep = func(p runtime.Progress) error {
		k.kept, k.times = p, k.times+1
		return nil
	}
	return k
}

// again is the command as a later process knows it.
func (k *keeper) again(t *testing.T) runtime.Command {
	t.Helper()
	cmd := k.Command
	cmd.Code, cmd.Env = "", nil
	text, err := json.Marshal(cmd)
	if err != nil {
		t.Fatal(err)
	}
	var read runtime.Command
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	read.Keep = k.Keep
	return read
}

func (b *box) attach(cmd runtime.Command, from runtime.Progress) runtime.Run {
	b.t.Helper()
	r, err := b.Attach(b.ctx(), cmd, from)
	if err != nil {
		b.t.Fatalf("Attach: %v", err)
	}
	return r
}

var survivalTests = map[string]func(t *testing.T, b *box, reopen func()){
	"Survive/released means lost, and alive": func(t *testing.T, b *box, reopen func()) {
		b.put("/workspace/kept", "content")
		old := b.Sandbox
		reopen()
		if err := old.Destroy(context.Background()); err != nil {
			t.Errorf("Destroy of what was released: %v", err)
		}
		old.Release()
		select {
		case <-old.Done():
		default:
			t.Error("Done is not closed after Release")
		}
		if _, err := old.Stat(b.ctx(), "/workspace"); !errors.Is(err, runtime.ErrSandboxLost) {
			t.Errorf("Stat: %v", err)
		}
		if _, err := old.Usage(); !errors.Is(err, runtime.ErrSandboxLost) {
			t.Errorf("Usage: %v", err)
		}
		if got := b.get("/workspace/kept"); got != "content" || b.ID() != old.ID() {
			t.Errorf("got %q in %s", got, b.ID())
		}
		if got := b.must(python("print(6 * 7)")); got != "42\n" {
			t.Errorf("got %q", got)
		}
	},
	"Survive/a run goes on, and nothing of it is missing": func(t *testing.T, b *box, reopen func()) {
		k := kept(bash("echo one; echo warned >&2; until test -e go; do sleep 0.01; done; echo two; echo made > made; exit 3"))
		k.CollectDirs = []string{agentsandbox.Workspace}
		b.await(b.begin0(k.Command), "one\n")
		for range 2 { // twice: one may be killed again at once
			reopen()
		}
		b.put("/workspace/go", "")
		r := b.attach(k.again(t), k.kept)
		o := b.finish(r)
		if o.stdout.String() != "one\ntwo\n" || o.stderr.String() != "warned\n" || o.ExitCode != 3 ||
			len(o.Changed) == 0 || o.Changed[len(o.Changed)-1].Path != "/workspace/made" {
			t.Errorf("got %v", o)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		b.forgotten(k.again(t))
	},
	"Survive/output that was acknowledged is kept first": func(t *testing.T, b *box, reopen func()) {
		const lines = 40_000 // far more than the agent retains
		k := kept(python(fmt.Sprintf("for i in range(%d): print(f'line {i:06}')", lines)))
		r, err := b.Run(b.ctx(), k.Command)
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		for k.times < 2 {
			event, err := r.Next(b.ctx())
			if err != nil {
				t.Fatal(err)
			}
			out.Write(event.Data)
		}
		stored := out.String()[:k.kept.Stdout]
		reopen()
		o := b.finish(b.attach(k.again(t), k.kept))
		whole := stored + o.stdout.String()
		if n := strings.Count(whole, "\n"); n != lines || !strings.HasPrefix(whole, "line 000000\n") || !strings.HasSuffix(whole, fmt.Sprintf("line %06d\n", lines-1)) || int64(len(whole)) != o.StdoutBytes {
			t.Errorf("%d lines, %d bytes; the result says %d bytes", n, len(whole), o.StdoutBytes)
		}
		// What was forgotten cannot be had, and is not made up.
		r, err = b.Attach(b.ctx(), k.again(t), runtime.Progress{})
		if err == nil {
			_, err = r.Next(b.ctx())
		}
		if !errors.Is(err, runtime.ErrNotExist) {
			t.Errorf("from the beginning again: %v, want ErrNotExist", err)
		}
	},
	"Survive/a result waits until it is taken": func(t *testing.T, b *box, reopen func()) {
		k := kept(python("print('done')"))
		b.finish(b.begin0(k.Command)) // and not closed
		reopen()
		r := b.attach(k.again(t), k.kept)
		if o := b.finish(r); o.stdout.String() != "done\n" || o.ExitCode != 0 {
			t.Errorf("got %v", o)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		b.forgotten(k.again(t))
	},
	"Survive/a time limit goes on": func(t *testing.T, b *box, reopen func()) {
		k := kept(bash("echo started; sleep 1000"))
		k.Timeout = 300e6
		b.await(b.begin0(k.Command), "started\n")
		reopen()
		if o := b.finish(b.attach(k.again(t), k.kept)); !o.TimedOut || o.stdout.String() != "started\n" {
			t.Errorf("got %v", o)
		}
	},
	"Survive/runs that nobody wants end": func(t *testing.T, b *box, reopen func()) {
		wanted, other := kept(bash("echo here; sleep 1000")), kept(bash("echo there; echo $$ > /workspace/pid; sleep 1000"))
		b.await(b.begin0(wanted.Command), "here\n")
		b.await(b.begin0(other.Command), "there\n")
		reopen()
		if err := b.Retain(b.ctx(), []string{wanted.ID}); err != nil {
			t.Fatal(err)
		}
		b.forgotten(other.again(t))
		b.eventually("the end of the other run", func() bool {
			return b.run(bash("kill -0 $(cat /workspace/pid)")).ExitCode != 0
		})
		r := b.attach(wanted.again(t), wanted.kept)
		b.await(r, "here\n")
		if err := r.Kill(b.ctx()); err != nil {
			t.Fatal(err)
		}
		if o := b.finish(r); !o.Killed {
			t.Errorf("got %v", o)
		}
		for _, id := range []string{wanted.ID, "none"} {
			if err := b.Forget(b.ctx(), id); err != nil {
				t.Errorf("Forget %s: %v", id, err)
			}
		}
		b.forgotten(wanted.again(t))
		if err := b.Retain(b.ctx(), []string{"../x"}); !errors.Is(err, runtime.ErrInvalid) {
			t.Errorf("Retain of a bad name: %v", err)
		}
		if err := b.Forget(b.ctx(), ""); !errors.Is(err, runtime.ErrInvalid) {
			t.Errorf("Forget of a bad name: %v", err)
		}
	},
	"Survive/what cannot be kept is not forgotten": func(t *testing.T, b *box, reopen func()) {
		k := kept(python("print('x' * 300_000)"))
		full := errors.New("no room")
		k.Keep = func(runtime.Progress) error { return full }
		r, err := b.Run(b.ctx(), k.Command)
		for err == nil {
			_, err = r.Next(b.ctx())
		}
		if !errors.Is(err, full) || errors.Is(err, runtime.ErrSandboxLost) {
			t.Fatalf("got %v", err)
		}
		reopen()
		k.Keep = func(runtime.Progress) error { return nil }
		if o := b.finish(b.attach(k.again(t), runtime.Progress{})); o.stdout.Len() != 300_001 {
			t.Errorf("got %d bytes", o.stdout.Len())
		}
	},
}

// begin0 starts a run that the test does not close at its end.
func (b *box) begin0(cmd runtime.Command) runtime.Run {
	b.t.Helper()
	r, err := b.Run(b.ctx(), cmd)
	if err != nil {
		b.t.Fatalf("Run: %v", err)
	}
	return r
}

// forgotten checks that a run is not there any more, soon. It asks for what no
// run has, so as not to become the follower of one that is there.
func (b *box) forgotten(cmd runtime.Command) {
	b.t.Helper()
	b.eventually("run "+cmd.ID+" is forgotten", func() bool {
		r, err := b.Attach(b.ctx(), cmd, runtime.Progress{Sequence: 1 << 62})
		if err == nil {
			_, err = r.Next(b.ctx())
		}
		return errors.Is(err, runtime.ErrNotExist) && strings.Contains(err.Error(), "there is no run")
	})
}
