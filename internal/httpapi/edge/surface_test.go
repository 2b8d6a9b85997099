package edge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/client/clienttest"
)

// things is what the routes of the test surfaces do: they make things.
type things struct {
	mu      sync.Mutex
	made    []string
	entered chan struct{} // a request to /slow is being served
	goOn    chan struct{} // it may end
}

type thing struct {
	Name string `json:"name"`
}

func (t thing) ObjectID() string         { return "thing_" + t.Name }
func (t thing) SetHeaders(h http.Header) { h.Set("X-Thing", t.Name) }

type thingInput struct {
	ID string `path:"thing_id"`
}

type emptyInput struct{}

// routes are the same for every test surface, below a prefix: none of them says
// anything of keys, limits, repeated requests, rows or metrics.
func (t *things) routes(prefix string) []Route {
	type makeInput struct{ Body thing }
	return []Route{
		Answer(Route{
			Method: "POST", Path: prefix + "/things", ID: "makeThing", Scope: agentsandbox.ScopeSandbox, Status: http.StatusCreated,
			Headers: map[string]string{"X-Thing": "The name."},
		}, func(_ *Call, in *makeInput) (*thing, error) {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.made = append(t.made, in.Body.Name)
			return &in.Body, nil
		}),
		Answer(Route{Method: "DELETE", Path: prefix + "/things/{thing_id}", ID: "deleteThing", Scope: agentsandbox.ScopeSandbox},
			func(_ *Call, in *thingInput) (*Nothing, error) {
				return nil, agentsandbox.Errorf(agentsandbox.CodeFileNotFound, "There is no thing %s.", in.ID)
			}),
		Answer(Route{Method: "GET", Path: prefix + "/slow", ID: "slow", Scope: agentsandbox.ScopeRead},
			func(*Call, *emptyInput) (*thing, error) {
				t.entered <- struct{}{}
				<-t.goOn
				return &thing{"slow"}, nil
			}),
		Answer(Route{Method: "GET", Path: prefix + "/things", ID: "listThings", Scope: agentsandbox.ScopeRead},
			func(*Call, *emptyInput) (*thing, error) { return &thing{"all"}, nil }),
		Answer(Route{Method: "GET", Path: prefix + "/broken", ID: "broken", Scope: agentsandbox.ScopeRead},
			func(*Call, *emptyInput) (*thing, error) { return nil, errors.New("the secret cause") }),
		Answer(Route{Method: "GET", Path: prefix + "/panic", ID: "panic", Scope: agentsandbox.ScopeRead},
			func(*Call, *emptyInput) (*thing, error) { panic("of the test") }),
	}
}

// first shows failures as text, and takes its key from a bearer token.
var first = Manner{
	Key: func(r *http.Request) (string, error) {
		value, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok {
			return "", agentsandbox.Errorf(agentsandbox.CodeUnauthorized, "A bearer token is needed.")
		}
		return value, nil
	},
	Fail: func(c *Call, status int, e *agentsandbox.Error) error {
		return c.WriteBody(status, "text/plain", []byte(e.Message))
	},
}

// otherFailure is the shape of the second surface's errors.
type otherFailure struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

// second has another header for the key, another shape of errors, and another
// status for a request that is invalid.
var second = Manner{
	Key: func(r *http.Request) (string, error) {
		if value := r.Header.Get("X-Other-Key"); value != "" {
			return value, nil
		}
		return "", agentsandbox.Errorf(agentsandbox.CodeUnauthorized, "X-Other-Key is needed.")
	},
	Fail: func(c *Call, status int, e *agentsandbox.Error) error {
		if e.Code == agentsandbox.CodeInvalidRequest {
			status = http.StatusBadRequest
		}
		return c.WriteJSON(status, otherFailure{status, e.Message})
	},
}

// testEdge is an edge with both surfaces; what begins with /other is the second's.
type testEdge struct {
	*Edge
	*things
	registry *prometheus.Registry
	logged   *bytes.Buffer
	mu       sync.Mutex
	rows     []agentsandbox.AuditEntry
}

func newTestEdge(t testing.TB, limits Limits, rates Rates) *testEdge {
	t.Helper()
	e := &testEdge{
		things:   &things{entered: make(chan struct{}), goOn: make(chan struct{})},
		registry: prometheus.NewRegistry(), logged: &bytes.Buffer{},
	}
	o := Options{
		Authenticate: func(_ context.Context, value string) (agentsandbox.Principal, error) {
			scope := agentsandbox.Scope(value)
			if !slices.Contains(agentsandbox.Scopes, scope) {
				return agentsandbox.Principal{}, agentsandbox.Errorf(agentsandbox.CodeUnauthorized, "This key is not known.")
			}
			return agentsandbox.Principal{KeyID: "key_" + value, Tenant: "acme", Scopes: []agentsandbox.Scope{scope}}, nil
		},
		Idempotency: new(clienttest.Keys),
		Audit: func(_ context.Context, row agentsandbox.AuditEntry) error {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.rows = append(e.rows, row)
			return nil
		},
		Registry: e.registry, Limits: limits, Rates: rates,
		Logger: slog.New(slog.NewJSONHandler(e.logged, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	var err error
	e.Edge, err = New(o,
		Surface{
			Manner: second, Routes: e.routes("/other"),
			Takes: func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/other") },
		},
		Surface{Manner: first, Routes: append(e.routes(""), Metrics("/metrics"))},
	)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// do sends a request to the second surface, or to the first if the path is not
// below /other, with the key of a scope; "" for none.
func (e *testEdge) do(scope, method, path, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if scope != "" && strings.HasPrefix(path, "/other") {
		r.Header.Set("X-Other-Key", scope)
	} else if scope != "" {
		r.Header.Set("Authorization", "Bearer "+scope)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	e.ServeHTTP(w, r)
	return w
}

// otherFailureOf checks that an answer has the second surface's shape.
func otherFailureOf(t *testing.T, w *httptest.ResponseRecorder, status int) string {
	t.Helper()
	var f otherFailure
	d := json.NewDecoder(w.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil || w.Code != status || f.Code != status || f.Message == "" {
		t.Fatalf("%d %+v, %v; want %d", w.Code, f, err, status)
	}
	if w.Header().Get("X-Request-Id") == "" || w.Header().Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("headers %v", w.Header())
	}
	return f.Message
}

func TestASurfaceHasItsOwnKeyAndItsOwnErrors(t *testing.T) {
	e := newTestEdge(t, Limits{BodyBytes: 1000}, Rates{})
	otherFailureOf(t, e.do("", "GET", "/other/things", "", "Authorization", "Bearer read"), 401) // the other surface's key
	long := e.do("", "GET", "/other/things", "", "X-Other-Key", strings.Repeat("x", MaxKeyBytes+1))
	if got := otherFailureOf(t, long, 401); !strings.Contains(got, "longer") {
		t.Errorf("%q: the key was asked for", got)
	}
	otherFailureOf(t, e.do("wrong", "GET", "/other/things", ""), 401)
	otherFailureOf(t, e.do("read", "POST", "/other/things", `{"name":"a"}`), 403)
	otherFailureOf(t, e.do("sandbox", "POST", "/other/things", `{"nam":"a"}`), 400) // its own status
	if w := e.do("sandbox", "POST", "/other/things", `{"name":"`+strings.Repeat("x", 1000)+`"}`); w.Header().Get("Connection") != "close" {
		t.Error("the rest of a body that is too large would be read")
	} else {
		otherFailureOf(t, w, 413)
	}
	otherFailureOf(t, e.do("read", "GET", "/other/things?limit=1", ""), 400)
	if got := otherFailureOf(t, e.do("read", "GET", "/other/nothing", ""), 404); strings.Contains(got, "lists every route") {
		t.Errorf("%q names a page that this surface lacks", got)
	}
	if w := e.do("read", "PUT", "/other/things", ""); w.Header().Get("Allow") == "" {
		t.Error("no Allow")
	} else {
		otherFailureOf(t, w, 405)
	}
	for _, path := range []string{"/other/broken", "/other/panic"} {
		if got := otherFailureOf(t, e.do("read", "GET", path, ""), 500); got != hiddenMessage {
			t.Errorf("%s tells %q", path, got)
		}
	}
	// The first surface is as it was.
	if w := e.do("wrong", "GET", "/things", ""); w.Code != 401 || w.Body.String() != "This key is not known." {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := e.do("sandbox", "POST", "/things", `{"nam":"a"}`); w.Code != 422 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := e.do("read", "GET", "/other/things", ""); w.Code != 200 || w.Body.String() != `{"name":"all"}`+"\n" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if len(e.made) != 0 {
		t.Errorf("made %v", e.made)
	}
}

// TestRatesAreCountedOverAllSurfaces: a key has one bucket and one number of
// requests under way, wherever it knocks.
func TestRatesAreCountedOverAllSurfaces(t *testing.T) {
	e := newTestEdge(t, Limits{}, Rates{PerSecond: 1, Burst: 3, Requests: 1})
	e.limiter.now = turnable(new(clock))
	for i, path := range []string{"/things", "/other/things", "/things"} {
		wantRate(t, e.do("read", "GET", path, "").Header(), 3, 2-i, i+1)
	}
	w := e.do("read", "GET", "/other/things", "")
	if w.Header().Get("Retry-After") != "1" {
		t.Errorf("Retry-After %q", w.Header().Get("Retry-After"))
	}
	otherFailureOf(t, w, 429)

	done := make(chan int)
	go func() { done <- e.do("admin", "GET", "/slow", "").Code }()
	<-e.entered
	otherFailureOf(t, e.do("admin", "GET", "/other/things", ""), 429)
	close(e.goOn)
	if got := <-done; got != 200 {
		t.Errorf("%d", got)
	}
	if got := e.do("admin", "GET", "/other/things", "").Code; got != 200 {
		t.Errorf("afterwards: %d", got)
	}
}

func TestRepeatedRequestsOfASecondSurface(t *testing.T) {
	e := newTestEdge(t, Limits{}, Rates{})
	one := e.do("sandbox", "POST", "/other/things", `{"name":"a"}`, KeyHeader, "k")
	two := e.do("sandbox", "POST", "/other/things", `{"name":"a"}`, KeyHeader, "k")
	if one.Code != 201 || two.Code != 201 || one.Body.String() != two.Body.String() || len(e.made) != 1 {
		t.Errorf("%d %s, then %d %s; made %v", one.Code, one.Body, two.Code, two.Body, e.made)
	}
	if two.Header().Get(ReplayedHeader) != "true" || two.Header().Get("X-Thing") != "a" {
		t.Errorf("headers of the second answer: %v", two.Header())
	}
	otherFailureOf(t, e.do("sandbox", "POST", "/other/things", `{"name":"b"}`, KeyHeader, "k"), 400)
}

func TestRowsMetricsAndLogOfASecondSurface(t *testing.T) {
	e := newTestEdge(t, Limits{}, Rates{})
	e.do("sandbox", "POST", "/other/things", `{"name":"a"}`)
	e.do("sandbox", "POST", "/other/things", `{"nam":"a"}`)
	e.do("sandbox", "DELETE", "/other/things/b", "")
	e.do("read", "GET", "/other/things", "")
	type row struct{ action, object, outcome, key string }
	var got []row
	for _, r := range e.rows {
		got = append(got, row{r.Action, r.ObjectID, r.Outcome, r.KeyID})
	}
	if want := []row{
		{"makeThing", "thing_a", agentsandbox.AuditOK, "key_sandbox"},
		{"makeThing", "", "invalid_request", "key_sandbox"},
		{"deleteThing", "b", "file_not_found", "key_sandbox"},
	}; !slices.Equal(got, want) {
		t.Errorf("rows %+v", got)
	}
	shown := e.do("", "GET", "/metrics", "").Body.String()
	for _, want := range []string{
		`agentsandbox_http_requests_total{method="POST",route="/other/things",status="201"} 1`,
		`agentsandbox_http_requests_total{method="POST",route="/other/things",status="400"} 1`,
		`agentsandbox_http_requests_total{method="DELETE",route="/other/things/{thing_id}",status="404"} 1`,
	} {
		if !strings.Contains(shown, want) {
			t.Errorf("no %s", want)
		}
	}
	if log := e.logged.String(); strings.Count(log, `"key_id":"key_sandbox"`) != 3 || !strings.Contains(log, `"code":"invalid_request"`) {
		t.Errorf("%s", log)
	}
}

// TestRoomIsSharedByAllSurfaces: a body that one surface reads takes room from
// the other.
func TestRoomIsSharedByAllSurfaces(t *testing.T) {
	e := newTestEdge(t, Limits{MemoryBytes: 1 << 20}, Rates{})
	body, sender := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		r := httptest.NewRequest("POST", "/things", body)
		r.Header.Set("Authorization", "Bearer sandbox")
		e.ServeHTTP(httptest.NewRecorder(), r)
	}()
	if _, err := sender.Write(bytes.Repeat([]byte(" "), 200<<10)); err != nil {
		t.Fatal(err)
	}
	large := `{"name":"` + strings.Repeat("x", 100<<10) + `"}`
	otherFailureOf(t, e.do("sandbox", "POST", "/other/things", large), 503)
	sender.CloseWithError(io.ErrUnexpectedEOF)
	<-done
	if w := e.do("sandbox", "POST", "/other/things", large); w.Code != 201 || e.room.inUse() != 0 {
		t.Errorf("afterwards: %d, %d bytes held", w.Code, e.room.inUse())
	}
}

func TestOptionsAreChecked(t *testing.T) {
	good := Options{
		Authenticate: func(context.Context, string) (agentsandbox.Principal, error) { return agentsandbox.Principal{}, nil },
		Logger:       slog.New(slog.DiscardHandler),
	}
	surface := Surface{Manner: first, Routes: (&things{}).routes("")}
	if _, err := New(good, surface); err != nil {
		t.Fatal(err)
	}
	keyless := surface
	keyless.Key = nil
	mute := surface
	mute.Fail = nil
	for name, c := range map[string]struct {
		spoil    func(*Options)
		surfaces []Surface
	}{
		"Authenticate":     {func(o *Options) { o.Authenticate = nil }, []Surface{surface}},
		"Logger":           {func(o *Options) { o.Logger = nil }, []Surface{surface}},
		"UploadBytes":      {func(o *Options) { o.Limits.UploadBytes = -1 }, []Surface{surface}},
		"StallTimeout":     {func(o *Options) { o.Limits.StallTimeout = -1 }, []Surface{surface}},
		"Rates":            {func(o *Options) { o.Rates.Burst = -1 }, []Surface{surface}},
		"a surface":        {func(*Options) {}, nil},
		"takes everything": {func(*Options) {}, []Surface{surface, surface}},
		"shape of errors":  {func(*Options) {}, []Surface{mute}},
		"needs a key":      {func(*Options) {}, []Surface{keyless}},
	} {
		o := good
		c.spoil(&o)
		if _, err := New(o, c.surfaces...); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}
