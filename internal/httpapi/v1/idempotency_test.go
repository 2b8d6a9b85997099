package v1

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
	"github.com/agentsandbox/agentsandbox/internal/idempotency"
)

// memory is an Idempotency in memory, without waiting: the real one is
// tested where it stands.
type memory struct {
	mu     sync.Mutex
	next   int64
	claims map[string]*idempotency.Claim
}

func newMemory() *memory { return &memory{claims: map[string]*idempotency.Claim{}} }

func (m *memory) BeginRequest(ctx context.Context, r idempotency.Request) (*idempotency.Claim, error) {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	key := p.Tenant + " " + p.KeyID + " " + r.Key
	if known := m.claims[key]; known != nil {
		if !known.Request.Same(r) {
			return nil, agentsandbox.Invalid(edge.KeyHeader, "was used for another request.")
		}
		claim := *known
		return &claim, nil
	}
	m.next++
	m.claims[key] = &idempotency.Claim{Seq: m.next, Tenant: p.Tenant, KeyID: p.KeyID, Request: r}
	claim := *m.claims[key]
	return &claim, nil
}

func (m *memory) find(c *idempotency.Claim) *idempotency.Claim {
	return m.claims[c.Tenant+" "+c.KeyID+" "+c.Request.Key]
}

func (m *memory) KeepAnswer(_ context.Context, c *idempotency.Claim, digest string, a idempotency.Answer) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.find(c).Answer, m.find(c).Request.Digest = &a, digest
	return nil
}

func (m *memory) DropRequest(_ context.Context, c *idempotency.Claim) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.find(c).ObjectID == "" {
		delete(m.claims, c.Tenant+" "+c.KeyID+" "+c.Request.Key)
	}
	return nil
}

func (m *memory) ReleaseRequest(*idempotency.Claim) {}

// die forgets the answers, and notes what the requests had made: as after a
// kill between the effect and the answer.
func (m *memory) die(object string) {
	for _, c := range m.claims {
		c.Answer, c.ObjectID = nil, object
		if c.Request.Path == "/v1/files" {
			c.Request.Digest = ""
		}
	}
}

func (f *fake) audit(_ context.Context, e agentsandbox.AuditEntry) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	e.Seq, e.At = int64(len(f.audited)+1), fakeTime
	e.Hash = agentsandbox.AuditHash(e.Chain(agentsandbox.AuditGenesis))
	f.audited = append(f.audited, e)
	return f.auditError
}

// requestOf is the POST to a path that the table of all routes has.
func requestOf(t *testing.T, target string) routeRequest {
	t.Helper()
	for _, r := range requestsOfAllRoutes {
		if r.method == "POST" && r.target == target {
			return r
		}
	}
	t.Fatalf("no POST %s", target)
	return routeRequest{}
}

func TestRepeatedRequestHasOneEffectAndOneAnswer(t *testing.T) {
	for _, r := range requestsOfAllRoutes {
		if r.method != "POST" || r.target == "/v1/api-keys" {
			continue
		}
		t.Run(r.target, func(t *testing.T) {
			s := newTestServer(t, edge.Limits{})
			s.fake.sessions = []agentsandbox.Session{{ID: "ses_x", Status: agentsandbox.SessionLive, CreatedAt: fakeTime}}
			s.fake.contents["fil_x"] = []byte("x")
			first := r.send(t, s, "sandbox", edge.KeyHeader, "k 1")
			if first.Code >= 300 || first.Header().Get(edge.ReplayedHeader) != "" {
				t.Fatalf("%d, %v: %s", first.Code, first.Header(), first.Body)
			}
			effects := s.fake.counter
			if r.contentType == uploadType { // another form around the same file
				r.body = strings.ReplaceAll(r.body, "--b", "--other")
				r.contentType = strings.ReplaceAll(r.contentType, "=b", "=other")
			}
			again := r.send(t, s, "sandbox", edge.KeyHeader, "k 1")
			if again.Code != first.Code || again.Body.String() != first.Body.String() || again.Header().Get(edge.ReplayedHeader) != "true" {
				t.Errorf("again: %d, %v, %s; first: %d, %s", again.Code, again.Header(), again.Body, first.Code, first.Body)
			}
			for _, name := range []string{"Content-Type", "X-Execution-Id"} {
				if got, want := again.Header().Get(name), first.Header().Get(name); got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
			if s.fake.counter != effects {
				t.Error("the request had a second effect")
			}
			other := r.send(t, s, "sandbox", edge.KeyHeader, "k 2")
			if other.Code != first.Code || other.Header().Get(edge.ReplayedHeader) != "" {
				t.Errorf("with another key: %d, %v", other.Code, other.Header())
			}
		})
	}
}

func TestIdempotencyKeyOfAnotherRequest(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	send := func(target, body string) *httptest.ResponseRecorder {
		return s.do(t, "sandbox", "POST", target, body, edge.KeyHeader, "k")
	}
	if w := send("/v1/execute", `{"code":"1"}`); w.Code != 200 {
		t.Fatal(w.Body)
	}
	for _, w := range []*httptest.ResponseRecorder{
		send("/v1/execute", `{"code":"2"}`), send("/v1/files?session_id=ses_x", `{"code":"1"}`), send("/v1/sessions", `{"code":"1"}`),
	} {
		if got := failureOf(t, w, 422); len(got.Details) != 1 || got.Details[0].Field != edge.KeyHeader {
			t.Errorf("%+v", got)
		}
	}
	upload := requestOf(t, "/v1/files")
	if w := upload.send(t, s, "sandbox", edge.KeyHeader, "u"); w.Code != 201 {
		t.Fatal(w.Body)
	}
	for _, change := range [][2]string{{"abc", "abd"}, {"a.txt", "b.txt"}} {
		other := upload
		other.body = strings.ReplaceAll(other.body, change[0], change[1])
		if got := failureOf(t, other.send(t, s, "sandbox", edge.KeyHeader, "u"), 422); got.Details[0].Field != edge.KeyHeader {
			t.Errorf("%+v", got)
		}
	}
	for _, bad := range []string{"", "a\tb", "é", strings.Repeat("k", 256)} {
		if got := failureOf(t, s.do(t, "sandbox", "POST", "/v1/execute", `{"code":"1"}`, edge.KeyHeader, bad), 422); got.Details[0].Field != edge.KeyHeader {
			t.Errorf("%q: %+v", bad, got)
		}
	}
	// A key says nothing to routes that need none.
	if w := s.do(t, "sandbox", "GET", "/v1/executions", nil, edge.KeyHeader, "k"); w.Code != 200 {
		t.Error(w.Body)
	}
}

func TestWhichAnswersAreKept(t *testing.T) {
	for code, kept := range map[agentsandbox.Code]bool{
		agentsandbox.CodeInvalidRequest: true, agentsandbox.CodeSessionNotFound: true, agentsandbox.CodeTooLarge: true,
		agentsandbox.CodeConflict: false, agentsandbox.CodeRateLimited: false, agentsandbox.CodeInternal: false,
		agentsandbox.CodeUnavailable: false, agentsandbox.CodeStorageFull: false,
	} {
		s := newTestServer(t, edge.Limits{})
		s.fake.fail = agentsandbox.Errorf(code, "The reason.")
		failureOf(t, s.do(t, "sandbox", "POST", "/v1/execute", `{"code":"1"}`, edge.KeyHeader, "k"), edge.Status(code))
		s.fake.fail = nil
		w := s.do(t, "sandbox", "POST", "/v1/execute", `{"code":"1"}`, edge.KeyHeader, "k")
		if got := w.Header().Get(edge.ReplayedHeader) == "true"; got != kept || kept != (w.Code != 200) {
			t.Errorf("%s: replayed %v, status %d", code, got, w.Code)
		}
	}
}

func TestPanicDropsTheRequest(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	s.fake.onExecute = func(context.Context, agentsandbox.ExecuteRequest) (*agentsandbox.Execution, error) { panic("boom") }
	failureOf(t, s.do(t, "sandbox", "POST", "/v1/execute", `{"code":"1"}`, edge.KeyHeader, "k"), 500)
	if n := len(s.memory.claims); n != 0 {
		t.Errorf("%d requests are held", n)
	}
}

// TestAnswerAfterDeath: the server died when the request had its effect and no
// answer.
func TestAnswerAfterDeath(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	for _, c := range []struct {
		target string
		object func() string
	}{
		{"/v1/execute", func() string { return s.fake.executions[0].ID }},
		{"/v1/sessions", func() string { return s.fake.sessions[0].ID }},
		{"/v1/files", func() string { return s.fake.files[0].ID }},
	} {
		r := requestOf(t, c.target)
		clear(s.memory.claims)
		first := r.send(t, s, "sandbox", edge.KeyHeader, "k")
		s.memory.die(c.object())
		effects := s.fake.counter
		for range 2 {
			again := r.send(t, s, "sandbox", edge.KeyHeader, "k")
			if again.Code != first.Code || again.Body.String() != first.Body.String() || again.Header().Get(edge.ReplayedHeader) != "true" || s.fake.counter != effects {
				t.Errorf("%s: %d, %v, %s; want %s", r.target, again.Code, again.Header(), again.Body, first.Body)
			}
		}
		if r.target != "/v1/files" {
			continue
		}
		s.memory.die(c.object())
		r.body = strings.ReplaceAll(r.body, "abc", "abd")
		failureOf(t, r.send(t, s, "sandbox", edge.KeyHeader, "k"), 422)
	}
	// Nothing is left of what the request made: it is made anew.
	r := requestOf(t, "/v1/sessions")
	clear(s.memory.claims)
	first := decodeAnswer[sessionInfo](t, r.send(t, s, "sandbox", edge.KeyHeader, "k"), 201)
	s.memory.die(first.SessionID)
	s.fake.sessions = nil
	second := decodeAnswer[sessionInfo](t, r.send(t, s, "sandbox", edge.KeyHeader, "k"), 201)
	if second.SessionID == first.SessionID || len(s.fake.sessions) != 1 {
		t.Errorf("%+v", second)
	}
}

func TestLargeAnswerIsMadeAgain(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	code := `{"code":"` + strings.Repeat("x", 1<<20-100) + `\u0001\u0001\u0001\u0001\u0001\u0001\u0001\u0001\u0001\u0001\u0001\u0001\u0001\u0001\u0001\u0001\u0001\u0001\u0001\u0001\u0001\u0001\u0001\u0001"}`
	first := s.do(t, "sandbox", "POST", "/v1/execute", code, edge.KeyHeader, "k")
	for _, c := range s.memory.claims {
		if c.Answer == nil || c.Answer.Body != nil {
			t.Errorf("%d bytes are kept", len(c.Answer.Body))
		}
		c.ObjectID = s.fake.executions[0].ID // the store notes it
	}
	again := s.do(t, "sandbox", "POST", "/v1/execute", code, edge.KeyHeader, "k")
	if first.Code != 200 || again.Body.String() != first.Body.String() || again.Header().Get(edge.ReplayedHeader) != "true" || len(s.fake.executions) != 1 {
		t.Errorf("%d, %v, %d bytes, %d runs", again.Code, again.Header(), again.Body.Len(), len(s.fake.executions))
	}
}

// TestKeyValueIsNeverKept: the value of a key is shown once.
func TestKeyValueIsNeverKept(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	first := decodeAnswer[newKey](t, s.do(t, "keys", "POST", "/v1/api-keys", `{"name":"ci"}`, edge.KeyHeader, "k"), 201)
	for _, c := range s.memory.claims {
		if len(c.Answer.Body) != 0 {
			t.Errorf("kept: %s", c.Answer.Body)
		}
		c.ObjectID = first.ID
	}
	got := failureOf(t, s.do(t, "keys", "POST", "/v1/api-keys", `{"name":"ci"}`, edge.KeyHeader, "k"), 409)
	if !strings.Contains(got.Message, first.ID) || len(s.fake.keys) != 1 {
		t.Errorf("%+v, %d keys", got, len(s.fake.keys))
	}
	s.memory.die(first.ID)
	failureOf(t, s.do(t, "keys", "POST", "/v1/api-keys", `{"name":"ci"}`, edge.KeyHeader, "k"), 409)
	for _, e := range s.fake.audited {
		if strings.Contains(e.Detail+e.ObjectID, first.KeyValue) {
			t.Errorf("the value is in the audit log: %+v", e)
		}
	}
}

// TestAudit: every request that is to change something has a row, whatever comes
// of it, and no other has.
func TestAudit(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	for _, r := range requestsOfAllRoutes {
		s.fake.audited = nil
		w := r.send(t, s, "admin", "X-Request-Id", "r1")
		if r.method == "GET" {
			if len(s.fake.audited) != 0 {
				t.Errorf("%s %s: %+v", r.method, r.target, s.fake.audited)
			}
			continue
		}
		if len(s.fake.audited) != 1 {
			t.Errorf("%s %s: %d rows", r.method, r.target, len(s.fake.audited))
			continue
		}
		e := s.fake.audited[0]
		op := s.operation(r.method, r.target)
		if e.Action != op.OperationID || e.RequestID != "r1" || e.KeyID != "key_admin" || e.Tenant != "acme" || e.Remote == "" || e.ObjectID == "" {
			t.Errorf("%s %s: %+v", r.method, r.target, e)
		}
		if (e.Outcome == agentsandbox.AuditOK) != (w.Code < 400) {
			t.Errorf("%s %s: status %d, outcome %s", r.method, r.target, w.Code, e.Outcome)
		}
		s.fake.audited = nil
		if r.send(t, s, "read"); len(s.fake.audited) != 1 || s.fake.audited[0].Outcome != string(agentsandbox.CodeForbidden) {
			t.Errorf("%s %s forbidden: %+v", r.method, r.target, s.fake.audited)
		}
		s.fake.audited = nil
		if r.send(t, s, "nope"); len(s.fake.audited) != 0 {
			t.Errorf("%s %s of nobody: %+v", r.method, r.target, s.fake.audited)
		}
	}
	s.fake.audited = nil
	s.fake.fail = agentsandbox.Errorf(agentsandbox.CodeRateLimited, "Slower.")
	if s.do(t, "admin", "POST", "/v1/execute", `{"code":"1"}`); len(s.fake.audited) != 0 {
		t.Errorf("refused for its rate: %+v", s.fake.audited)
	}
}

func TestMetadataFilter(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	for _, metadata := range []string{`{"user":"ada","a b":"1"}`, `{"user":"bob"}`, `null`} {
		body := `{"code":"1","metadata":` + metadata + `}`
		if got := decodeAnswer[executeAnswer](t, s.do(t, "sandbox", "POST", "/v1/execute", body), 200); got.Metadata == nil {
			t.Error("metadata is null")
		}
		if w := s.do(t, "sandbox", "POST", "/v1/sessions", `{"metadata":`+metadata+`}`); w.Code != http.StatusCreated {
			t.Error(w.Body)
		}
	}
	for query, want := range map[string]int{
		"?metadata[user]=ada": 1, "?metadata%5Buser%5D=ada&metadata[a%20b]=1": 1, "?metadata[user]=ada&metadata[a%20b]=2": 0, "": 3,
	} {
		for _, target := range []string{"/v1/executions", "/v1/sessions"} {
			page := decodeAnswer[PageInfo](t, s.do(t, "read", "GET", target+query, nil), http.StatusOK)
			if page.Total != want {
				t.Errorf("%s%s: %d, want %d", target, query, page.Total, want)
			}
		}
	}
	failureOf(t, s.do(t, "read", "GET", "/v1/executions?metadata[a]=1&metadata[a]=2", nil), 422)
	failureOf(t, s.do(t, "read", "GET", "/v1/executions?metadata[]=1", nil), 422)
}
