package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/engine"
	"github.com/agentsandbox/agentsandbox/internal/engine/quota"
	"github.com/agentsandbox/agentsandbox/internal/idempotency"
)

func (f *fixture) record(ctx context.Context, id string) *agentsandbox.Execution {
	f.t.Helper()
	rec, err := f.Execution(ctx, id)
	if err != nil {
		f.t.Fatal(err)
	}
	return rec
}

func (f *fixture) output(tenant string) int64 {
	f.t.Helper()
	u, err := f.Store.TenantUsage(context.Background(), tenant)
	if err != nil {
		f.t.Fatal(err)
	}
	return u.Output
}

// print900 has 900 bytes of output; limits.OutputBytes is 1000.
const print900 = "printf '%0900d' 7"

func wantWhole(t *testing.T, x *agentsandbox.Execution) {
	t.Helper()
	if len(x.Stdout) != 900 || x.StdoutBytes != 900 || x.Truncated || x.Status != agentsandbox.StatusSucceeded {
		t.Errorf("%d of %d bytes, truncated %v, %s: %q", len(x.Stdout), x.StdoutBytes, x.Truncated, x.Status, x.Stderr)
	}
}

func wantDropped(t *testing.T, x *agentsandbox.Execution) {
	t.Helper()
	if !x.OutputDropped || !x.Truncated || len(x.Stdout) != 0 || x.StdoutBytes != 900 || x.Code != "" ||
		!strings.Contains(string(x.Stderr), "agentsandbox: the code and the output of this run (900 and 0 bytes) are not kept") {
		t.Errorf("dropped %v, truncated %v, %d of %d bytes, code %q, stderr %q", x.OutputDropped, x.Truncated, len(x.Stdout), x.StdoutBytes, x.Code, x.Stderr)
	}
	if x.Status != agentsandbox.StatusSucceeded || x.EndedAt.IsZero() || x.HTTPStatus != 200 {
		t.Errorf("%s, %v, %d", x.Status, x.EndedAt, x.HTTPStatus)
	}
}

func TestTheOldestOutputGoesFirst(t *testing.T) {
	f := newFixtureWithin(t, t.TempDir(), quota.Limits{Output: 3000})
	ctx, other := as(t, "a"), as(t, "b")
	neighbour := f.bash(other, "", print900)
	var runs []*agentsandbox.Execution
	for range 5 {
		x := f.bash(ctx, "", print900)
		wantWhole(t, x)
		if x.OutputDropped {
			t.Error("a run that fits says that it does not")
		}
		runs = append(runs, x)
		if used := f.output("a"); used > 3000 {
			t.Errorf("%d bytes are in use", used)
		}
	}
	for n, x := range runs {
		if rec := f.record(ctx, x.ID); n < 2 {
			wantDropped(t, rec)
		} else {
			wantWhole(t, rec)
		}
	}
	wantWhole(t, f.record(other, neighbour.ID))
	list, err := f.Executions(ctx, agentsandbox.ExecutionFilter{Page: agentsandbox.Page{Limit: 10}})
	if err != nil || list.Total != 5 || !list.Executions[4].OutputDropped || list.Executions[0].OutputDropped {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestOutputThatCannotFitDropsNoOther(t *testing.T) {
	f := newFixtureWithin(t, t.TempDir(), quota.Limits{Output: 500})
	ctx := as(t, "a")
	small := f.bash(ctx, "", "echo small")
	x := f.bash(ctx, "", print900)
	wantWhole(t, x)
	if !x.OutputDropped {
		t.Error("the answer does not say that the record has no output")
	}
	wantDropped(t, f.record(ctx, x.ID))
	if rec := f.record(ctx, small.ID); string(rec.Stdout) != "small\n" || rec.OutputDropped {
		t.Errorf("%+v", rec)
	}
	if used := f.output("a"); used != int64(len("echo small")+len("small\n")) {
		t.Errorf("%d bytes are in use", used)
	}
}

func TestOutputGivesWayToFiles(t *testing.T) {
	f := newFixtureWithin(t, t.TempDir(), quota.Limits{Bytes: 2000})
	ctx := as(t, "a")
	first, second := f.bash(ctx, "", print900), f.bash(ctx, "", print900)
	file, err := f.upload(ctx, strings.Repeat("x", 1050))
	if err != nil {
		t.Fatal(err)
	}
	wantDropped(t, f.record(ctx, first.ID))
	wantWhole(t, f.record(ctx, second.ID))
	made := f.bash(ctx, "", "cd /workspace 2>/dev/null || cd \"$PWD\"; printf '%0700d' 7 > made")
	if len(made.Files) != 1 || made.OutputDropped {
		t.Errorf("%+v", made)
	}
	wantDropped(t, f.record(ctx, second.ID))
	_, err = f.upload(ctx, strings.Repeat("x", 300))
	wantRefusal(t, err, agentsandbox.CodeStorageFull, "tenant_max_bytes")
	if x := f.bash(ctx, "", print900); !x.OutputDropped {
		t.Error("more output is kept than the files leave room for")
	}
	if err := f.DeleteFile(ctx, file.ID); err != nil {
		t.Fatal(err)
	}
	x := f.bash(ctx, "", print900)
	wantWhole(t, f.record(ctx, x.ID))
}

func TestManyRunsAtOnceStayWithinTheQuota(t *testing.T) {
	f := newFixtureWithin(t, t.TempDir(), quota.Limits{Output: 2500})
	ctx := as(t, "a")
	var running sync.WaitGroup
	for range 12 {
		running.Go(func() { wantWhole(t, f.bash(ctx, "", print900)) })
	}
	running.Wait()
	list, err := f.Executions(ctx, agentsandbox.ExecutionFilter{Page: agentsandbox.Page{Limit: 20}})
	if err != nil {
		t.Fatal(err)
	}
	kept := 0
	for _, x := range list.Executions {
		if !x.OutputDropped {
			kept++
		}
	}
	if used := f.output("a"); kept != 2 || used > 2500 {
		t.Errorf("%d of %d runs have their output, %d bytes", kept, list.Total, used)
	}
}

func TestKeptAnswersCountAsOutput(t *testing.T) {
	f := newFixtureWithin(t, t.TempDir(), quota.Limits{Output: 2000})
	ctx := as(t, "a")
	x := f.bash(ctx, "", print900)
	ask := func(key string, size int) (again *idempotency.Claim) {
		t.Helper()
		req := idempotency.Request{Key: key, Method: "POST", Path: "/v1/x", Digest: "d"}
		claim, err := f.requests.BeginRequest(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		if claim.Answer == nil {
			if err := f.requests.KeepAnswer(ctx, claim, "d", idempotency.Answer{Status: 200, Body: make([]byte, size)}); err != nil {
				t.Fatal(err)
			}
		}
		return claim
	}
	ask("one", 500)
	wantWhole(t, f.record(ctx, x.ID))
	ask("two", 1200)
	wantDropped(t, f.record(ctx, x.ID))
	if a := ask("one", 1).Answer; a == nil || len(a.Body) != 500 {
		t.Errorf("%+v", a)
	}
	ask("three", 2001)
	if a := ask("three", 3).Answer; a != nil {
		t.Error("an answer is kept for which there is no room")
	}
	if used := f.output("a"); used > 2000 {
		t.Errorf("%d bytes are in use", used)
	}
}

// outputHost is a server whose runs print more than a row has.
func outputHost(t *testing.T) (*host, *server, context.Context) {
	h := newHost(t)
	return h, h.start(), as(t, "a")
}

// wantLogs checks whose logs have a file.
func wantLogs(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "logs"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("logs in files: %q, want %q", got, want)
	}
}

const prints = "seq 200000; seq 300000 >&2; false"

func wantPrinted(t *testing.T, x *agentsandbox.Execution) {
	t.Helper()
	seq := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintln(&b, i+1)
		}
		return b.String()
	}
	if string(x.Stdout) != seq(200000) || string(x.Stderr) != seq(300000) || x.Truncated || x.ReturnCode != 1 {
		t.Errorf("%d and %d bytes, truncated %v, %d", len(x.Stdout), len(x.Stderr), x.Truncated, x.ReturnCode)
	}
}

func TestMuchOutputComesBackFromItsFile(t *testing.T) {
	h, s, ctx := outputHost(t)
	id := s.session(ctx)
	var runs []string
	for _, session := range []string{id, ""} {
		x, err := s.Execute(ctx, bash(session, prints))
		if err != nil {
			t.Fatal(err)
		}
		wantPrinted(t, x)
		rec, err := s.Execution(ctx, x.ID)
		if err != nil {
			t.Fatal(err)
		}
		wantPrinted(t, rec)
		for stream, want := range map[agentsandbox.Stream][]byte{agentsandbox.Stdout: x.Stdout, agentsandbox.Stderr: x.Stderr} {
			out, held, err := s.Output(ctx, x.ID, stream)
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			if got, err := io.ReadAll(out); err != nil || string(got) != string(want) || held != 0 {
				t.Errorf("%s has %d bytes, want %d, of which %d are in memory; %v", stream, len(got), len(want), held, err)
			}
		}
		runs = append(runs, x.ID)
	}
	if _, err := s.Execute(ctx, bash(id, "seq 10000; echo >&2")); err != nil { // for this, there is room in the row
		t.Fatal(err)
	}
	wantLogs(t, h.dir, runs...)
}

func TestAnAnswerWaitsForRoom(t *testing.T) {
	h, s, ctx := outputHost(t)
	asked := 0
	roomy := agentsandbox.WithOutputRoom(ctx, func(_ context.Context, bytes int) error {
		asked = bytes
		return nil
	})
	x, err := s.Execute(roomy, bash("", prints))
	if err != nil {
		t.Fatal(err)
	}
	wantPrinted(t, x)
	if asked < 2_700_000 || asked > len(x.Stdout)+len(x.Stderr) {
		t.Errorf("room was asked for %d bytes", asked)
	}
	full := agentsandbox.Errorf(agentsandbox.CodeUnavailable, "No room.")
	_, err = s.Execute(agentsandbox.WithOutputRoom(ctx, func(context.Context, int) error { return full }), bash("", prints))
	var refusal *agentsandbox.Error
	if !errors.As(err, &refusal) || refusal.Code != agentsandbox.CodeUnavailable || !strings.Contains(refusal.Message, "The run's record is exe_") {
		t.Fatal(err)
	}
	list, err := s.Executions(ctx, agentsandbox.ExecutionFilter{Page: agentsandbox.Page{Limit: 1}})
	if err != nil {
		t.Fatal(err)
	}
	rec, err := s.Execution(ctx, list.Executions[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	wantPrinted(t, rec)
	wantLogs(t, h.dir, x.ID, rec.ID)
}

// What was put aside and is damaged is never replaced by what came after it.
func TestOutputThatCannotBeReadBackIsCut(t *testing.T) {
	h, s, ctx := outputHost(t)
	gate := filepath.Join(t.TempDir(), "gate")
	answer := make(chan *agentsandbox.Execution, 1)
	var failed atomic.Value
	go func() {
		x, err := s.Execute(ctx, bash("", "seq 200000; touch "+gate+".begun; until test -e "+gate+"; do sleep 0.01; done; echo over"))
		if err != nil {
			failed.Store(err)
		}
		answer <- x
	}()
	until(t, "it has printed", func() bool { _, err := os.Stat(gate + ".begun"); return err == nil })
	var files []string
	until(t, "it is in the file", func() bool {
		files, _ = filepath.Glob(filepath.Join(h.dir, "logs", "exe_*"))
		if len(files) != 1 {
			return false
		}
		info, err := os.Stat(files[0])
		return err == nil && info.Size() > 1_200_000
	})
	if err := os.Truncate(files[0], 700_000); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	x := <-answer
	if err := failed.Load(); err != nil {
		t.Fatal(err)
	}
	if len(x.Stdout) == 0 || len(x.Stdout) > 700_000 || !strings.HasPrefix(string(x.Stdout), "1\n2\n3\n") || strings.Contains(string(x.Stdout), "over") ||
		!x.Truncated || x.StdoutBytes != 1288895+5 || !strings.Contains(string(x.Stderr), "the output was cut: the first") {
		t.Errorf("%d of %d bytes, truncated %v, stderr %q", len(x.Stdout), x.StdoutBytes, x.Truncated, x.Stderr)
	}
}

// The file of a log goes with the output of its row, and not before whoever asked for
// the run has the answer.
func TestLogsGoWithTheirOutput(t *testing.T) {
	h := newHost(t)
	h.quotas = quota.Limits{Output: 4_000_000}
	s, ctx := h.start(), as(t, "a")
	var second *agentsandbox.Execution
	x, err := s.Execute(agentsandbox.WithOutputRoom(ctx, func(context.Context, int) (err error) {
		second, err = s.Execute(ctx, bash("", prints))
		return err
	}), bash("", prints))
	if err != nil {
		t.Fatal(err)
	}
	wantPrinted(t, x)
	wantPrinted(t, second)
	rec, err := s.Execution(ctx, x.ID)
	if err != nil || !rec.OutputDropped || len(rec.Stdout) != 0 {
		t.Errorf("%+v, %v", rec, err)
	}
	_, _, err = s.Output(ctx, x.ID, agentsandbox.Stdout)
	wantRefusal(t, err, agentsandbox.CodeConflict, "output_dropped")
	_, _, err = s.Output(as(t, "b"), second.ID, agentsandbox.Stdout)
	wantRefusal(t, err, agentsandbox.CodeExecutionNotFound, second.ID)
	wantLogs(t, h.dir, second.ID)

	// What can never fit is in the answer alone.
	large, err := s.Execute(ctx, bash("", "seq 700000; echo said >&2"))
	if err != nil || !large.OutputDropped || large.Truncated || int64(len(large.Stdout)) != large.StdoutBytes || string(large.Stderr) != "said\n" {
		t.Errorf("%d of %d bytes, dropped %v, %q, %v", len(large.Stdout), large.StdoutBytes, large.OutputDropped, large.Stderr, err)
	}
	wantLogs(t, h.dir, second.ID)
}

// A log that goes between its row and the look at it is a run that has lost its output.
func TestOutputThatIsDroppedWhileItIsRead(t *testing.T) {
	h, s, ctx := outputHost(t)
	for _, read := range []func(id string) error{
		func(id string) error {
			rec, err := s.Execution(ctx, id)
			if err == nil && !rec.OutputDropped {
				err = fmt.Errorf("%d bytes of output", len(rec.Stdout))
			}
			return err
		},
		func(id string) error {
			_, _, err := s.Output(ctx, id, agentsandbox.Stdout)
			if agentsandbox.CodeOf(err) == agentsandbox.CodeConflict {
				return nil
			}
			return fmt.Errorf("not told: %w", err)
		},
	} {
		s.afterRead = nil
		x, err := s.Execute(ctx, bash("", prints))
		if err != nil {
			t.Fatal(err)
		}
		s.afterRead = sync.OnceFunc(func() {
			dropped, err := s.db.DropOutput(ctx, "a", 0)
			if err != nil || !slices.Equal(dropped, []string{x.ID}) || os.Remove(filepath.Join(h.dir, "logs", x.ID)) != nil {
				t.Errorf("%v, %v", dropped, err)
			}
		})
		if err := read(x.ID); err != nil {
			t.Error(err)
		}
	}
}

// Retention removes the files with the rows, and a start what no row needs.
func TestOldLogsAreRemoved(t *testing.T) {
	h := newHost(t)
	h.kept = engine.Kept{Records: time.Hour}
	s, ctx := h.start(), as(t, "a")
	x, err := s.Execute(ctx, bash("", prints))
	if err != nil {
		t.Fatal(err)
	}
	for _, left := range []string{x.ID + "x", "exe_gone", "strange"} {
		if err := os.WriteFile(filepath.Join(h.dir, "logs", left), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.SweepLogs(ctx)
	wantLogs(t, h.dir, x.ID)
	s.Sweep(ctx)
	wantLogs(t, h.dir, x.ID)
	s.stop(context.Background())
	h.kept.Records = time.Nanosecond
	h.start().Sweep(ctx)
	wantLogs(t, h.dir)
}
