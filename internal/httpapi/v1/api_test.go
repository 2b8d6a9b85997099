package v1

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/ports"
)

// server is the API on a fake, with a key per scope: the value is the scope.
type server struct {
	*api
	http.Handler
	fake      *fake
	memory    *memory
	registry  *prometheus.Registry
	logged    *lockedBuffer
	dialToken func(ctx context.Context, token string) (net.Conn, uint16, error) // of newPortServer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func authenticateScope(_ context.Context, value string) (agentsandbox.Principal, error) {
	for _, scope := range agentsandbox.Scopes {
		if value == string(scope) {
			return agentsandbox.Principal{KeyID: "key_" + value, Tenant: "acme", Scopes: []agentsandbox.Scope{scope}}, nil
		}
	}
	return agentsandbox.Principal{}, agentsandbox.Errorf(agentsandbox.CodeUnauthorized, "This API key is not known, or revoked, or expired.")
}

// setup is what a test may have otherwise than newTestServer does.
type setup struct {
	edge  edge.Options
	api   Options
	ports ports.Options
}

func newTestServer(t testing.TB, limits edge.Limits, changes ...func(*setup)) *server {
	t.Helper()
	s := &server{fake: newFake(), memory: newMemory(), registry: prometheus.NewRegistry(), logged: &lockedBuffer{}}
	o := setup{
		edge: edge.Options{
			Authenticate: authenticateScope, Registry: s.registry, Idempotency: s.memory, Audit: s.fake.audit, Limits: limits,
			Logger: slog.New(slog.NewJSONHandler(s.logged, &slog.HandlerOptions{Level: slog.LevelDebug})),
		},
		api:   Options{Service: s.fake, Ready: func() error { return nil }, Version: "test"},
		ports: ports.Options{Manner: Manner()},
	}
	for _, change := range changes {
		change(&o)
	}
	open, err := ports.New(o.ports)
	if err != nil {
		t.Fatal(err)
	}
	o.api.PortURL = open.URL
	if s.api, err = newAPI(o.api); err != nil {
		t.Fatal(err)
	}
	surface, err := s.surface()
	if err != nil {
		t.Fatal(err)
	}
	if s.Handler, err = edge.New(o.edge, open.Surface(), surface); err != nil {
		t.Fatal(err)
	}
	return s
}

// codeBytes bounds the code of executions.
func codeBytes(n int64) func(*setup) { return func(o *setup) { o.api.CodeBytes = n } }

// held is how many bytes of the server's room requests hold.
func (s *server) held(t testing.TB) float64 {
	t.Helper()
	families, err := s.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "agentsandbox_http_memory_bytes" {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatal("the room has no metric")
	return 0
}

// do sends a request with the key of a scope ("" for none). A body that is not
// a string is sent as JSON.
func (s *server) do(t testing.TB, scope, method, target string, body any, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	case []byte:
		r = bytes.NewReader(b)
	default:
		data, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		r = bytes.NewReader(data)
	}
	req := httptest.NewRequest(method, target, r)
	req.Header.Set("Content-Type", "application/json")
	if scope != "" {
		req.Header.Set("Authorization", "Bearer "+scope)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, req)
	return w
}

// failureOf checks the one shape of errors and returns what is in it.
func failureOf(t testing.TB, w *httptest.ResponseRecorder, status int) failureInfo {
	t.Helper()
	if w.Code != status {
		t.Fatalf("status %d, want %d: %s", w.Code, status, w.Body)
	}
	if got := w.Header().Get("Content-Type"); got != "application/json" {
		t.Errorf("Content-Type %q", got)
	}
	var f failure
	dec := json.NewDecoder(w.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		t.Fatal(err)
	}
	if f.Error.Code == "" || f.Error.Message == "" || f.Error.Details == nil {
		t.Errorf("incomplete error %+v", f.Error)
	}
	if f.Error.RequestID == "" || f.Error.RequestID != w.Header().Get("X-Request-Id") {
		t.Errorf("request id %q, header %q", f.Error.RequestID, w.Header().Get("X-Request-Id"))
	}
	return f.Error
}

func decodeAnswer[T any](t testing.TB, w *httptest.ResponseRecorder, status int) T {
	t.Helper()
	var v T
	if w.Code != status {
		t.Fatalf("status %d, want %d: %s", w.Code, status, w.Body)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Fatalf("%v in %s", err, w.Body)
	}
	return v
}

// requestsOfAllRoutes is one request per route, with what it needs.
type routeRequest struct {
	method, target string
	scope          agentsandbox.Scope
	body           string
	contentType    string
}

const (
	aSession   = "ses_00000000000000000000000001"
	uploadBody = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\nContent-Type: text/plain\r\n\r\nabc\r\n--b--\r\n"
	uploadType = "multipart/form-data; boundary=b"
)

var requestsOfAllRoutes = []routeRequest{
	{"POST", "/v1/execute", agentsandbox.ScopeSandbox, `{"code":"1"}`, ""},
	{"GET", "/v1/executions", agentsandbox.ScopeRead, "", ""},
	{"GET", "/v1/executions/exe_x", agentsandbox.ScopeRead, "", ""},
	{"GET", "/v1/executions/exe_x/stdout", agentsandbox.ScopeRead, "", ""},
	{"GET", "/v1/executions/exe_x/stderr", agentsandbox.ScopeRead, "", ""},
	{"POST", "/v1/sessions", agentsandbox.ScopeSandbox, `{}`, ""},
	{"GET", "/v1/sessions", agentsandbox.ScopeRead, "", ""},
	{"GET", "/v1/sessions/ses_x", agentsandbox.ScopeRead, "", ""},
	{"DELETE", "/v1/sessions/ses_x", agentsandbox.ScopeSandbox, "", ""},
	{"POST", "/v1/sessions/ses_x/keepalive", agentsandbox.ScopeSandbox, "", ""},
	{"POST", "/v1/sessions/ses_x/files", agentsandbox.ScopeSandbox, `{"file_ids":["fil_x"]}`, ""},
	{"GET", "/v1/sessions/ses_x/network", agentsandbox.ScopeRead, "", ""},
	{"PUT", "/v1/sessions/ses_x/network", agentsandbox.ScopeSandbox, `{"mode":"off"}`, ""},
	{"POST", "/v1/sessions/ses_x/ports", agentsandbox.ScopeSandbox, `{"port":80}`, ""},
	{"GET", "/v1/sessions/ses_x/ports", agentsandbox.ScopeSandbox, "", ""},
	{"DELETE", "/v1/sessions/ses_x/ports/80", agentsandbox.ScopeSandbox, "", ""},
	{"GET", "/v1/sessions/ses_x/ports/80/tunnel", agentsandbox.ScopeSandbox, "", ""},
	{"POST", "/v1/files", agentsandbox.ScopeSandbox, uploadBody, uploadType},
	{"GET", "/v1/files", agentsandbox.ScopeRead, "", ""},
	{"GET", "/v1/files/fil_x", agentsandbox.ScopeRead, "", ""},
	{"GET", "/v1/files/fil_x/metadata", agentsandbox.ScopeRead, "", ""},
	{"DELETE", "/v1/files/fil_x", agentsandbox.ScopeSandbox, "", ""},
	{"GET", "/v1/sessions/ses_x/fs?path=/a", agentsandbox.ScopeRead, "", ""},
	{"PUT", "/v1/sessions/ses_x/fs?path=/a", agentsandbox.ScopeSandbox, "bytes", "application/octet-stream"},
	{"DELETE", "/v1/sessions/ses_x/fs?path=/a", agentsandbox.ScopeSandbox, "", ""},
	{"GET", "/v1/sessions/ses_x/fs/stat?path=/a", agentsandbox.ScopeRead, "", ""},
	{"GET", "/v1/sessions/ses_x/fs/list?path=/a", agentsandbox.ScopeRead, "", ""},
	{"POST", "/v1/api-keys", agentsandbox.ScopeKeys, `{"name":"ci"}`, ""},
	{"GET", "/v1/api-keys", agentsandbox.ScopeKeys, "", ""},
	{"DELETE", "/v1/api-keys/key_x", agentsandbox.ScopeKeys, "", ""},
	{"GET", "/v1/audit", agentsandbox.ScopeAdmin, "", ""},
}

func (r routeRequest) send(t testing.TB, s *server, scope string, headers ...string) *httptest.ResponseRecorder {
	if r.contentType != "" {
		headers = append(headers, "Content-Type", r.contentType)
	}
	var body any
	if r.body != "" {
		body = r.body
	}
	return s.do(t, scope, r.method, r.target, body, headers...)
}

// TestEveryRouteIsListed keeps the table above whole.
func TestEveryRouteIsListed(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	documented := 0
	for _, item := range s.document.Paths {
		for _, op := range []bool{item.Get != nil, item.Post != nil, item.Put != nil, item.Delete != nil} {
			if op {
				documented++
			}
		}
	}
	if want := len(requestsOfAllRoutes) + 2; documented != want { // and the two of health
		t.Errorf("%d operations in the document, %d in the table", documented, want)
	}
}

func TestEveryRouteMapsEveryError(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	for _, code := range agentsandbox.Codes() {
		s.fake.fail = &agentsandbox.Error{Code: code, Message: "The reason.", Details: []agentsandbox.Detail{{Field: "x", Message: "y"}}, Err: io.ErrNoProgress}
		for _, r := range requestsOfAllRoutes {
			w := r.send(t, s, "admin")
			got := failureOf(t, w, edge.Status(code))
			if code == agentsandbox.CodeInternal {
				if got.Message == "The reason." || len(got.Details) != 0 {
					t.Errorf("%s %s shows the cause of an internal error: %+v", r.method, r.target, got)
				}
				continue
			}
			if got.Code != code || got.Message != "The reason." || len(got.Details) != 1 {
				t.Errorf("%s %s with %s answered %+v", r.method, r.target, code, got)
			}
			retry := w.Header().Get("Retry-After")
			if want := code == agentsandbox.CodeRateLimited || code == agentsandbox.CodeUnavailable; (retry == "1") != want {
				t.Errorf("%s: Retry-After %q", code, retry)
			}
			if got := w.Header().Get("WWW-Authenticate"); (got == "Bearer") != (code == agentsandbox.CodeUnauthorized) {
				t.Errorf("%s: WWW-Authenticate %q", code, got)
			}
		}
	}
	s.fake.fail = &agentsandbox.Error{Code: agentsandbox.CodeRateLimited, Message: "Slower.", RetryAfterSeconds: 7}
	if got := requestsOfAllRoutes[0].send(t, s, "sandbox").Header().Get("Retry-After"); got != "7" {
		t.Errorf("Retry-After %q, want 7", got)
	}
}

func TestUnknownErrorsAreHiddenAndLogged(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	s.fake.fail = io.ErrNoProgress
	w := s.do(t, "admin", "GET", "/v1/files", nil)
	if got := failureOf(t, w, 500); got.Code != agentsandbox.CodeInternal || strings.Contains(got.Message, "progress") {
		t.Errorf("%+v", got)
	}
	if !strings.Contains(s.logged.String(), io.ErrNoProgress.Error()) {
		t.Error("the cause is not in the log")
	}
}

func TestNoEntryWithoutAKey(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	for _, r := range requestsOfAllRoutes {
		r.body = "{nope" // and the body's faults do not come first
		for _, header := range []string{"", "Bearer", "Bearer ", "Bearer  read", "Basic abc", "Bearer nope", "Bearer read x", "read", "Bearer " + strings.Repeat("k", 600)} {
			w := r.send(t, s, "", "Authorization", header)
			if got := failureOf(t, w, 401); got.Code != agentsandbox.CodeUnauthorized {
				t.Errorf("%q: %+v", header, got)
			}
			if w.Header().Get("WWW-Authenticate") != "Bearer" {
				t.Error("no WWW-Authenticate")
			}
		}
	}
	req := httptest.NewRequest("GET", "/v1/files", nil)
	req.Header["Authorization"] = []string{"Bearer read", "Bearer admin"}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, req)
	failureOf(t, w, 401)
	if w := s.do(t, "", "GET", "/v1/files", nil, "Authorization", "bearer read"); w.Code != 200 {
		t.Errorf("the scheme's letter case matters: %d", w.Code)
	}
}

func TestScopes(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	for _, r := range requestsOfAllRoutes {
		for _, scope := range agentsandbox.Scopes {
			want := agentsandbox.Principal{Scopes: []agentsandbox.Scope{scope}}.Has(r.scope)
			w := r.send(t, s, string(scope))
			if got := w.Code != 403; got != want {
				t.Errorf("%s %s with the scope %s: status %d", r.method, r.target, scope, w.Code)
			}
			if !want {
				failureOf(t, w, 403)
			}
		}
	}
}

func TestUnknownRoutesAndMethods(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	for _, target := range []string{"/", "/v1", "/v1/nothing", "/v1/sessions/", "/v1//sessions", "/v1/./sessions", "/v1/files/..", "/v1/files/%2e%2e/../x", "/docs/", "/docs/swagger-ui.js", "/openapi"} {
		if got := failureOf(t, s.do(t, "", "GET", target, nil), 404); got.Code != agentsandbox.CodeRouteNotFound {
			t.Errorf("%s: %+v", target, got)
		}
	}
	for _, c := range []struct{ method, target, allow string }{
		{"PUT", "/v1/execute", "POST"},
		{"GET", "/v1/execute", "POST"},
		{"PATCH", "/v1/files/fil_x", "DELETE, GET, HEAD"},
		{"OPTIONS", "/v1/sessions", "GET, HEAD, POST"},
		{"DELETE", "/healthz", "GET, HEAD"},
		{"BR\u202eEW", "/healthz", "GET, HEAD"},
	} {
		req := httptest.NewRequest("GET", c.target, nil)
		req.Method = c.method
		w := httptest.NewRecorder()
		s.ServeHTTP(w, req)
		if got := failureOf(t, w, 405); got.Code != agentsandbox.CodeMethodNotAllowed {
			t.Errorf("%s %s: %+v", c.method, c.target, got)
		}
		if got := w.Header().Get("Allow"); got != c.allow {
			t.Errorf("%s %s: Allow %q, want %q", c.method, c.target, got, c.allow)
		}
	}
}

func TestPanicIsA500(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	s.fake.onExecute = func(context.Context, agentsandbox.ExecuteRequest) (*agentsandbox.Execution, error) { panic("boom") }
	if got := failureOf(t, s.do(t, "sandbox", "POST", "/v1/execute", `{"code":"1"}`), 500); strings.Contains(got.Message, "boom") {
		t.Errorf("%+v", got)
	}
	log := s.logged.String()
	for _, want := range []string{"boom", `"stack"`, "request_id"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %s", want)
		}
	}
}

func TestRequestIDs(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	for given, kept := range map[string]bool{
		"": false, "abc-1.2_Z": true, strings.Repeat("x", 128): true, strings.Repeat("x", 129): false,
		"a b": false, "a\tb": false, `"`: false, "é": false,
	} {
		got := s.do(t, "", "GET", "/healthz", nil, "X-Request-Id", given).Header().Get("X-Request-Id")
		if (got == given) != kept || got == "" {
			t.Errorf("%q became %q", given, got)
		}
	}
}

func TestLogHoldsNoSecrets(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	s.do(t, "sandbox", "POST", "/v1/execute", `{"code":"print('BODY')","env_vars":{"A":"VALUE"}}`, "X-Request-Id", "the-id")
	s.do(t, "", "POST", "/v1/execute", `{"code":"x"}`, "Authorization", "Bearer WRONGKEY")
	log := s.logged.String()
	for _, secret := range []string{"BODY", "VALUE", "WRONGKEY", "Bearer"} {
		if strings.Contains(log, secret) {
			t.Errorf("the log holds %s: %s", secret, log)
		}
	}
	for _, want := range []string{`"request_id":"the-id"`, `"key_id":"key_sandbox"`, `"route":"/v1/execute"`, `"method":"POST"`, `"status":200`, `"status":401`, `"bytes":`} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %s: %s", want, log)
		}
	}
}

func TestMetrics(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	s.do(t, "read", "GET", "/v1/files/fil_1", nil)
	s.do(t, "read", "GET", "/v1/files/fil_2", nil)
	s.do(t, "", "GET", "/wp-admin", nil)
	s.do(t, "", "MADEUP", "/wp-admin", nil)
	got := s.do(t, "", "GET", "/metrics", nil).Body.String()
	for _, want := range []string{
		`agentsandbox_http_requests_total{method="GET",route="/v1/files/{file_id}",status="404"} 2`,
		`agentsandbox_http_requests_total{method="GET",route="unmatched",status="404"} 1`,
		`agentsandbox_http_requests_total{method="other",route="unmatched",status="404"} 1`,
		`agentsandbox_http_request_duration_seconds_count{method="GET",route="/v1/files/{file_id}"} 2`,
		`agentsandbox_http_requests_in_flight 1`, // this one
	} {
		if !strings.Contains(got, want) {
			t.Errorf("lacks %s:\n%s", want, got)
		}
	}
}

func TestReadiness(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	if w := s.do(t, "", "GET", "/readyz", nil); w.Code != 200 {
		t.Errorf("ready: %d", w.Code)
	}
	s.ready = func() error {
		return agentsandbox.Errorf(agentsandbox.CodeUnavailable, "The default template is being built.")
	}
	w := s.do(t, "", "GET", "/readyz", nil)
	if got := failureOf(t, w, 503); got.Message != "The default template is being built." || w.Header().Get("Retry-After") == "" {
		t.Errorf("%+v", got)
	}
	s.ready = func() error { return io.ErrNoProgress }
	if got := failureOf(t, s.do(t, "", "GET", "/readyz", nil), 503); strings.Contains(got.Message, "progress") {
		t.Errorf("shows the cause: %+v", got)
	}
	if w := s.do(t, "", "GET", "/healthz", nil); w.Code != 200 || !strings.Contains(w.Body.String(), `"version":"test"`) {
		t.Errorf("healthz: %d %s", w.Code, w.Body)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	good := Options{Service: newFake(), Ready: func() error { return nil }}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Options){
		"Service":   func(o *Options) { o.Service = nil },
		"Ready":     func(o *Options) { o.Ready = nil },
		"CodeBytes": func(o *Options) { o.CodeBytes = -1 },
	} {
		o := good
		spoil(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}
