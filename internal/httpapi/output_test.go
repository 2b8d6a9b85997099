package httpapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"github.com/agentsandbox/agentsandbox"
)

// TestOutputIsEncodedAsTextIs: whatever the bytes are, and wherever they are cut
// into pieces, the answer is what encoding/json makes of their text.
func TestOutputIsEncodedAsTextIs(t *testing.T) {
	samples := [][]byte{
		nil, []byte("plain"), []byte("\x00\x01\x1f \"\\/\b\f\n\r\t\x7f<>&"), []byte("é€😀\u2028\u2029\ufffd"),
		[]byte("\xff\xfe\xc0\x80\xed\xa0\x80\xf0\x9f\x98"), bytes.Repeat([]byte("€"), pieceBytes), bytes.Repeat([]byte("x😀"), pieceBytes),
		bytes.Repeat([]byte("\xe2\x82"), pieceBytes), bytes.Repeat([]byte{0x80}, 3*pieceBytes), bytes.Repeat([]byte{0}, 2*pieceBytes+1),
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		b := make([]byte, random.IntN(3*pieceBytes))
		for i := range b {
			b[i] = byte(random.IntN(256))
		}
		samples = append(samples, b)
	}
	type answer struct {
		A   int    `json:"a"`
		Out output `json:"out,omitzero"`
	}
	for i, b := range samples {
		var want bytes.Buffer
		enc := json.NewEncoder(&want)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(struct {
			A   int    `json:"a"`
			Out string `json:"out"`
		}{7, text(b)}); err != nil {
			t.Fatal(err)
		}
		rest, p := splitOutput(&answer{7, b})
		small, err := json.Marshal(rest)
		if err != nil {
			t.Fatal(err)
		}
		p.small = bytes.TrimSuffix(small, []byte("}"))
		var got bytes.Buffer
		if err := p.send(func(b []byte) error { _, err := got.Write(b); return err }); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), want.Bytes()) {
			t.Errorf("sample %d, %d bytes: %.100q, want %.100q", i, len(b), got.Bytes(), want.Bytes())
		}
	}
}

// TestLargeRecordsAreWholeAndCounted: the answer is the record, and what it held
// is given back.
func TestLargeRecordsAreWholeAndCounted(t *testing.T) {
	s := newTestServer(t, Limits{})
	out := bytes.Repeat([]byte("\x00\xe2\x82 €\n"), 1<<18)
	s.fake.executions = []agentsandbox.Execution{{ID: "exe_1", Status: agentsandbox.StatusSucceeded, Stdout: out, Stderr: []byte("e"), Code: "c", CreatedAt: fakeTime}}
	got := decodeAnswer[executionRecord](t, s.do(t, "read", "GET", "/v1/executions/exe_1", nil), 200)
	if string(got.Stdout) != text(out) || string(got.Stderr) != "e" || string(got.Code) != "c" || got.ID != "exe_1" {
		t.Error("the record is not what was kept")
	}
	if w := s.do(t, "read", "GET", "/v1/executions/exe_1/stdout", nil); !bytes.Equal(w.Body.Bytes(), out) {
		t.Error("the bytes are not what was kept")
	}
	if n := s.room.inUse(); n != 0 {
		t.Errorf("%d bytes are still held", n)
	}
}

// TestNobodyHoldsMoreThanTheShare: while readers of one key do not read, the key
// is told to wait, and another is served.
func TestNobodyHoldsMoreThanTheShare(t *testing.T) {
	s := newTestServer(t, Limits{MemoryBytes: 4 << 20})
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
	failureOf(t, s.do(t, "read", "GET", "/v1/executions/exe_1/stderr", nil), 503)
	if w := s.do(t, "sandbox", "GET", "/v1/executions/exe_1", nil); w.Code != 200 {
		t.Errorf("another key: %d %.200s", w.Code, w.Body)
	}
	if w := s.do(t, "read", "GET", "/v1/files", nil); w.Code != 200 {
		t.Errorf("what needs no room: %d %s", w.Code, w.Body)
	}
	close(first.goOn)
	<-done
	if w := s.do(t, "read", "GET", "/v1/executions/exe_1", nil); w.Code != 200 || s.room.inUse() != 0 {
		t.Errorf("afterwards: %d, %d bytes held", w.Code, s.room.inUse())
	}
}

// TestAnswersWithoutOutputAreCounted: names of files fill an answer as output does.
func TestAnswersWithoutOutputAreCounted(t *testing.T) {
	for _, target := range []string{"/v1/executions/exe_1", "/v1/executions", "/v1/sessions/ses_1/fs/list?path=/workspace&limit=1000"} {
		s := newTestServer(t, Limits{MemoryBytes: 4 << 20})
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
		if w := s.do(t, "read", "GET", target, nil); w.Code != 200 || s.room.inUse() != 0 {
			t.Errorf("%s, afterwards: %d, %d bytes held", target, w.Code, s.room.inUse())
		}
	}
}

// TestBodiesThatArriveAreCounted: half-sent bodies hold no more than the share of
// their key, and of their tenant.
func TestBodiesThatArriveAreCounted(t *testing.T) {
	s := newTestServer(t, Limits{MemoryBytes: 4 << 20})
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
	if w := s.do(t, "sandbox", "POST", "/v1/execute", large); w.Code != 200 || s.room.inUse() != 0 {
		t.Errorf("afterwards: %d, %d bytes held", w.Code, s.room.inUse())
	}
}

func TestRoomShares(t *testing.T) {
	r := newRoom(1000)
	for _, step := range []struct {
		tenant, key string
		n           int64
		ok          bool
	}{
		{"a", "a1", 5000, true}, // the first always fits
		{"a", "a1", 1, false},
		{"b", "b1", 1, false}, // the whole is full
		{"a", "a1", -5000, true},
		{"a", "a1", 200, true}, {"a", "a1", 50, true}, {"a", "a1", 1, false}, // a quarter
		{"a", "a2", 250, true}, {"a", "a3", 1, false}, // half
		{"b", "b1", 250, true}, {"b", "b2", 250, true}, {"c", "c1", 1, false},
	} {
		if step.n < 0 {
			r.give(step.tenant, step.key, -step.n)
		} else if err := r.take(step.tenant, step.key, 0, step.n, false); (err == nil) != step.ok {
			t.Errorf("%+v: %v", step, err)
		}
	}
	if err := r.take("c", "c1", 0, 400, true); err != nil || r.inUse() != 1400 {
		t.Errorf("%v, %d", err, r.inUse())
	}
}

func TestRequestsOfAKeyAreBounded(t *testing.T) {
	l, err := newLimiter(Rates{Requests: 2})
	if err != nil {
		t.Fatal(err)
	}
	leave, _ := l.enter("k")
	if _, err := l.enter("k"); err != nil {
		t.Fatal(err)
	}
	if _, err := l.enter("k"); agentsandbox.CodeOf(err) != agentsandbox.CodeRateLimited {
		t.Errorf("%v", err)
	}
	if _, err := l.enter("other"); err != nil {
		t.Error(err)
	}
	leave()
	if _, err := l.enter("k"); err != nil {
		t.Error(err)
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
