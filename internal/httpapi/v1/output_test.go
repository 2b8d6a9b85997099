package v1

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
)

// TestLargeRecordsAreWholeAndCounted: the answer is the record, and what it held
// is given back.
func TestLargeRecordsAreWholeAndCounted(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	out := bytes.Repeat([]byte("\x00\xe2\x82 €\n"), 1<<18)
	s.fake.executions = []agentsandbox.Execution{{ID: "exe_1", Status: agentsandbox.StatusSucceeded, Stdout: out, Stderr: []byte("e"), Code: "c", CreatedAt: fakeTime}}
	got := decodeAnswer[executionRecord](t, s.do(t, "read", "GET", "/v1/executions/exe_1", nil), 200)
	if string(got.Stdout) != edge.Text(out) || string(got.Stderr) != "e" || string(got.Code) != "c" || got.ID != "exe_1" {
		t.Error("the record is not what was kept")
	}
	if w := s.do(t, "read", "GET", "/v1/executions/exe_1/stdout", nil); !bytes.Equal(w.Body.Bytes(), out) {
		t.Error("the bytes are not what was kept")
	}
	if n := s.held(t); n != 0 {
		t.Errorf("%.0f bytes are still held", n)
	}
}

// TestNobodyHoldsMoreThanTheShare: while readers of one key do not read, the key
// is told to wait, and another is served.
func TestNobodyHoldsMoreThanTheShare(t *testing.T) {
	s := newTestServer(t, edge.Limits{MemoryBytes: 4 << 20})
	s.fake.executions = []agentsandbox.Execution{{ID: "exe_1", Status: agentsandbox.StatusSucceeded, Stdout: make([]byte, 600<<10), CreatedAt: fakeTime}}
	first := &stalledWriter{header: http.Header{}, blocked: make(chan struct{}), goOn: make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.ServeHTTP(first, request("read", "GET", "/v1/executions/exe_1", nil))
	}()
	<-first.blocked
	w := s.do(t, "read", "GET", "/v1/executions/exe_1", nil)
	if got := failureOf(t, w, 503); w.Header().Get("Retry-After") == "" || !strings.Contains(got.Message, "this key") {
		t.Errorf("%+v", got)
	}
	failureOf(t, s.do(t, "read", "GET", "/v1/executions/exe_1/stdout", nil), 503)
	if w := s.do(t, "sandbox", "GET", "/v1/executions/exe_1", nil); w.Code != 200 {
		t.Errorf("another key: %d %.200s", w.Code, w.Body)
	}
	if w := s.do(t, "read", "GET", "/v1/files", nil); w.Code != 200 {
		t.Errorf("what needs no room: %d %s", w.Code, w.Body)
	}
	close(first.goOn)
	<-done
	if w := s.do(t, "read", "GET", "/v1/executions/exe_1", nil); w.Code != 200 || s.held(t) != 0 {
		t.Errorf("afterwards: %d, %.0f bytes held", w.Code, s.held(t))
	}
}

// TestOutputThatIsNotHeldIsNotCounted: where output need not be in memory, its bytes are
// there for a key that has no room left.
func TestOutputThatIsNotHeldIsNotCounted(t *testing.T) {
	out := bytes.Repeat([]byte("x"), 600<<10)
	s := newTestServer(t, edge.Limits{MemoryBytes: 4 << 20}, func(o *setup) {
		o.api.Output = func(_ context.Context, id string, stream agentsandbox.Stream) (io.ReadSeekCloser, int, error) {
			if id != "exe_1" || stream != agentsandbox.Stdout {
				t.Errorf("asked for %s of %s", stream, id)
			}
			return inMemory{bytes.NewReader(out)}, 0, nil
		}
	})
	s.fake.executions = []agentsandbox.Execution{{ID: "exe_1", Status: agentsandbox.StatusSucceeded, Stdout: out, CreatedAt: fakeTime}}
	first := &stalledWriter{header: http.Header{}, blocked: make(chan struct{}), goOn: make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.ServeHTTP(first, request("read", "GET", "/v1/executions/exe_1", nil))
	}()
	<-first.blocked
	failureOf(t, s.do(t, "read", "GET", "/v1/executions/exe_1", nil), 503)
	if w := s.do(t, "read", "GET", "/v1/executions/exe_1/stdout", nil); w.Code != 200 || !bytes.Equal(w.Body.Bytes(), out) {
		t.Errorf("%d, %d bytes", w.Code, w.Body.Len())
	}
	close(first.goOn)
	<-done
}

// TestAnswersWithoutOutputAreCounted: names of files fill an answer as output does.
func TestAnswersWithoutOutputAreCounted(t *testing.T) {
	for _, target := range []string{"/v1/executions/exe_1", "/v1/executions", "/v1/sessions/ses_1/fs/list?path=/workspace&limit=1000"} {
		s := newTestServer(t, edge.Limits{MemoryBytes: 4 << 20})
		s.fake.sessions = []agentsandbox.Session{{ID: "ses_1", Status: agentsandbox.SessionLive, CreatedAt: fakeTime}}
		e := agentsandbox.Execution{ID: "exe_1", Status: agentsandbox.StatusSucceeded, CreatedAt: fakeTime}
		for n := range 1000 {
			name := fmt.Sprintf("%04d%s", n, strings.Repeat("\x01", 300))
			s.fake.names = append(s.fake.names, name)
			e.Files = append(e.Files, agentsandbox.File{ID: "fil_1", Filename: name, Path: agentsandbox.Workspace + "/" + name})
		}
		s.fake.executions = []agentsandbox.Execution{e}
		first := &stalledWriter{header: http.Header{}, blocked: make(chan struct{}), goOn: make(chan struct{})}
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.ServeHTTP(first, request("read", "GET", target, nil))
		}()
		<-first.blocked
		if w := s.do(t, "read", "GET", target, nil); w.Code != 503 {
			t.Errorf("%s: %d, and not 503", target, w.Code)
		}
		if w := s.do(t, "read", "GET", "/v1/files", nil); w.Code != 200 {
			t.Errorf("%s: what needs no room: %d %s", target, w.Code, w.Body)
		}
		if w := s.do(t, "sandbox", "GET", "/v1/files", nil); w.Code != 200 {
			t.Errorf("%s: another key: %d %s", target, w.Code, w.Body)
		}
		close(first.goOn)
		<-done
		if w := s.do(t, "read", "GET", target, nil); w.Code != 200 || s.held(t) != 0 {
			t.Errorf("%s, afterwards: %d, %.0f bytes held", target, w.Code, s.held(t))
		}
	}
}

// TestBodiesThatArriveAreCounted: half-sent bodies hold no more than the share of
// their key, and of their tenant.
func TestBodiesThatArriveAreCounted(t *testing.T) {
	s := newTestServer(t, edge.Limits{MemoryBytes: 4 << 20})
	body, sender := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.ServeHTTP(&stalledWriter{header: http.Header{}}, request("sandbox", "POST", "/v1/execute", body))
	}()
	if _, err := sender.Write(bytes.Repeat([]byte(" "), 500<<10)); err != nil {
		t.Fatal(err)
	}
	large := `{"code":"` + strings.Repeat("x", 200<<10) + `"}`
	if got := failureOf(t, s.do(t, "sandbox", "POST", "/v1/execute", large), 503); got.Code != agentsandbox.CodeUnavailable {
		t.Errorf("%+v", got)
	}
	if w := s.do(t, "admin", "POST", "/v1/execute", large); w.Code != 200 {
		t.Errorf("another key: %d %s", w.Code, w.Body)
	}
	sender.CloseWithError(io.ErrUnexpectedEOF)
	<-done
	if w := s.do(t, "sandbox", "POST", "/v1/execute", large); w.Code != 200 || s.held(t) != 0 {
		t.Errorf("afterwards: %d, %.0f bytes held", w.Code, s.held(t))
	}
}

func request(scope, method, target string, body io.Reader) *http.Request {
	r, err := http.NewRequest(method, target, body)
	if err != nil {
		panic(err)
	}
	r.Header.Set("Authorization", "Bearer "+scope)
	return r
}

// stalledWriter is a client that takes nothing until it is told to go on.
type stalledWriter struct {
	header        http.Header
	blocked, goOn chan struct{}
	told          bool
}

func (w *stalledWriter) Header() http.Header { return w.header }
func (w *stalledWriter) WriteHeader(int)     {}
func (w *stalledWriter) Write(b []byte) (int, error) {
	if w.goOn != nil {
		if !w.told {
			w.told = true
			close(w.blocked)
		}
		<-w.goOn
	}
	return len(b), nil
}
