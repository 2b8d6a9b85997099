package debian

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/agentsandbox/agentsandbox/internal/roottest"
)

// shell runs a script on the host as a step of a build. Like every build, it
// needs root, for a mount namespace.
func shell(ctx context.Context, b *Builder, script string) error {
	b.Log = slog.New(slog.DiscardHandler)
	return b.run(ctx, command{step: "try", remedy: "Do it again.", argv: []string{"/bin/sh", "-c", script}, env: hostEnv()})
}

func TestRunReportsFailure(t *testing.T) {
	roottest.Need(t, "starts processes in namespaces")
	var mu sync.Mutex
	var seen []string
	b := &Builder{Progress: func(step, detail string) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, step+": "+detail)
	}}
	err := shell(t.Context(), b, `for i in $(seq 100); do echo line $i; done; echo "Get https://me:secret@mirror.test/x"; printf 'bad \377 byte' >&2; exit 3`)
	var failed *Error
	if !errors.As(err, &failed) {
		t.Fatalf("got error %v", err)
	}
	text := err.Error()
	for _, want := range []string{"try: exit status 3", "line 100\n", "https://***@mirror.test/x", "bad ? byte", "Do it again."} {
		if !strings.Contains(text, want) {
			t.Errorf("the error has no %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "secret") || strings.Contains(text, "line 1\n") {
		t.Errorf("the error has a password, or too much:\n%s", text)
	}
	if joined := strings.Join(seen, "\n"); !strings.Contains(joined, "try: line 1\n") || strings.Contains(joined, "secret") {
		t.Errorf("progress: %s", joined)
	}
}

func TestRunPassesNothingPrivate(t *testing.T) {
	roottest.Need(t, "starts processes in namespaces")
	t.Setenv("SOME_API_KEY", "secret")
	t.Setenv("PIP_INDEX_URL", "https://index.test/simple")
	t.Setenv("https_proxy", "http://proxy.test")
	if err := shell(t.Context(), &Builder{}, `test -z "$SOME_API_KEY" && test "$PIP_INDEX_URL" = https://index.test/simple && test -n "$https_proxy"`); err != nil {
		t.Error(err)
	}
	for _, pair := range treeEnv() {
		if strings.Contains(pair, "proxy") || strings.HasPrefix(pair, "PIP_") {
			t.Errorf("the tree gets %s", pair)
		}
	}
}

// A cancelled tool and everything that it started are gone when run returns, and
// so is what they held.
func TestRunCancelled(t *testing.T) {
	roottest.Need(t, "starts processes in namespaces")
	hold, err := os.CreateTemp(t.TempDir(), "lock")
	must(t, err)
	must(t, syscall.Flock(int(hold.Fd()), syscall.LOCK_EX))
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := fmt.Errorf("stopped by the test")
	b := &Builder{Hold: hold, Progress: func(_, detail string) {
		if detail == "ready" {
			cancel(stop)
		}
	}}
	err = shell(ctx, b, `trap "" TERM; (trap "" TERM; while :; do sleep 0.05; done) & trap - TERM; echo ready; wait`)
	if !errors.Is(err, stop) {
		t.Errorf("got error %v", err)
	}
	name := hold.Name()
	must(t, hold.Close())
	again, err := os.Open(name)
	must(t, err)
	defer again.Close()
	// The kernel closes the descriptors of what was killed in its own time; a
	// blocking lock waits for just that.
	must(t, syscall.Flock(int(again.Fd()), syscall.LOCK_EX))
}

func TestFollowBoundsLines(t *testing.T) {
	b := &Builder{}
	tail := b.follow("try", bufio.NewReader(strings.NewReader(strings.Repeat("x", 1<<20)+"\nend\n")))
	for _, line := range tail {
		if len(line) > lineBytes {
			t.Fatalf("a line of %d bytes was kept", len(line))
		}
	}
	if len(tail) > tailLines || tail[len(tail)-1] != "end" {
		t.Errorf("kept %d lines, the last is %q", len(tail), tail[len(tail)-1])
	}
}
