package engine_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/audit"
	"github.com/agentsandbox/agentsandbox/internal/blob"
	"github.com/agentsandbox/agentsandbox/internal/engine"
	"github.com/agentsandbox/agentsandbox/internal/engine/quota"
	"github.com/agentsandbox/agentsandbox/internal/eventlog"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
	"github.com/agentsandbox/agentsandbox/internal/keys"
	"github.com/agentsandbox/agentsandbox/internal/pool"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
	"github.com/agentsandbox/agentsandbox/internal/runtime/fake"
	"github.com/agentsandbox/agentsandbox/internal/store"
)

// host is a machine on which one server follows the other.
type host struct {
	t       *testing.T
	dir     string
	runtime *fake.Runtime
	keep    bool
	quotas  quota.Limits
	kept    engine.Kept
}

// server is one of them. A dead one changes nothing any more.
type server struct {
	*engine.Engine
	audit *audit.Log
	host  *host
	db    *store.DB
	pool  *pool.Pool
	dead  atomic.Bool
	once  sync.Once
	// atOutcome is called before an outcome is written, and afterRead when a record
	// was read; diskFull has the files of logs fail to be written.
	atOutcome func()
	afterRead func()
	diskFull  atomic.Bool
}

var errDead = errors.New("this server is dead")

type mortalStore struct {
	engine.Store
	s *server
}

func (m mortalStore) InsertExecution(ctx context.Context, e agentsandbox.Execution, sandbox string, plan []byte) error {
	if m.s.dead.Load() {
		return errDead
	}
	return m.Store.InsertExecution(ctx, e, sandbox, plan)
}

func (m mortalStore) FinishExecution(ctx context.Context, e agentsandbox.Execution, log eventlog.Sealed) (bool, error) {
	if m.s.atOutcome != nil {
		m.s.atOutcome()
	}
	if m.s.dead.Load() {
		return false, errDead
	}
	return m.Store.FinishExecution(ctx, e, log)
}

func (m mortalStore) Execution(ctx context.Context, tenant, id string) (agentsandbox.Execution, eventlog.Sealed, error) {
	e, log, err := m.Store.Execution(ctx, tenant, id)
	if m.s.afterRead != nil {
		m.s.afterRead()
	}
	return e, log, err
}

func (m mortalStore) MoveSession(ctx context.Context, id string, to agentsandbox.SessionStatus, at time.Time) error {
	if m.s.dead.Load() {
		return errDead
	}
	return m.Store.MoveSession(ctx, id, to, at)
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{t: t, dir: t.TempDir(), runtime: fake.New(fake.Options{Dir: t.TempDir()})}
	t.Cleanup(func() {
		if err := h.runtime.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// start starts a server, which takes over what the last one left.
func (h *host) start() *server {
	h.t.Helper()
	log := slog.New(slog.DiscardHandler)
	s := &server{host: h}
	var err error
	if s.db, err = store.Open(h.t.Context(), h.dir, store.Options{Log: log}); err != nil {
		h.t.Fatal(err)
	}
	blobs, err := blob.Open(filepath.Join(h.dir, "blobs"), log)
	if err != nil {
		h.t.Fatal(err)
	}
	logs, err := eventlog.Open(filepath.Join(h.dir, "logs"), eventlog.Options{OpenFile: s.openFile, UnwrittenBytes: unwrittenBytes})
	if err != nil {
		h.t.Fatal(err)
	}
	s.pool = pool.New(pool.Options{
		Runtime: h.runtime, NewID: func() string { return agentsandbox.NewID("sbx_") },
		Stocks: []pool.Stock{{Snapshot: "default"}}, Builders: 2, Limits: serverLimits.Default(), Logger: log,
	})
	l := serverLimits
	l.OutputBytes, l.Collect = 8<<20, runtime.CollectLimits{Files: 100, Bytes: 1 << 20, Depth: 4}
	s.audit = audit.New(audit.Options{Store: s.db, Logger: log})
	s.Engine = engine.New(engine.Options{
		Audit: s.audit, EgressAudit: audit.NewEgress(s.audit, nil), Keys: keys.New(keys.Options{Store: s.db, Audit: s.audit, Logger: log}),
		Store: mortalStore{s.db, s}, Blobs: blobs, Logs: logs, Sandboxes: s.pool,
		KeepSessions: h.keep, Kept: h.kept, Template: "default", Templates: serverTemplates, Limits: l, AnswerStatus: edge.Status, Quotas: quota.New(h.quotas, s.db, logs, log), Logger: log,
	})
	keep, err := s.Owned(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	found, err := h.runtime.Recover(h.t.Context(), keep)
	if err != nil {
		h.t.Fatal(err)
	}
	for i, sb := range found.Adopted {
		found.Adopted[i] = s.pool.Adopt(sb)
	}
	if err := s.Recover(h.t.Context(), found.Foreign, found.Adopted...); err != nil {
		h.t.Fatal(err)
	}
	s.Resume()
	s.pool.Start()
	h.t.Cleanup(func() { s.stop(context.Background()) })
	return s
}

// stop ends the server in order.
func (s *server) stop(ctx context.Context) {
	s.once.Do(func() {
		s.Close(ctx)
		if err := s.audit.Close(); err != nil {
			s.host.t.Error(err)
		}
		s.pool.Close()
		if err := s.db.Close(); err != nil {
			s.host.t.Error(err)
		}
	})
}

// kill ends the server as SIGKILL does: nothing that it does from now on has an
// effect.
func (s *server) kill() {
	s.host.t.Helper()
	s.die()
	now, cancel := context.WithCancel(context.Background())
	cancel()
	s.stop(now)
}

func (s *server) die() {
	s.dead.Store(true)
	s.host.runtime.Crash()
}

// begin starts an execution without waiting for it.
func (s *server) begin(ctx context.Context, req agentsandbox.ExecuteRequest) {
	var asked sync.WaitGroup
	asked.Go(func() { _, _ = s.Execute(ctx, req) })
	s.host.t.Cleanup(asked.Wait)
}

// ended waits for the outcome of the only execution that has not the id of one of
// the others.
func (s *server) ended(ctx context.Context, id string) *agentsandbox.Execution {
	s.host.t.Helper()
	var rec *agentsandbox.Execution
	until(s.host.t, "the execution has ended", func() bool {
		var err error
		rec, err = s.Execution(ctx, id)
		return err == nil && rec.Status.Terminal()
	})
	return rec
}

// running waits until so many executions have begun, and returns their ids, the
// oldest first.
func (s *server) running(ctx context.Context, n int) []string {
	s.host.t.Helper()
	var ids []string
	until(s.host.t, fmt.Sprintf("%d executions run", n), func() bool {
		page, err := s.Executions(ctx, agentsandbox.ExecutionFilter{Page: agentsandbox.Page{Limit: 100}, Status: agentsandbox.StatusRunning})
		ids = nil
		for _, e := range page.Executions {
			ids = append([]string{e.ID}, ids...)
		}
		return err == nil && len(ids) == n
	})
	return ids
}

func (s *server) session(ctx context.Context) string {
	s.host.t.Helper()
	info, err := s.CreateSession(ctx, agentsandbox.SessionRequest{})
	if err != nil {
		s.host.t.Fatal(err)
	}
	return info.ID
}

func (s *server) exists(ctx context.Context, session, path string) {
	s.host.t.Helper()
	until(s.host.t, path+" is there", func() bool {
		_, err := s.StatPath(ctx, session, path)
		return err == nil
	})
}

func bash(session, code string) agentsandbox.ExecuteRequest {
	return agentsandbox.ExecuteRequest{SessionID: session, Language: agentsandbox.Bash, Code: code}
}

func TestARunOutlivesItsServer(t *testing.T) {
	h := newHost(t)
	first, ctx := h.start(), as(t, "a")
	id := first.session(ctx)
	// Far more than the sandbox retains, before and after.
	first.begin(ctx, bash(id, "seq 100000; echo warned >&2; touch half; until test -e go; do sleep 0.01; done; seq 100000; echo made > made"))
	first.exists(ctx, id, "/workspace/half")
	run := first.running(ctx, 1)[0]
	first.kill()

	second := h.start()
	if _, err := second.Execute(ctx, bash(id, "true")); err != nil {
		t.Fatal(err)
	}
	// Not by a run: that could end after the other one made its file, and would report it.
	if _, err := second.WritePath(ctx, id, "/workspace/go", strings.NewReader("")); err != nil {
		t.Fatal(err)
	}
	rec := second.ended(ctx, run)
	out, _ := second.Execute(ctx, bash(id, "seq 100000; seq 100000"))
	if rec.Status != agentsandbox.StatusSucceeded || string(rec.Stdout) != string(out.Stdout) || string(rec.Stderr) != "warned\n" ||
		rec.StdoutBytes != int64(len(out.Stdout)) || rec.Truncated || rec.SessionID != id || rec.HTTPStatus != 200 {
		t.Errorf("%s, %d of %d bytes, %q, %s", rec.Status, len(rec.Stdout), len(out.Stdout), rec.Stderr, rec.Error)
	}
	if len(rec.Files) == 0 || rec.Files[len(rec.Files)-1].Filename != "made" {
		t.Errorf("files %v", rec.Files)
	}
	wantLogs(t, h.dir, run, out.ID)
}

func TestARunWithoutASessionOutlivesItsServer(t *testing.T) {
	h := newHost(t)
	first, ctx := h.start(), as(t, "a")
	gate := filepath.Join(t.TempDir(), "gate")
	first.begin(ctx, bash("", "echo begun; touch "+gate+".begun; until test -e "+gate+"; do sleep 0.01; done; echo over"))
	run := first.running(ctx, 1)[0]
	until(t, "it has begun", func() bool {
		_, err := os.Stat(gate + ".begun")
		return err == nil
	})
	first.kill()
	second := h.start()
	second.running(ctx, 1)
	second.kill() // once more
	third := h.start()
	id := third.session(ctx)
	if _, err := third.Execute(ctx, bash(id, "touch "+gate)); err != nil {
		t.Fatal(err)
	}
	if rec := third.ended(ctx, run); string(rec.Stdout) != "begun\nover\n" || rec.Status != agentsandbox.StatusSucceeded {
		t.Errorf("%+v", rec)
	}
	if err := third.DeleteSession(ctx, id); err != nil {
		t.Fatal(err)
	}
	until(t, "its sandbox is gone", func() bool { return h.runtime.Live() == 0 && third.pool.Live() == 0 })
}

func TestAServerThatDiesBeforeItWritesAnOutcome(t *testing.T) {
	for _, lines := range []int{10, 100_000} { // the log is in the row, and in a file
		h := newHost(t)
		first, ctx := h.start(), as(t, "a")
		id := first.session(ctx)
		first.atOutcome = sync.OnceFunc(first.die)
		first.begin(ctx, bash(id, fmt.Sprintf("seq %d; echo made > made; exit 3", lines)))
		until(t, "the server is dead", first.dead.Load)
		first.kill()
		second := h.start()
		page, err := second.Executions(ctx, agentsandbox.ExecutionFilter{Page: agentsandbox.Page{Limit: 10}})
		if err != nil || len(page.Executions) != 1 {
			t.Fatal(page, err)
		}
		rec := second.ended(ctx, page.Executions[0].ID)
		want, _ := second.Execute(ctx, bash(id, fmt.Sprintf("seq %d", lines)))
		if string(rec.Stdout) != string(want.Stdout) || len(rec.Stderr) != 0 || rec.Truncated || len(rec.Files) != 1 || rec.ReturnCode != 3 {
			t.Errorf("%d of %d bytes, %q, %d files, %d", len(rec.Stdout), len(want.Stdout), rec.Stderr, len(rec.Files), rec.ReturnCode)
		}
		if lines > 10 {
			wantLogs(t, h.dir, rec.ID, want.ID)
		} else {
			wantLogs(t, h.dir)
		}
	}
}

func TestShutdownLeavesSessionsAlive(t *testing.T) {
	h := newHost(t)
	h.keep = true
	first, ctx := h.start(), as(t, "a")
	id := first.session(ctx)
	answered := make(chan error, 2)
	go func() {
		_, err := first.Execute(ctx, bash(id, "echo begun; touch begun; until test -e go; do sleep 0.01; done; echo over"))
		answered <- err
	}()
	run := first.running(ctx, 1)[0]
	first.exists(ctx, id, "/workspace/begun")
	go func() {
		x, _ := first.Execute(ctx, bash("", "sleep 1000"))
		answered <- fmt.Errorf("one-shot: %s", x.Status)
	}()
	first.running(ctx, 2)
	now, cancel := context.WithCancel(context.Background())
	cancel()
	first.stop(now)
	for range 2 {
		switch err := <-answered; {
		case strings.Contains(err.Error(), "one-shot"):
			if err.Error() != "one-shot: cancelled" {
				t.Error(err)
			}
		case agentsandbox.CodeOf(err) != agentsandbox.CodeUnavailable || !strings.Contains(err.Error(), run):
			t.Errorf("%v", err)
		}
	}
	if n := h.runtime.Live(); n != 1 {
		t.Errorf("%d sandboxes are left, want that of the session", n)
	}
	h.keep = false
	second := h.start()
	if _, err := second.Execute(ctx, bash(id, "touch go")); err != nil {
		t.Fatal(err)
	}
	if rec := second.ended(ctx, run); string(rec.Stdout) != "begun\nover\n" {
		t.Errorf("%+v", rec)
	}
	if got, want := second.recovered(), map[string]string{run: "ok"}; !maps.Equal(got, want) {
		t.Errorf("audit rows of runs that go on: %v; want %v", got, want)
	}
}

func TestDeadSandboxesAndHalfMadeSessions(t *testing.T) {
	h := newHost(t)
	first, ctx := h.start(), as(t, "a")
	id := first.session(ctx)
	first.begin(ctx, bash(id, "sleep 1000"))
	run := first.running(ctx, 1)[0]
	now := time.Now().UTC()
	half := agentsandbox.Session{ID: agentsandbox.NewID("ses_"), Tenant: "a", Status: agentsandbox.SessionCreating, CreatedAt: now}
	ending := agentsandbox.Session{ID: agentsandbox.NewID("ses_"), Tenant: "a", Status: agentsandbox.SessionDeleting, CreatedAt: now}
	// This one had its record written, and nothing more.
	early := agentsandbox.Execution{ID: agentsandbox.NewID("exe_"), Tenant: "a", Status: agentsandbox.StatusRunning, SessionID: id, CreatedAt: now}
	err := errors.Join(first.db.InsertSession(ctx, half, nil), first.db.InsertSession(ctx, ending, nil), first.db.InsertExecution(ctx, early, "", nil))
	if err != nil {
		t.Fatal(err)
	}
	first.kill()
	if _, err := h.runtime.Recover(ctx, nil); err != nil { // all sandboxes die
		t.Fatal(err)
	}
	second := h.start()
	for _, lost := range []string{run, early.ID} {
		if rec := second.ended(ctx, lost); rec.Status != agentsandbox.StatusSandboxLost || rec.HTTPStatus != 503 {
			t.Errorf("%+v", rec)
		}
	}
	for _, s := range []struct {
		id   string
		want agentsandbox.SessionStatus
	}{{id, agentsandbox.SessionLost}, {half.ID, agentsandbox.SessionLost}, {ending.ID, agentsandbox.SessionDeleted}} {
		if row, err := second.db.Session(ctx, "a", s.id); err != nil || row.Status != s.want {
			t.Errorf("%s, want %s; %v", row.Status, s.want, err)
		}
	}
	if got, want := second.recovered(), map[string]string{run: "unavailable", early.ID: "unavailable"}; !maps.Equal(got, want) {
		t.Errorf("audit rows of runs that were cut off: %v; want %v", got, want)
	}
}

// recovered is what the audit log says of runs whose request was cut off: the
// outcome, by execution.
func (s *server) recovered() map[string]string {
	s.host.t.Helper()
	log, err := s.audit.AuditLog(as(s.host.t, "a", agentsandbox.ScopeAdmin), agentsandbox.Page{Limit: 100})
	if err != nil {
		s.host.t.Fatal(err)
	}
	found := map[string]string{}
	for _, e := range log.Entries {
		if e.Action == "recoverExecution" && e.Tenant == "a" && e.KeyID == "" && e.Detail != "" {
			found[e.ObjectID] = e.Outcome
		}
	}
	return found
}
