package store_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/eventlog"
	"github.com/agentsandbox/agentsandbox/internal/store"
)

// crashDirVariable makes the test binary a process that writes to the store of
// that directory until it is killed.
const crashDirVariable = "AGENTSANDBOX_TEST_CRASH_DIR"

// writeUntilKilled writes rows, and prints what the store has acknowledged.
func writeUntilKilled(ctx context.Context, dir string) error {
	db, err := store.Open(ctx, dir, store.Options{})
	if err != nil {
		return err
	}
	for n := 0; ; n++ {
		e := agentsandbox.Execution{
			ID: agentsandbox.NewID(agentsandbox.ExecutionPrefix), Tenant: "t", Status: agentsandbox.StatusRunning, CreatedAt: time.Now(),
		}
		if err := db.InsertExecution(ctx, e, "", nil); err != nil {
			return err
		}
		fmt.Println("running", e.ID)
		f := file(n)
		e.Status, e.EndedAt, e.Files = agentsandbox.StatusSucceeded, time.Now(), []agentsandbox.File{f}
		if finished, err := db.FinishExecution(ctx, e, eventlog.Sealed{}); err != nil || !finished {
			return errors.Join(errors.New("not finished"), err)
		}
		fmt.Println("finished", e.ID)
	}
}

// killWriter runs a writer in another process, kills it after so many
// acknowledgements, and returns all that it printed.
func killWriter(t *testing.T, dir string, acknowledgements int) (running, finished []string) {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary)
	cmd.Env = append(os.Environ(), crashDirVariable+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for n := 1; lines.Scan(); n++ {
		var what, id string
		if _, err := fmt.Sscan(lines.Text(), &what, &id); err != nil || !agentsandbox.ValidID(agentsandbox.ExecutionPrefix, id) {
			break // the last line, cut short
		}
		if what == "running" {
			running = append(running, id)
		} else {
			finished = append(finished, id)
		}
		if n == acknowledgements {
			if err := cmd.Process.Kill(); err != nil { // SIGKILL
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait() // it was killed; that it says so is no news
	if len(running)+len(finished) < acknowledgements {
		t.Fatalf("the writer ended after %d acknowledgements, before it was killed", len(running)+len(finished))
	}
	return running, finished
}

func TestAcknowledgedRowsOutliveSIGKILL(t *testing.T) {
	dir := t.TempDir()
	var running, finished []string
	for _, acknowledgements := range []int{1, 2, 57, 700, 2500} {
		r, f := killWriter(t, dir, acknowledgements)
		running, finished = append(running, r...), append(finished, f...)
	}
	db := open(t, dir)
	for _, id := range running {
		if _, _, err := db.Execution(t.Context(), "t", id); err != nil {
			t.Fatalf("an acknowledged run: %v", err)
		}
	}
	for _, id := range finished {
		e, _, err := db.Execution(t.Context(), "t", id)
		if err != nil {
			t.Fatalf("a finished run: %v", err)
		}
		if e.Status != agentsandbox.StatusSucceeded || len(e.Files) != 1 {
			t.Fatalf("a finished run is %s, with %d files", e.Status, len(e.Files))
		}
	}
	left, err := db.LeftExecutions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range left {
		if slices.Contains(finished, l.ID) {
			t.Errorf("%s was finished, and is running", l.ID)
		}
	}
}
