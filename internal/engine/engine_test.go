package engine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/blob"
	"github.com/agentsandbox/agentsandbox/internal/engine"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
	"github.com/agentsandbox/agentsandbox/internal/runtime/fake"
	"github.com/agentsandbox/agentsandbox/internal/store"
)

func TestExecuteOnce(t *testing.T) {
	f := newFixture(t, t.TempDir())
	ctx := as(t, "a")
	x := f.bash(ctx, "", "echo out; echo err >&2; mkdir -p deep; echo made > deep/file; exit 3")
	if string(x.Stdout) != "out\n" || string(x.Stderr) != "err\n" || x.ReturnCode != 3 || x.Status != agentsandbox.StatusFailed {
		t.Errorf("%+v", x)
	}
	if len(x.Files) != 1 || x.Files[0].Filename != "deep/file" || x.Files[0].Path != "/workspace/deep/file" {
		t.Fatalf("files %+v", x.Files)
	}
	_, r, err := f.OpenFile(ctx, x.Files[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, _ := io.ReadAll(r); string(got) != "made\n" {
		t.Errorf("contents %q", got)
	}
	rec, err := f.Execution(ctx, x.ID)
	if err != nil {
		t.Fatal(err)
	}
	if string(rec.Stdout) != "out\n" || rec.ReturnCode != 3 || rec.EndedAt.IsZero() || rec.DurationMS < 1 || len(rec.Files) != 1 || rec.HTTPStatus != 200 {
		t.Errorf("record %+v", rec)
	}
	if _, err := f.Session(ctx, x.SessionID); agentsandbox.CodeOf(err) != agentsandbox.CodeSessionNotFound {
		t.Errorf("the session of a one-shot run: %v", err)
	}
	until(t, "the sandbox is destroyed", func() bool { return f.alive() == 0 })
}

// TestAPanicEndsOneRun: the server lives, the request and the record say that it failed,
// and the sandbox and the session are let go.
func TestAPanicEndsOneRun(t *testing.T) {
	f := newFixture(t, t.TempDir())
	ctx := as(t, "a")
	session := f.session(ctx, agentsandbox.SessionRequest{}).ID
	f.insane = true
	for _, id := range []string{"", session} {
		_, err := f.Execute(ctx, agentsandbox.ExecuteRequest{Code: "echo", Language: agentsandbox.Bash, SessionID: id})
		wantCode(t, err, agentsandbox.CodeInternal)
	}
	f.insane = false
	if x := f.bash(ctx, session, "echo on"); string(x.Stdout) != "on\n" {
		t.Errorf("the session afterwards: %+v", x)
	}
	list, err := f.Executions(ctx, agentsandbox.ExecutionFilter{Page: agentsandbox.Page{Limit: 10}})
	if err != nil || list.Total != 3 {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, x := range list.Executions[1:] {
		if x.Status != agentsandbox.StatusFailed || x.EndedAt.IsZero() || !strings.Contains(x.Error, "The server failed") {
			t.Errorf("%s is %s: %q", x.ID, x.Status, x.Error)
		}
	}
	if err := f.DeleteSession(ctx, session); err != nil {
		t.Error(err)
	}
	until(t, "the sandboxes are destroyed", func() bool { return f.alive() == 0 })
}

// TestNoVerdict has sandboxes end because they do not report after the time limit of
// a run, which is no death of their own.
func TestNoVerdict(t *testing.T) {
	f := newFixtureWith(t, t.TempDir(), engine.Options{VerdictGrace: 10 * time.Millisecond})
	ctx := as(t, "a")
	f.mute = true
	for _, session := range []string{"", f.session(ctx, agentsandbox.SessionRequest{}).ID} {
		x, err := f.Execute(ctx, agentsandbox.ExecuteRequest{Code: "sleep 60", Language: agentsandbox.Bash, SessionID: session, TimeoutMS: 50})
		if err != nil {
			t.Fatal(err)
		}
		if x.Status != agentsandbox.StatusTimedOut || !strings.Contains(x.Error, "did not report after the time limit") {
			t.Errorf("session %q: %s, %q", session, x.Status, x.Error)
		}
	}
}

func TestVerdicts(t *testing.T) {
	f := newFixture(t, t.TempDir())
	ctx := as(t, "a")
	t.Run("signal", func(t *testing.T) {
		x := f.bash(ctx, "", "kill -TERM $$")
		if x.ReturnCode != 143 || x.Signal != "SIGTERM" || x.Status != agentsandbox.StatusFailed ||
			string(x.Stderr) != "agentsandbox: ended by SIGTERM, sent by a process of the sandbox\n" {
			t.Errorf("%+v", x)
		}
	})
	t.Run("timed out", func(t *testing.T) {
		x, err := f.Execute(ctx, agentsandbox.ExecuteRequest{Code: "printf before; sleep 60", Language: agentsandbox.Bash, TimeoutMS: 300})
		if err != nil {
			t.Fatal(err)
		}
		if x.Status != agentsandbox.StatusTimedOut || x.ReturnCode != 124 || string(x.Stdout) != "before" ||
			string(x.Stderr) != "agentsandbox: ended after 0.3 s: the time limit\n" {
			t.Errorf("%+v", x)
		}
	})
	t.Run("output over the limit", func(t *testing.T) {
		x := f.bash(ctx, "", "head -c 5000 /dev/zero | tr '\\0' x; echo fine >&2")
		if len(x.Stdout) != 1000 || x.StdoutBytes != 5000 || !x.Truncated || string(x.Stderr) != "fine\nagentsandbox: the output was cut: the first 1000 of 5000 bytes of standard output are kept\n" || x.Status != agentsandbox.StatusSucceeded {
			t.Errorf("%d of %d bytes, %+v", len(x.Stdout), x.StdoutBytes, x.Status)
		}
	})
	t.Run("the sandbox dies", func(t *testing.T) {
		got := make(chan *agentsandbox.Execution)
		go func() {
			x, _ := f.Execute(ctx, agentsandbox.ExecuteRequest{Code: "echo begun; sleep 60", Language: agentsandbox.Bash})
			got <- x
		}()
		until(t, "it runs", func() bool { return running(t, f, ctx) == 1 })
		f.killAll()
		x := <-got
		if x == nil || x.Status != agentsandbox.StatusSandboxLost || x.ReturnCode != 137 || !strings.Contains(string(x.Stderr), "agentsandbox: The sandbox died") {
			t.Errorf("%+v", x)
		}
	})
	t.Run("the memory limit", func(t *testing.T) {
		got := make(chan *agentsandbox.Execution)
		go func() {
			x, _ := f.Execute(ctx, agentsandbox.ExecuteRequest{Code: "sleep 60", Language: agentsandbox.Bash})
			got <- x
		}()
		until(t, "it runs", func() bool { return running(t, f, ctx) == 1 })
		f.mu.Lock()
		for _, sb := range f.sandboxes {
			if sb, ok := sb.(*fake.Sandbox); ok {
				sb.SetUsage(runtime.Usage{OOMKills: 1})
				sb.Die()
			}
		}
		f.mu.Unlock()
		if x := <-got; x == nil || x.Status != agentsandbox.StatusMemoryExceeded || x.ReturnCode != 137 {
			t.Errorf("%+v", x)
		}
	})
	t.Run("the run cannot start", func(t *testing.T) {
		f := newFixture(t, t.TempDir())
		f.runError = fmt.Errorf("%w: no processes left", runtime.ErrNotStarted)
		x := f.bash(ctx, "", "true")
		if x.Status != agentsandbox.StatusFailed || x.ReturnCode != 126 || !strings.Contains(string(x.Stderr), "no processes left") {
			t.Errorf("%+v", x)
		}
	})
	t.Run("the client goes away", func(t *testing.T) {
		gone, leave := context.WithCancel(ctx)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_, _ = f.Execute(gone, agentsandbox.ExecuteRequest{Code: "echo begun; sleep 60", Language: agentsandbox.Bash})
		}()
		until(t, "it runs", func() bool { return running(t, f, ctx) == 1 })
		leave()
		<-ended
		list, err := f.Executions(ctx, agentsandbox.ExecutionFilter{Page: agentsandbox.Page{Limit: 1}, Status: agentsandbox.StatusCancelled})
		if err != nil || list.Total != 1 {
			t.Errorf("%+v, %v", list, err)
		}
	})
	if n := running(t, f, ctx); n != 0 {
		t.Errorf("%d records say that they run", n)
	}
	until(t, "the sandboxes are destroyed", func() bool { return f.alive() == 0 })
}

func running(t *testing.T, f *fixture, ctx context.Context) int {
	t.Helper()
	list, err := f.Executions(ctx, agentsandbox.ExecutionFilter{Page: agentsandbox.Page{Limit: 1}, Status: agentsandbox.StatusRunning})
	if err != nil {
		t.Fatal(err)
	}
	return list.Total
}

func TestCollectIsBoundedAndSaysSo(t *testing.T) {
	f := newFixture(t, t.TempDir())
	ctx := as(t, "a")
	x := f.bash(ctx, "", "for i in 1 2 3 4 5; do echo $i > f$i; done")
	if len(x.Files) != 3 || x.FilesOmitted != 2 {
		t.Errorf("%d files, %d omitted; want 3 and 2", len(x.Files), x.FilesOmitted)
	}
	x = f.bash(ctx, "", "head -c 700 /dev/zero > a; head -c 700 /dev/zero > b")
	if len(x.Files) != 1 || x.FilesOmitted != 1 {
		t.Errorf("%d files, %d omitted; want 1 and 1", len(x.Files), x.FilesOmitted)
	}
}

func TestSession(t *testing.T) {
	f := newFixture(t, t.TempDir())
	ctx := as(t, "a")
	up, err := f.UploadFile(ctx, agentsandbox.FileUpload{Filename: "in.txt"}, strings.NewReader("injected"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := f.CreateSession(ctx, agentsandbox.SessionRequest{Env: map[string]string{"A": "1", "B": "1"}, FileIDs: []string{up.ID}})
	if err != nil {
		t.Fatal(err)
	}
	x, err := f.Execute(ctx, agentsandbox.ExecuteRequest{Code: "cat in.txt; echo $A$B; echo kept > kept", Language: agentsandbox.Bash, SessionID: s.ID, Env: map[string]string{"B": "2"}})
	if err != nil {
		t.Fatal(err)
	}
	if string(x.Stdout) != "injected12\n" || len(x.Files) != 1 || x.Files[0].Filename != "kept" {
		t.Errorf("%s, %+v", x.Stdout, x.Files)
	}
	if x := f.bash(ctx, s.ID, "cat kept; echo $A$B"); string(x.Stdout) != "kept\n11\n" || len(x.Files) != 0 {
		t.Errorf("%s, %+v", x.Stdout, x.Files)
	}
	list, err := f.Sessions(ctx, agentsandbox.SessionFilter{Page: agentsandbox.Page{Limit: 10}})
	if err != nil || list.Total != 1 || list.Sessions[0].ID != s.ID || list.Sessions[0].Template != "default" {
		t.Errorf("%+v, %v", list, err)
	}
	if err := f.DeleteSession(ctx, s.ID); err != nil {
		t.Fatal(err)
	}
	if f.alive() != 0 {
		t.Error("the sandbox outlives the deletion")
	}
	wantCode(t, f.DeleteSession(ctx, s.ID), agentsandbox.CodeSessionNotFound)
	_, err = f.Execute(ctx, agentsandbox.ExecuteRequest{Code: "1", SessionID: s.ID})
	wantCode(t, err, agentsandbox.CodeSessionNotFound)
}

func TestDeletingASessionEndsWhatRunsInIt(t *testing.T) {
	f := newFixture(t, t.TempDir())
	ctx := as(t, "a")
	s, err := f.CreateSession(ctx, agentsandbox.SessionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan *agentsandbox.Execution)
	go func() {
		x, _ := f.Execute(ctx, agentsandbox.ExecuteRequest{Code: "sleep 60", Language: agentsandbox.Bash, SessionID: s.ID})
		got <- x
	}()
	until(t, "it runs", func() bool { return running(t, f, ctx) == 1 })
	var won, lost int
	results := make(chan error)
	for range 5 {
		go func() { results <- f.DeleteSession(ctx, s.ID) }()
	}
	for range 5 {
		if err := <-results; err == nil {
			won++
		} else if agentsandbox.CodeOf(err) == agentsandbox.CodeSessionNotFound {
			lost++
		}
	}
	if won != 1 || lost != 4 {
		t.Errorf("%d won, %d lost; want 1 and 4", won, lost)
	}
	if x := <-got; x == nil || x.Status != agentsandbox.StatusCancelled {
		t.Errorf("%+v", x)
	}
}

func TestASessionWhoseSandboxDiesIsLost(t *testing.T) {
	f := newFixture(t, t.TempDir())
	ctx := as(t, "a")
	s, err := f.CreateSession(ctx, agentsandbox.SessionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	f.killAll()
	until(t, "the session is lost", func() bool {
		_, err := f.Session(ctx, s.ID)
		return err != nil && strings.Contains(err.Error(), "lost")
	})
	list, err := f.Sessions(ctx, agentsandbox.SessionFilter{Page: agentsandbox.Page{Limit: 10}})
	if err != nil || list.Total != 0 {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestTenantsDoNotSeeEachOther(t *testing.T) {
	f := newFixture(t, t.TempDir())
	a, b := as(t, "a"), as(t, "b")
	s, err := f.CreateSession(a, agentsandbox.SessionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	up, err := f.UploadFile(a, agentsandbox.FileUpload{Filename: "x"}, strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	x := f.bash(a, s.ID, "true")
	_, err = f.Session(b, s.ID)
	wantCode(t, err, agentsandbox.CodeSessionNotFound)
	wantCode(t, f.DeleteSession(b, s.ID), agentsandbox.CodeSessionNotFound)
	wantCode(t, f.InjectFiles(b, s.ID, []string{up.ID}), agentsandbox.CodeSessionNotFound)
	_, err = f.Execute(b, agentsandbox.ExecuteRequest{Code: "1", SessionID: s.ID})
	wantCode(t, err, agentsandbox.CodeSessionNotFound)
	_, err = f.Execute(b, agentsandbox.ExecuteRequest{Code: "1", FileIDs: []string{up.ID}})
	wantCode(t, err, agentsandbox.CodeFileNotFound)
	_, _, err = f.OpenFile(b, up.ID)
	wantCode(t, err, agentsandbox.CodeFileNotFound)
	wantCode(t, f.DeleteFile(b, up.ID), agentsandbox.CodeFileNotFound)
	_, err = f.Execution(b, x.ID)
	wantCode(t, err, agentsandbox.CodeExecutionNotFound)
	_, _, err = f.ReadPath(b, s.ID, "/workspace/x")
	wantCode(t, err, agentsandbox.CodeSessionNotFound)
}

func TestNothingWorksWithoutAPrincipal(t *testing.T) {
	f := newFixture(t, t.TempDir())
	_, err := f.Execute(t.Context(), agentsandbox.ExecuteRequest{Code: "1"})
	wantCode(t, err, agentsandbox.CodeUnauthorized)
	_, err = f.Files(t.Context(), agentsandbox.Page{Limit: 1})
	wantCode(t, err, agentsandbox.CodeUnauthorized)
}

func TestRefusedRequestsLeaveNothing(t *testing.T) {
	f := newFixture(t, t.TempDir())
	ctx := as(t, "a")
	for _, req := range []agentsandbox.ExecuteRequest{
		{Code: ""},
		{Code: "1", Language: "cobol"},
		{Code: "1", Env: map[string]string{"A=B": "x"}},
		{Code: "1", TimeoutMS: 1 << 40},
		{Code: "1", MemoryMB: 4096},
		{Code: "1", CPUs: 64},
	} {
		_, err := f.Execute(ctx, req)
		wantCode(t, err, agentsandbox.CodeInvalidRequest)
	}
	_, err := f.Execute(ctx, agentsandbox.ExecuteRequest{Code: strings.Repeat("#", 10_001)})
	wantCode(t, err, agentsandbox.CodeTooLarge)
	list, err := f.Executions(ctx, agentsandbox.ExecutionFilter{Page: agentsandbox.Page{Limit: 1}})
	if err != nil || list.Total != 0 || f.alive() != 0 {
		t.Errorf("%d records, %d sandboxes, %v", list.Total, f.alive(), err)
	}
}

type brokenBody struct{ r io.Reader }

func (b brokenBody) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func TestUploads(t *testing.T) {
	f := newFixture(t, t.TempDir())
	ctx := as(t, "a")
	_, err := f.UploadFile(ctx, agentsandbox.FileUpload{Filename: "half"}, brokenBody{strings.NewReader("half")})
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a body that breaks off: %v", err)
	}
	_, err = f.UploadFile(ctx, agentsandbox.FileUpload{Filename: "big"}, bytes.NewReader(make([]byte, 1<<20+1)))
	wantCode(t, err, agentsandbox.CodeTooLarge)
	_, err = f.UploadFile(ctx, agentsandbox.FileUpload{Filename: "x", SessionID: "ses_none"}, strings.NewReader("x"))
	wantCode(t, err, agentsandbox.CodeSessionNotFound)
	if list, err := f.Files(ctx, agentsandbox.Page{Limit: 1}); err != nil || list.Total != 0 {
		t.Errorf("%d files are left, %v", list.Total, err)
	}
	up, err := f.UploadFile(ctx, agentsandbox.FileUpload{Filename: `C:\x\a.csv`, MediaType: "no type"}, strings.NewReader("abc"))
	if err != nil {
		t.Fatal(err)
	}
	if up.Filename != "a.csv" || up.SizeBytes != 3 || up.SHA256 != "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" {
		t.Errorf("%+v", up)
	}
	if err := f.DeleteFile(ctx, up.ID); err != nil {
		t.Fatal(err)
	}
	wantCode(t, f.DeleteFile(ctx, up.ID), agentsandbox.CodeFileNotFound)
}

func TestCloseEndsWhatRuns(t *testing.T) {
	f := newFixture(t, t.TempDir())
	ctx := as(t, "a")
	if _, err := f.CreateSession(ctx, agentsandbox.SessionRequest{}); err != nil {
		t.Fatal(err)
	}
	got := make(chan *agentsandbox.Execution)
	go func() {
		x, _ := f.Execute(ctx, agentsandbox.ExecuteRequest{Code: "sleep 60", Language: agentsandbox.Bash})
		got <- x
	}()
	until(t, "it runs", func() bool { return running(t, f, ctx) == 1 })
	now, cancel := context.WithCancel(t.Context())
	cancel()
	closed := make(chan struct{})
	go func() { defer close(closed); f.Close(now) }()
	if x := <-got; x == nil || x.Status != agentsandbox.StatusCancelled || !strings.Contains(x.Error, "shut down") {
		t.Errorf("%+v", x)
	}
	<-closed
	if f.alive() != 0 {
		t.Errorf("%d sandboxes are left", f.alive())
	}
	_, err := f.Execute(ctx, agentsandbox.ExecuteRequest{Code: "1"})
	wantCode(t, err, agentsandbox.CodeUnavailable)
}

func TestRecover(t *testing.T) {
	dir := t.TempDir()
	db, err := store.Open(t.Context(), dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC()
	session := agentsandbox.Session{ID: agentsandbox.NewID("ses_"), Tenant: "a", Status: agentsandbox.SessionLive, CreatedAt: now}
	run := agentsandbox.Execution{ID: agentsandbox.NewID("exe_"), Tenant: "a", Status: agentsandbox.StatusRunning, SessionID: session.ID, CreatedAt: now}
	err = errors.Join(db.InsertSession(t.Context(), session, nil), db.InsertExecution(t.Context(), run, "", nil), db.Close())
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, dir)
	ctx := as(t, "a")
	rec, err := f.Execution(ctx, run.ID)
	if err != nil || rec.Status != agentsandbox.StatusSandboxLost || rec.EndedAt.IsZero() {
		t.Errorf("%+v, %v", rec, err)
	}
	_, err = f.Session(ctx, session.ID)
	if err == nil || !strings.Contains(fmt.Sprint(err), "lost") {
		t.Errorf("%v", err)
	}
}

func TestARunWhoseOutputFindsNoRoomStillEnds(t *testing.T) {
	f := newFixture(t, t.TempDir())
	ctx := as(t, "a")
	f.noRoom.Store(true)
	_, err := f.Execute(ctx, agentsandbox.ExecuteRequest{Code: "echo lost; echo made > made", Language: agentsandbox.Bash})
	wantCode(t, err, agentsandbox.CodeStorageFull)
	list, err := f.Executions(ctx, agentsandbox.ExecutionFilter{Page: agentsandbox.Page{Limit: 1}})
	if err != nil || list.Total != 1 {
		t.Fatal(list, err)
	}
	rec, err := f.Execution(ctx, list.Executions[0].ID)
	if err != nil || rec.Status != agentsandbox.StatusSucceeded || !rec.Truncated || rec.StdoutBytes != 5 || rec.FilesOmitted != 1 || rec.Error == "" || rec.HTTPStatus != 507 {
		t.Errorf("%+v, %v", rec, err)
	}
	if files, err := f.Files(ctx, agentsandbox.Page{Limit: 1}); err != nil || files.Total != 0 {
		t.Errorf("%d files, %v", files.Total, err)
	}
}

func TestDamagedContentsAreRefused(t *testing.T) {
	dir := t.TempDir()
	f := newFixture(t, dir)
	ctx := as(t, "a")
	up, err := f.UploadFile(ctx, agentsandbox.FileUpload{Filename: "x"}, strings.NewReader("whole"))
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(filepath.Join(dir, "blobs", "contents"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return os.Truncate(path, 2)
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.OpenFile(ctx, up.ID); err == nil {
		t.Error("half of a file was served as the whole")
	}
	if _, err := f.Execute(ctx, agentsandbox.ExecuteRequest{Code: "1", FileIDs: []string{up.ID}}); err == nil {
		t.Error("half of a file was injected as the whole")
	}
}

func TestInjectedNamesMustDiffer(t *testing.T) {
	f := newFixture(t, t.TempDir())
	ctx := as(t, "a")
	var ids []string
	for range 2 {
		up, err := f.UploadFile(ctx, agentsandbox.FileUpload{Filename: "same"}, strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, up.ID)
	}
	_, err := f.Execute(ctx, agentsandbox.ExecuteRequest{Code: "true", Language: agentsandbox.Bash, FileIDs: ids})
	wantCode(t, err, agentsandbox.CodeInvalidRequest)
	if _, err := f.Execute(ctx, agentsandbox.ExecuteRequest{Code: "true", Language: agentsandbox.Bash, FileIDs: []string{ids[0], ids[0]}}); err != nil {
		t.Errorf("one file named twice: %v", err)
	}
}

func TestContentsWithoutAFileAreRemoved(t *testing.T) {
	dir := t.TempDir()
	left, err := blob.Open(filepath.Join(dir, "blobs"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	// A server that died before it wrote the row.
	if _, err := left.Put(t.Context(), agentsandbox.NewID(agentsandbox.FilePrefix), strings.NewReader("of nobody"), 0); err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, dir)
	if n := f.blobs(); n != 1 {
		t.Fatalf("%d blobs, want 1", n)
	}
	up, err := f.upload(as(t, "a"), "of somebody")
	if err != nil {
		t.Fatal(err)
	}
	f.Start()
	for deadline := time.Now().Add(time.Minute); f.blobs() != 1; {
		if time.Now().After(deadline) {
			t.Fatalf("%d blobs, want 1", f.blobs())
		}
	}
	if _, r, err := f.OpenFile(as(t, "a"), up.ID); err != nil {
		t.Error(err)
	} else {
		_ = r.Close()
	}
}
