package v1

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
	"github.com/agentsandbox/agentsandbox/internal/httpserver"
)

// listen serves on a real connection, with the server that the program uses.
func (s *server) listen(t *testing.T) *httptest.Server {
	t.Helper()
	ts := httptest.NewUnstartedServer(s)
	ts.Config = httpserver.New(s, slog.New(slog.DiscardHandler))
	ts.Start()
	t.Cleanup(ts.Close)
	return ts
}

// patience ends a test that waits for what does not come.
const patience = 5 * time.Minute

// raw writes bytes to a fresh connection and returns it.
func raw(t *testing.T, ts *httptest.Server, request string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", ts.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	return conn
}

func readAnswer(t *testing.T, conn net.Conn) (int, string) {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestBodiesCutOnTheWay(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	s.fake.addSessions(1)
	ts := s.listen(t)
	for _, c := range []struct{ method, target, contentType, body string }{
		{"POST", "/v1/files", uploadType, uploadBody[:len(uploadBody)-20]},
		{"PUT", "/v1/sessions/" + aSession + "/fs?path=/workspace/a", "text/plain", "half"},
		{"POST", "/v1/execute", "application/json", `{"code":"pri`},
		{"POST", "/v1/execute", "application/json", `{"code":"1"}`}, // whole, but more was announced
	} {
		conn := raw(t, ts, fmt.Sprintf("%s %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sandbox\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s",
			c.method, c.target, c.contentType, len(c.body)+100, c.body))
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		status, body := readAnswer(t, conn)
		if status != 422 || !strings.Contains(body, "ended early") {
			t.Errorf("%s %s: %d %s", c.method, c.target, status, body)
		}
	}
	if len(s.fake.files)+len(s.fake.paths)+len(s.fake.requests) != 0 {
		t.Error("half a body was taken for a whole one")
	}
}

func TestBodiesThatDoNotArrive(t *testing.T) {
	s := newTestServer(t, edge.Limits{BodyTimeout: 20 * time.Millisecond, StallTimeout: 20 * time.Millisecond})
	ts := s.listen(t)
	for _, c := range []struct{ target, contentType, body string }{
		{"/v1/execute", "application/json", `{"code":"pri`},
		{"/v1/files", uploadType, uploadBody[:100]},
	} {
		conn := raw(t, ts, fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sandbox\r\nContent-Type: %s\r\nContent-Length: 9999\r\n\r\n%s",
			c.target, c.contentType, c.body))
		if status, body := readAnswer(t, conn); status != 422 || !strings.Contains(body, "in time") {
			t.Errorf("%s: %d %s", c.target, status, body)
		}
	}
}

// TestWorkOutlivesTheBodysDeadline: the deadline of a body that has arrived must
// not fire while the service works, which net/http would take for a client that
// is gone.
func TestWorkOutlivesTheBodysDeadline(t *testing.T) {
	const deadline = 300 * time.Millisecond // on a busy machine, a body that is there is read within it
	s := newTestServer(t, edge.Limits{BodyTimeout: deadline, StallTimeout: deadline})
	work := func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(2 * deadline):
			return nil
		}
	}
	s.fake.onExecute = func(ctx context.Context, _ agentsandbox.ExecuteRequest) (*agentsandbox.Execution, error) {
		return &agentsandbox.Execution{ID: "exe_1", Status: agentsandbox.StatusSucceeded}, work(ctx)
	}
	s.service = &slowUploads{fake: s.fake, work: work}
	ts := s.listen(t)
	for _, c := range []struct{ target, contentType, body string }{
		{"/v1/execute", jsonType, `{"code":"1"}`},
		{"/v1/files", uploadType, uploadBody},
		{"/v1/execute", jsonType, `{"code":"1"}`}, // all on one connection
	} {
		req, err := http.NewRequest("POST", ts.URL+c.target, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer sandbox")
		req.Header.Set("Content-Type", c.contentType)
		resp, err := ts.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode >= 300 {
			t.Errorf("%s: %d %s %v", c.target, resp.StatusCode, b, err)
		}
		_ = resp.Body.Close()
	}
}

// slowUploads works between the bytes of an upload.
type slowUploads struct {
	*fake
	work func(ctx context.Context) error
}

func (s *slowUploads) UploadFile(ctx context.Context, up agentsandbox.FileUpload, body io.Reader) (*agentsandbox.File, error) {
	if _, err := io.ReadFull(body, make([]byte, 1)); err != nil {
		return nil, err
	}
	if err := s.work(ctx); err != nil {
		return nil, err
	}
	return s.fake.UploadFile(ctx, up, body)
}

func TestClientThatGoesAwayCancelsItsRun(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	started, ended := make(chan struct{}), make(chan struct{})
	s.fake.onExecute = func(ctx context.Context, _ agentsandbox.ExecuteRequest) (*agentsandbox.Execution, error) {
		close(started)
		defer close(ended)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(patience):
			return nil, errors.New("the run was not cancelled")
		}
	}
	ts := s.listen(t)
	conn := raw(t, ts, "POST /v1/execute HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sandbox\r\nContent-Length: 12\r\n\r\n{\"code\":\"1\"}")
	<-started
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	<-ended
	ts.Close() // waits for the handler
	log := s.logged.String()
	if !strings.Contains(log, `"status":499`) || strings.Contains(log, `"level":"ERROR"`) {
		t.Errorf("log: %s", log)
	}
}

func TestReaderThatTakesNothingIsDropped(t *testing.T) {
	s := newTestServer(t, edge.Limits{StallTimeout: 20 * time.Millisecond})
	s.fake.files = []agentsandbox.File{{ID: "fil_1", Filename: "x", SizeBytes: 1 << 40, CreatedAt: fakeTime}}
	closed := make(chan struct{})
	s.fake.open = func(agentsandbox.File, []byte) io.ReadCloser { return endless{closed} }
	ts := s.listen(t)
	raw(t, ts, "GET /v1/files/fil_1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer read\r\n\r\n")
	select {
	case <-closed:
	case <-time.After(patience):
		t.Error("the download goes on for nobody")
	}
	ts.Close() // waits for the handler
	if log := s.logged.String(); !strings.Contains(log, `"status":499`) || strings.Contains(log, `"level":"ERROR"`) {
		t.Errorf("log: %s", log)
	}
}

type endless struct{ closed chan struct{} }

func (endless) Read(p []byte) (int, error) { return len(p), nil }
func (e endless) Close() error             { close(e.closed); return nil }

// TestLargeTransfersAreStreamed: what a transfer allocates, in server and client
// together, does not grow with its size.
func TestLargeTransfersAreStreamed(t *testing.T) {
	const size, allowed = 256 << 20, 16 << 20
	s := newTestServer(t, edge.Limits{})
	sink := &sinkService{fake: s.fake}
	s.service = sink
	s.fake.files = []agentsandbox.File{{ID: "fil_1", Filename: "x", SizeBytes: size, CreatedAt: fakeTime}}
	s.fake.open = func(agentsandbox.File, []byte) io.ReadCloser { return endless{make(chan struct{})} }
	ts := s.listen(t)
	send := func(method, target string, body io.Reader) (int, int64) {
		req, err := http.NewRequest(method, ts.URL+target, body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer sandbox")
		req.Header.Set("Content-Type", uploadType)
		resp, err := ts.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		n, err := io.Copy(io.Discard, resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, n
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	head, tail := "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n", "\r\n--b--\r\n"
	upload := io.MultiReader(strings.NewReader(head), io.LimitReader(endless{}, size), strings.NewReader(tail))
	if status, _ := send("POST", "/v1/files", upload); status != 201 || sink.size != size {
		t.Errorf("upload: status %d, %d bytes", status, sink.size)
	}
	if status, n := send("GET", "/v1/files/fil_1", nil); status != 200 || n != size {
		t.Errorf("download: status %d, %d bytes", status, n)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > allowed {
		t.Errorf("%d bytes were allocated for transfers of %d", got, 2*size)
	}
}

// sinkService takes uploads without keeping them.
type sinkService struct {
	*fake
	size int64
}

func (s *sinkService) UploadFile(_ context.Context, up agentsandbox.FileUpload, body io.Reader) (*agentsandbox.File, error) {
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, body, make([]byte, 64<<10))
	s.size = n
	if err != nil {
		return nil, err
	}
	return &agentsandbox.File{ID: "fil_1", Filename: up.Filename, SizeBytes: n, CreatedAt: fakeTime}, nil
}
