// Package runtimetest is the suite that every implementation of package runtime
// passes. It owns what the contract means, and knows no implementation: the
// code that it runs uses paths below its working directory only, and the API
// paths below /workspace and /output.
package runtimetest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// Start makes a fresh sandbox for one test.
type Start func(t *testing.T) runtime.Sandbox

// Option narrows the suite.
type Option int

const (
	// WithoutIsolation leaves out what needs a user, processes and a file system of
	// the sandbox's own.
	WithoutIsolation Option = 1 + iota
	// RunsOnly leaves out what is the same however runs get their processes: files
	// that the host reads and writes, the sandbox's life, connections.
	RunsOnly
)

// patience bounds every wait of the suite. It catches what hangs: a busy machine
// does not reach it.
const patience = 5 * time.Minute

// Suite runs the whole contract. Every test has a sandbox of its own, which the
// suite destroys, and as many tests run at once as there are processors.
func Suite(t *testing.T, start Start, options ...Option) {
	groups := []map[string]func(*testing.T, *box){runTests, scriptTests, endTests, collectTests}
	if !slices.Contains(options, RunsOnly) {
		groups = append(groups, fileTests, lifeTests, dialTests)
	}
	if !slices.Contains(options, WithoutIsolation) {
		groups = append(groups, isolationTests)
	}
	for _, group := range groups {
		for name, test := range group {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				sb := start(t)
				t.Cleanup(func() {
					if err := sb.Destroy(context.Background()); err != nil {
						t.Errorf("Destroy: %v", err)
					}
				})
				test(t, &box{Sandbox: sb, t: t})
			})
		}
	}
}

// box is a sandbox with shorter words for what tests do.
type box struct {
	runtime.Sandbox
	t *testing.T
}

var serial atomic.Int64

// python is a command that runs Python code.
func python(code string) runtime.Command {
	return command(agentsandbox.Python, code)
}

// bash is a command that runs Bash code.
func bash(code string) runtime.Command {
	return command(agentsandbox.Bash, code)
}

func command(language agentsandbox.Language, code string) runtime.Command {
	return runtime.Command{ID: fmt.Sprintf("run-%d", serial.Add(1)), Language: language, Code: code}
}

// ctx returns a context that ends a wait that lasts too long.
func (b *box) ctx() context.Context {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	b.t.Cleanup(cancel)
	return ctx
}

// outcome is what a run did.
type outcome struct {
	stdout, stderr bytes.Buffer
	runtime.Result
}

func (o *outcome) String() string {
	return fmt.Sprintf("stdout %q, stderr %q, %+v", clip(o.stdout.Bytes()), clip(o.stderr.Bytes()), o.Result)
}

func clip(b []byte) []byte { return b[:min(len(b), 2000)] }

// begin starts a run, which is closed when the test ends.
func (b *box) begin(cmd runtime.Command) runtime.Run {
	b.t.Helper()
	r, err := b.Run(b.ctx(), cmd)
	if err != nil {
		b.t.Fatalf("Run: %v", err)
	}
	b.t.Cleanup(func() { r.Close() })
	return r
}

// finish takes a run to its end.
func (b *box) finish(r runtime.Run) *outcome {
	b.t.Helper()
	var o outcome
	ctx := b.ctx()
	for {
		event, err := r.Next(ctx)
		if err != nil {
			b.t.Fatalf("Next: %v; so far: %v", err, &o)
		}
		switch {
		case event.Result != nil:
			o.Result = *event.Result
			if _, err := r.Next(ctx); err != io.EOF { //nolint:errorlint // the contract is io.EOF itself
				b.t.Fatalf("Next after the result: %v, want io.EOF", err)
			}
			return &o
		case event.Stream == runtime.Stdout:
			o.stdout.Write(event.Data)
		case event.Stream == runtime.Stderr:
			o.stderr.Write(event.Data)
		default:
			b.t.Fatalf("an event that is neither output nor a result: %+v", event)
		}
	}
}

// run runs a command to its end.
func (b *box) run(cmd runtime.Command) *outcome {
	b.t.Helper()
	r := b.begin(cmd)
	o := b.finish(r)
	if err := r.Close(); err != nil {
		b.t.Fatalf("Close: %v", err)
	}
	return o
}

// must runs a command that has to succeed, and returns what it printed.
func (b *box) must(cmd runtime.Command) string {
	b.t.Helper()
	o := b.run(cmd)
	if o.ExitCode != 0 || o.Signal != 0 || o.stderr.Len() > 0 {
		b.t.Fatalf("the code failed: %v", o)
	}
	return o.stdout.String()
}

// await reads output of a run until it has seen a text.
func (b *box) await(r runtime.Run, text string) {
	b.t.Helper()
	var seen []byte
	for !bytes.Contains(seen, []byte(text)) {
		event, err := r.Next(b.ctx())
		if err != nil || event.Result != nil {
			b.t.Fatalf("the run ended before %q: %+v, %v; seen %q", text, event.Result, err, seen)
		}
		seen = append(seen, event.Data...)
	}
}

// eventually runs a check until it holds.
func (b *box) eventually(what string, check func() bool) {
	b.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	ctx := b.ctx()
	for !check() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			b.t.Fatalf("not in time: %s", what)
		}
	}
}

// put writes a file.
func (b *box) put(path, content string) agentsandbox.PathInfo {
	b.t.Helper()
	info, err := b.WriteFile(b.ctx(), path, bytes.NewReader([]byte(content)))
	if err != nil {
		b.t.Fatalf("WriteFile %q: %v", path, err)
	}
	return info
}

// get reads a file.
func (b *box) get(path string) string {
	b.t.Helper()
	_, r, err := b.ReadFile(b.ctx(), path)
	if err != nil {
		b.t.Fatalf("ReadFile %q: %v", path, err)
	}
	defer r.Close()
	content, err := io.ReadAll(r)
	if err != nil {
		b.t.Fatalf("read %q: %v", path, err)
	}
	return string(content)
}

// names lists the names in a directory.
func (b *box) names(dir string) []string {
	b.t.Helper()
	page, err := b.List(b.ctx(), dir, "", 1000)
	if err != nil {
		b.t.Fatalf("List %q: %v", dir, err)
	}
	names := []string{}
	for _, e := range page.Entries {
		names = append(names, e.Path[len(dir)+1:])
	}
	return names
}
