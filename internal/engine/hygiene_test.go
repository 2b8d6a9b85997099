package engine_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/engine"
	"github.com/agentsandbox/agentsandbox/internal/engine/sessions"
)

// clock is a time that stands still until the test moves it.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func agedFixture(t *testing.T, dir string, c *clock) *fixture {
	return newFixtureWith(t, dir, engine.Options{Now: c.Now, Lifetimes: sessions.Lifetimes{
		Idle: time.Hour, MaxIdle: 10 * time.Hour, Age: 24 * time.Hour, MaxAge: 48 * time.Hour,
	}, Kept: engine.Kept{Files: 7 * 24 * time.Hour, Records: 30 * 24 * time.Hour}})
}

func (f *fixture) session(ctx context.Context, req agentsandbox.SessionRequest) *agentsandbox.Session {
	f.t.Helper()
	s, err := f.CreateSession(ctx, req)
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

// gone waits until a session has expired, and returns what is said of it.
func (f *fixture) gone(ctx context.Context, id string) string {
	f.t.Helper()
	f.Tidy()
	var message string
	until(f.t, "the session expires", func() bool {
		_, err := f.Session(ctx, id)
		if err == nil {
			return false
		}
		wantCode(f.t, err, agentsandbox.CodeSessionNotFound)
		message = err.Error()
		return strings.Contains(message, "expired")
	})
	return message
}

func TestIdleSessionsExpire(t *testing.T) {
	c := newClock()
	f := agedFixture(t, t.TempDir(), c)
	ctx := as(t, "a")
	idle := f.session(ctx, agentsandbox.SessionRequest{})
	used := f.session(ctx, agentsandbox.SessionRequest{})
	kept := f.session(ctx, agentsandbox.SessionRequest{IdleTimeoutMS: 2 * 3_600_000})
	if got, want := idle.ExpiresAt(), c.Now().Add(time.Hour); !got.Equal(want) {
		t.Errorf("expires at %s, want %s", got, want)
	}
	c.add(59 * time.Minute)
	f.Tidy()
	f.bash(ctx, used.ID, "true")
	if _, err := f.Session(ctx, idle.ID); err != nil { // a look, and no use
		t.Fatal(err)
	}
	c.add(time.Minute)
	message := f.gone(ctx, idle.ID)
	if !strings.Contains(message, "2026-07-01T13:00:00Z") || !strings.Contains(message, "nothing had used it for 1h0m0s") {
		t.Error(message)
	}
	_, err := f.Execute(ctx, agentsandbox.ExecuteRequest{Code: "true", Language: agentsandbox.Bash, SessionID: idle.ID})
	wantCode(t, err, agentsandbox.CodeSessionNotFound)
	wantCode(t, f.DeleteSession(ctx, idle.ID), agentsandbox.CodeSessionNotFound)
	list, err := f.Sessions(ctx, agentsandbox.SessionFilter{Page: agentsandbox.Page{Limit: 10}})
	if err != nil || list.Total != 2 || len(list.Sessions) != 2 {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, s := range list.Sessions {
		if want := map[string]time.Time{used.ID: c.Now().Add(59 * time.Minute), kept.ID: c.Now().Add(time.Hour)}[s.ID]; !s.ExpiresAt().Equal(want) {
			t.Errorf("%s expires at %s, want %s", s.ID, s.ExpiresAt(), want)
		}
	}
	until(t, "the sandbox is destroyed", func() bool { return f.alive() == 2 })

	// A keepalive is a use, and may change the idle time.
	c.add(58 * time.Minute)
	s, err := f.KeepSession(ctx, used.ID, 3*3_600_000)
	if err != nil || !s.ExpiresAt().Equal(c.Now().Add(3*time.Hour)) {
		t.Errorf("%+v, %v", s, err)
	}
	c.add(time.Hour)
	f.gone(ctx, kept.ID)
	if _, err := f.Session(ctx, used.ID); err != nil {
		t.Error(err)
	}
	_, err = f.KeepSession(ctx, used.ID, 11*3_600_000)
	wantCode(t, err, agentsandbox.CodeInvalidRequest)
	_, err = f.KeepSession(as(t, "b"), used.ID, 0)
	wantCode(t, err, agentsandbox.CodeSessionNotFound)
	_, err = f.KeepSession(ctx, kept.ID, 0)
	wantCode(t, err, agentsandbox.CodeSessionNotFound)
	for _, req := range []agentsandbox.SessionRequest{{IdleTimeoutMS: 11 * 3_600_000}, {MaxLifetimeMS: 49 * 3_600_000}, {IdleTimeoutMS: -1}, {MaxLifetimeMS: -1}} {
		_, err := f.CreateSession(ctx, req)
		wantCode(t, err, agentsandbox.CodeInvalidRequest)
	}
}

func TestBusySessionsAreNotIdle(t *testing.T) {
	c := newClock()
	f := agedFixture(t, t.TempDir(), c)
	ctx := as(t, "a")
	s := f.session(ctx, agentsandbox.SessionRequest{})
	type result struct {
		x   *agentsandbox.Execution
		err error
	}
	ended := make(chan result, 1)
	go func() {
		x, err := f.Execute(ctx, agentsandbox.ExecuteRequest{Code: "sleep 100", Language: agentsandbox.Bash, SessionID: s.ID})
		ended <- result{x, err}
	}()
	until(t, "the run begins", func() bool {
		got, err := f.Session(ctx, s.ID)
		return err == nil && got.Busy
	})
	c.add(23 * time.Hour)
	f.Tidy()
	got, err := f.Session(ctx, s.ID)
	if err != nil || !got.ExpiresAt().Equal(s.CreatedAt.Add(24*time.Hour)) {
		t.Fatalf("%+v, %v", got, err)
	}
	// Its age ends it all the same.
	c.add(time.Hour)
	if message := f.gone(ctx, s.ID); !strings.Contains(message, "its longest life was 24h0m0s") {
		t.Error(message)
	}
	r := <-ended
	if r.err != nil || r.x.Status != agentsandbox.StatusCancelled || !strings.Contains(r.x.Error, "expired") || r.x.SessionStatus != agentsandbox.SessionExpired {
		t.Errorf("%+v, %v", r.x, r.err)
	}
}

// TestUsesAreKnownAfterARestart: not each one, but none is older by more than a
// minute.
func TestUsesAreKnownAfterARestart(t *testing.T) {
	c := newClock()
	dir := t.TempDir()
	f := agedFixture(t, dir, c)
	ctx := as(t, "a")
	s := f.session(ctx, agentsandbox.SessionRequest{})
	stored := func() time.Time {
		got, err := f.Store.Session(ctx, "a", s.ID)
		if err != nil {
			t.Fatal(err)
		}
		return got.LastUsedAt
	}
	c.add(30 * time.Second)
	f.bash(ctx, s.ID, "true")
	f.Tidy()
	if got := stored(); !got.Equal(s.CreatedAt) {
		t.Errorf("written too soon: %s", got)
	}
	c.add(31 * time.Second)
	f.Tidy()
	if got := stored(); !got.Equal(s.CreatedAt.Add(30 * time.Second)) {
		t.Errorf("the last use in the store is %s", got)
	}
	c.add(30 * time.Second)
	if _, err := f.KeepSession(ctx, s.ID, 0); err != nil {
		t.Fatal(err)
	}
	if got := stored(); !got.Equal(c.Now()) {
		t.Errorf("a keepalive is not in the store: %s", got)
	}
}

func TestRetention(t *testing.T) {
	c := newClock()
	f := agedFixture(t, t.TempDir(), c)
	ctx := as(t, "a")
	x := f.bash(ctx, "", "echo made > file")
	up, err := f.UploadFile(ctx, agentsandbox.FileUpload{Filename: "in.txt"}, strings.NewReader("in"))
	if err != nil {
		t.Fatal(err)
	}
	c.add(7*24*time.Hour + time.Second)
	young, err := f.UploadFile(ctx, agentsandbox.FileUpload{Filename: "young.txt"}, strings.NewReader("y"))
	if err != nil {
		t.Fatal(err)
	}
	// A file that a running request uses stays.
	running := make(chan error, 1)
	go func() {
		_, err := f.Execute(ctx, agentsandbox.ExecuteRequest{Code: "cat in.txt; sleep 100", Language: agentsandbox.Bash, FileIDs: []string{up.ID}, TimeoutMS: 500})
		running <- err
	}()
	until(t, "the run begins", func() bool {
		list, err := f.Executions(ctx, agentsandbox.ExecutionFilter{Page: agentsandbox.Page{Limit: 1}, Status: agentsandbox.StatusRunning})
		return err == nil && list.Total == 1
	})
	f.Sweep(ctx)
	if _, err := f.File(ctx, up.ID); err != nil {
		t.Errorf("a file in use: %v", err)
	}
	_, err = f.File(ctx, x.Files[0].ID)
	wantCode(t, err, agentsandbox.CodeFileNotFound)
	if err := <-running; err != nil {
		t.Fatal(err)
	}
	f.Sweep(ctx)
	_, _, err = f.OpenFile(ctx, up.ID)
	wantCode(t, err, agentsandbox.CodeFileNotFound)
	files, err := f.Files(ctx, agentsandbox.Page{Limit: 10})
	if err != nil || files.Total != 1 || files.Files[0].ID != young.ID {
		t.Errorf("%+v, %v", files, err)
	}
	if n := f.blobs(); n != 1 {
		t.Errorf("%d blobs, want 1", n)
	}
	if _, err := f.Execution(ctx, x.ID); err != nil {
		t.Errorf("the record goes later: %v", err)
	}
	c.add(24 * 24 * time.Hour)
	f.Sweep(ctx)
	_, err = f.Execution(ctx, x.ID)
	wantCode(t, err, agentsandbox.CodeExecutionNotFound)
	list, err := f.Executions(ctx, agentsandbox.ExecutionFilter{Page: agentsandbox.Page{Limit: 10}})
	if err != nil || list.Total != 1 { // the one that ran a week later
		t.Errorf("%+v, %v", list, err)
	}
	audit, err := f.AuditLog(as(t, "a", agentsandbox.ScopeAdmin), agentsandbox.Page{Limit: 10})
	if err != nil || audit.Total != 3 || audit.Entries[2].Action != "sweep" || audit.Entries[2].Detail != "1 files, 0 executions, 0 sessions" {
		t.Errorf("%+v, %v", audit, err)
	}
	_, err = f.AuditLog(ctx, agentsandbox.Page{Limit: 10})
	wantCode(t, err, agentsandbox.CodeForbidden)
}
