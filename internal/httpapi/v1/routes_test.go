package v1

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
)

func TestExecute(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	w := s.do(t, "sandbox", "POST", "/v1/execute",
		`{"code":"print(1)","session_id":null,"env_vars":{"A":"é"},"file_ids":null,"timeout_ms":1500,"memory_mb":64,"cpus":0.5}`,
		"X-Request-Id", "r1", "User-Agent", "test\xff/1")
	got := decodeAnswer[executeAnswer](t, w, 200)
	if string(got.Stdout) != "print(1)\n" || got.ReturnCode != 0 || got.Status != agentsandbox.StatusSucceeded || got.Signal != nil || got.Files == nil {
		t.Errorf("%+v", got)
	}
	if id := w.Header().Get("X-Execution-Id"); id == "" || id != got.ExecutionID {
		t.Errorf("X-Execution-Id %q, execution_id %q", id, got.ExecutionID)
	}
	req := s.fake.requests[0]
	if req.Language != agentsandbox.Python || req.Env["A"] != "é" || req.TimeoutMS != 1500 || req.MemoryMB != 64 || req.CPUs != 0.5 {
		t.Errorf("%+v", req)
	}
	if req.Endpoint != "/v1/execute" || req.Method != "POST" || req.Meta["request_id"] != "r1" || req.Meta["user_agent"] != "test\uFFFD/1" {
		t.Errorf("%+v", req)
	}
	if s.fake.principal.KeyID != "key_sandbox" || s.fake.principal.Tenant != "acme" {
		t.Errorf("acted for %+v", s.fake.principal)
	}

	record := decodeAnswer[executionRecord](t, s.do(t, "read", "GET", "/v1/executions/"+got.ExecutionID, nil), 200)
	if record.ID != got.ExecutionID || string(record.Code) != "print(1)" || *record.StatusCode != 200 || *record.ReturnCode != 0 ||
		record.RequestMeta["request_id"] != "r1" || !record.CreatedAt.Equal(fakeTime) || record.Error != nil {
		t.Errorf("%+v", record)
	}
}

func TestExecuteShowsHowRunsEnd(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	s.fake.executions = []agentsandbox.Execution{
		{
			ID: "exe_1", SessionID: "ses_1", Status: agentsandbox.StatusMemoryExceeded, ReturnCode: 137, Signal: "SIGKILL",
			Stdout: []byte("ok \xff\xfe end\xe2\x82"), Stderr: []byte{0, 0xff}, StdoutBytes: 1 << 40, Truncated: true, FilesOmitted: 3,
			Files:     []agentsandbox.File{{ID: "fil_1", Filename: "a/b\xff.png", Path: "/workspace/a/b\xff.png", MediaType: "image/png", SizeBytes: 5}},
			CreatedAt: fakeTime, EndedAt: fakeTime, HTTPStatus: 200, Error: "",
		},
		{ID: "exe_2", SessionID: "ses_2", Status: agentsandbox.StatusRunning, CreatedAt: fakeTime},
		{ID: "exe_3", SessionID: "ses_1", Status: agentsandbox.StatusSandboxLost, ReturnCode: 1, Error: "The sandbox died.", CreatedAt: fakeTime, EndedAt: fakeTime},
	}
	got := decodeAnswer[executionRecord](t, s.do(t, "read", "GET", "/v1/executions/exe_1", nil), 200)
	if string(got.Stdout) != "ok \uFFFD\uFFFD end\uFFFD" || string(got.Stderr) != "\x00\uFFFD" || *got.Signal != "SIGKILL" || !got.Truncated || got.StdoutBytes != 1<<40 {
		t.Errorf("%+v", got)
	}
	if got.FilesCount != 1 || got.FilesOmitted != 3 || got.Files[0].Filename != "a/b%FF.png" || got.Files[0].Path != "/workspace/a/b%FF.png" || got.Files[0].FilenameBase64 != "YS9i/y5wbmc=" {
		t.Errorf("%+v", got.Files)
	}
	raw := decodeAnswer[map[string]any](t, s.do(t, "read", "GET", "/v1/executions/exe_2", nil), 200)
	for _, field := range []string{"status_code", "return_code", "ended_at", "error", "signal"} {
		if v, ok := raw[field]; !ok || v != nil {
			t.Errorf("of a running execution %s is %v", field, v)
		}
	}
	if meta, ok := raw["request_meta"].(map[string]any); !ok || meta == nil {
		t.Error("request_meta is not an object")
	}
	if lost := decodeAnswer[executionRecord](t, s.do(t, "read", "GET", "/v1/executions/exe_3", nil), 200); *lost.Error != "The sandbox died." {
		t.Errorf("%+v", lost)
	}

	for name, want := range map[string]string{"stdout": "ok \xff\xfe end\xe2\x82", "stderr": "\x00\xff"} {
		w := s.do(t, "read", "GET", "/v1/executions/exe_1/"+name, nil)
		if w.Body.String() != want || w.Header().Get("Content-Type") != "application/octet-stream" || !strings.HasPrefix(w.Header().Get("Content-Disposition"), "attachment") {
			t.Errorf("%s: %q, %v", name, w.Body, w.Header())
		}
	}
	failureOf(t, s.do(t, "read", "GET", "/v1/executions/exe_9/stdout", nil), 404)

	list := func(query string) (ids []string) {
		page := decodeAnswer[executionList](t, s.do(t, "read", "GET", "/v1/executions"+query, nil), 200)
		for _, e := range page.Executions {
			ids = append(ids, e.ID)
		}
		return append(ids, fmt.Sprint(page.Total, page.Limit, page.Offset))
	}
	for query, want := range map[string][]string{
		"":                  {"exe_3", "exe_2", "exe_1", "3 50 0"},
		"?limit=1&offset=1": {"exe_2", "3 1 1"},
		"?session_id=ses_1": {"exe_3", "exe_1", "2 50 0"},
		"?status=running":   {"exe_2", "1 50 0"},
		"?status=failed":    {"0 50 0"},
	} {
		if got := list(query); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", query, got, want)
		}
	}
	if raw := s.do(t, "read", "GET", "/v1/executions", nil).Body.String(); strings.Contains(raw, `"stdout":`) || strings.Contains(raw, `"code":`) {
		t.Error("the list has code and output")
	}
}

// TestInvalidRequests: each is refused and names the field that is at fault.
func TestInvalidRequests(t *testing.T) {
	s := newTestServer(t, edge.Limits{BodyBytes: 4096}, codeBytes(100))
	deep := strings.Repeat("[", 2000)
	for _, c := range []struct {
		method, target, body, field string
		status                      int
	}{
		{"POST", "/v1/execute", ``, "body", 422},
		{"POST", "/v1/execute", `{}`, "code", 422},
		{"POST", "/v1/execute", `{"code":""}`, "code", 422},
		{"POST", "/v1/execute", `{"code":" \n"}`, "code", 422},
		{"POST", "/v1/execute", `{"code":5}`, "code", 422},
		{"POST", "/v1/execute", `{"code":null}`, "code", 422},
		{"POST", "/v1/execute", `{"code":"a\u0000b"}`, "code", 422},
		{"POST", "/v1/execute", `{"code":"` + strings.Repeat("x", 101) + `"}`, "code", 413},
		{"POST", "/v1/execute", `{"code":"` + strings.Repeat("x", 5000) + `"}`, "body", 413},
		{"POST", "/v1/execute", `{"code":"1","language":"cobol"}`, "language", 422},
		{"POST", "/v1/execute", `{"code":"1","language":["python"]}`, "language", 422},
		{"POST", "/v1/execute", `{"code":"1","session_id":7}`, "session_id", 422},
		{"POST", "/v1/execute", `{"code":"1","env_vars":{"A":1}}`, "env_vars.A", 422},
		{"POST", "/v1/execute", `{"code":"1","env_vars":{"A":null}}`, "env_vars.A", 422},
		{"POST", "/v1/execute", `{"code":"1","env_vars":{"B":"","A":{"x":1}}}`, "env_vars.A", 422},
		{"POST", "/v1/execute", `{"code":"1","env_vars":["A"]}`, "env_vars", 422},
		{"POST", "/v1/execute", `{"code":"1","env_vars":{"A=B":"x"}}`, "env_vars", 422},
		{"POST", "/v1/execute", `{"code":"1","env_vars":{"":"x"}}`, "env_vars", 422},
		{"POST", "/v1/execute", `{"code":"1","env_vars":{"A":"x\u0000y"}}`, "env_vars.A", 422},
		{"POST", "/v1/execute", `{"code":"1","file_ids":"fil_x"}`, "file_ids", 422},
		{"POST", "/v1/execute", `{"code":"1","file_ids":["a","b",3]}`, "file_ids[2]", 422},
		{"POST", "/v1/execute", `{"code":"1","file_ids":["a",""]}`, "file_ids[1]", 422},
		{"POST", "/v1/execute", `{"code":"1","timeout_ms":-1}`, "timeout_ms", 422},
		{"POST", "/v1/execute", `{"code":"1","timeout_ms":1.5}`, "timeout_ms", 422},
		{"POST", "/v1/execute", `{"code":"1","timeout_ms":99999999999999999999}`, "timeout_ms", 422},
		{"POST", "/v1/execute", `{"code":"1","cpus":"2"}`, "cpus", 422},
		{"POST", "/v1/execute", `{nope`, "body", 422},
		{"POST", "/v1/execute", `{"code":"1"}{}`, "body", 422},
		{"POST", "/v1/execute", `[]`, "body", 422},
		{"POST", "/v1/execute", `null`, "body", 422},
		{"POST", "/v1/execute", `"code"`, "body", 422},
		{"POST", "/v1/execute", deep, "body", 422},
		{"POST", "/v1/execute", `{"code":"1","x":` + deep, "x", 422},
		{"POST", "/v1/execute", "{\"code\":\"\xff\"}", "body", 422},
		{"POST", "/v1/execute", `{"code":"\ud800"}`, "body", 422},
		{"POST", "/v1/execute", `{"code":"\udc00\ud800"}`, "body", 422},
		{"POST", "/v1/sessions", `{"metadata":{"a":1}}`, "metadata.a", 422},
		{"POST", "/v1/sessions", `{"memory_mb":-1}`, "memory_mb", 422},
		{"POST", "/v1/sessions", `{"env_vars":{"A=":""}}`, "env_vars", 422},
		{"POST", "/v1/sessions/ses_x/files", `{}`, "file_ids", 422},
		{"POST", "/v1/sessions/ses_x/files", `{"file_ids":[]}`, "file_ids", 422},
		{"POST", "/v1/sessions/ses_x/files", `{"file_ids":[""]}`, "file_ids[0]", 422},
		{"POST", "/v1/api-keys", `{}`, "name", 422},
		{"POST", "/v1/api-keys", `{"name":"x","scopes":["root"]}`, "scopes[0]", 422},
		{"POST", "/v1/api-keys", `{"name":"x","expires_at":"soon"}`, "expires_at", 422},
		{"POST", "/v1/api-keys", `{"name":"x","expires_at":"2001-01-01T00:00:00Z"}`, "expires_at", 422},
		{"GET", "/v1/files?limit=0", ``, "limit", 422},
		{"GET", "/v1/files?limit=101", ``, "limit", 422},
		{"GET", "/v1/files?limit=", ``, "limit", 422},
		{"GET", "/v1/files?limit=ten", ``, "limit", 422},
		{"GET", "/v1/files?limit=1&limit=2", ``, "limit", 422},
		{"GET", "/v1/files?offset=-1", ``, "offset", 422},
		{"GET", "/v1/files?limit=%zz", ``, "query", 422},
		{"GET", "/v1/sessions?limit=101", ``, "limit", 422},
		{"GET", "/v1/sessions?offset=-1", ``, "offset", 422},
		{"GET", "/v1/executions?status=done", ``, "status", 422},
		{"GET", "/v1/api-keys?limit=0", ``, "limit", 422},
		{"GET", "/v1/sessions/ses_x/fs", ``, "path", 422},
		{"GET", "/v1/sessions/ses_x/fs?path=relative", ``, "path", 422},
		{"PUT", "/v1/sessions/ses_x/fs?path=/a%00b", `x`, "path", 422},
		{"DELETE", "/v1/sessions/ses_x/fs?path=", ``, "path", 422},
		{"GET", "/v1/sessions/ses_x/fs/stat", ``, "path", 422},
		{"GET", "/v1/sessions/ses_x/fs/list?path=/&limit=1001", ``, "limit", 422},
	} {
		var body any
		if c.body != "" {
			body = c.body
		}
		got := failureOf(t, s.do(t, "admin", c.method, c.target, body), c.status)
		if len(got.Details) != 1 || got.Details[0].Field != c.field {
			t.Errorf("%s %s %.60q: %+v, want the field %s", c.method, c.target, c.body, got, c.field)
		}
	}
	if n := len(s.fake.requests); n != 0 {
		t.Errorf("%d invalid requests came through", n)
	}
	w := s.do(t, "admin", "POST", "/v1/execute", `{"code":"`+strings.Repeat("x", 5000)+`"}`)
	if got := failureOf(t, w, 413); !strings.Contains(got.Message, "4096") || w.Header().Get("Connection") != "close" {
		t.Errorf("the limit is not named: %+v", got)
	}
	failureOf(t, s.do(t, "admin", "POST", "/v1/execute", `{"code":"1"}`, "Content-Encoding", "gzip"), 422)
}

func TestBodiesThatAreFine(t *testing.T) {
	s := newTestServer(t, edge.Limits{BodyBytes: 64})
	exact := `{"code":"` + strings.Repeat("x", 64-len(`{"code":""}`)) + `"}`
	for _, body := range []string{exact, ` {"code":"\ud83d\ude00"} `, `{"code":"\\ud800"}`, `{"code":"\u00e9\n"}`} {
		if w := s.do(t, "sandbox", "POST", "/v1/execute", body); w.Code != 200 {
			t.Errorf("%s: %d %s", body, w.Code, w.Body)
		}
	}
	if got := s.fake.requests[1].Code; got != "😀" {
		t.Errorf("%q", got)
	}
	if got := s.fake.requests[2].Code; got != `\ud800` {
		t.Errorf("%q", got)
	}
	for _, body := range []any{nil, `{}`, `{"env_vars":null,"file_ids":null,"metadata":null}`} {
		if w := s.do(t, "sandbox", "POST", "/v1/sessions", body); w.Code != 201 {
			t.Errorf("%v: %d %s", body, w.Code, w.Body)
		}
	}
}

func TestSessions(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	w := s.do(t, "sandbox", "POST", "/v1/sessions", `{"env_vars":{"TOKEN":"s3cret","A":"1"},"metadata":{"job":"7"},"timeout_ms":200000}`)
	made := decodeAnswer[sessionInfo](t, w, 201)
	if !made.Created || made.Status != agentsandbox.SessionLive || !slices.Equal(made.EnvVarNames, []string{"A", "TOKEN"}) || made.Metadata["job"] != "7" || made.TimeoutMS != 200_000 {
		t.Errorf("%+v", made)
	}
	w = s.do(t, "read", "GET", "/v1/sessions/"+made.SessionID, nil)
	if got := decodeAnswer[sessionInfo](t, w, 200); got.Created || got.SessionID != made.SessionID {
		t.Errorf("%+v", got)
	}
	for _, target := range []string{"/v1/sessions", "/v1/sessions/" + made.SessionID} {
		if body := s.do(t, "read", "GET", target, nil).Body.String(); strings.Contains(body, "s3cret") {
			t.Errorf("%s shows the value of a variable", target)
		}
	}
	s.fake.contents["fil_1"] = nil
	if w := s.do(t, "sandbox", "POST", "/v1/sessions/"+made.SessionID+"/files", `{"file_ids":["fil_1"]}`); w.Code != 204 || w.Body.Len() != 0 {
		t.Errorf("inject: %d %s", w.Code, w.Body)
	}
	if got := failureOf(t, s.do(t, "sandbox", "POST", "/v1/sessions/"+made.SessionID+"/files", `{"file_ids":["fil_2"]}`), 404); got.Code != agentsandbox.CodeFileNotFound {
		t.Errorf("%+v", got)
	}
	if w := s.do(t, "sandbox", "DELETE", "/v1/sessions/"+made.SessionID, nil); w.Code != 204 {
		t.Errorf("delete: %d", w.Code)
	}
	if got := failureOf(t, s.do(t, "sandbox", "DELETE", "/v1/sessions/"+made.SessionID, nil), 404); got.Code != agentsandbox.CodeSessionNotFound {
		t.Errorf("%+v", got)
	}
}

func (f *fake) addSessions(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for range n {
		f.sessions = append(f.sessions, agentsandbox.Session{ID: f.id(agentsandbox.SessionPrefix), Status: agentsandbox.SessionLive, CreatedAt: fakeTime})
	}
}

func TestAllSessionsAreListed(t *testing.T) {
	for _, n := range []int{0, 1, 100, 101, 250} {
		s := newTestServer(t, edge.Limits{})
		s.fake.addSessions(n)
		got := decodeAnswer[sessionList](t, s.do(t, "read", "GET", "/v1/sessions", nil), 200)
		if len(got.Sessions) != n || len(got.Items) != n || got.Total != n || got.Sessions == nil {
			t.Errorf("of %d sessions %d are listed, with %d items, total %d", n, len(got.Sessions), len(got.Items), got.Total)
		}
	}
	s := newTestServer(t, edge.Limits{})
	s.fake.addSessions(250)
	page := decodeAnswer[sessionList](t, s.do(t, "read", "GET", "/v1/sessions?limit=10&offset=245", nil), 200)
	if len(page.Sessions) != 5 || page.Total != 250 || page.Limit != 10 || page.Offset != 245 {
		t.Errorf("%d sessions of %d", len(page.Sessions), page.Total)
	}
	if page := decodeAnswer[sessionList](t, s.do(t, "read", "GET", "/v1/sessions?offset=10", nil), 200); len(page.Sessions) != 50 {
		t.Errorf("%d sessions without a limit", len(page.Sessions))
	}
}

// TestSessionsThatComeAndGoDoNotHideOthers deletes the newest session after the
// first page, which moves one session from the second page to the first.
func TestSessionsThatComeAndGoDoNotHideOthers(t *testing.T) {
	for name, change := range map[string]func(f *fake){
		"gone": func(f *fake) { f.sessions = f.sessions[:len(f.sessions)-1] },
		"new":  func(f *fake) { f.addSessions(1) },
	} {
		s := newTestServer(t, edge.Limits{})
		s.fake.addSessions(150)
		lived := slices.Clone(s.fake.sessions[:149]) // all the while
		changed := false
		s.fake.onPage = func(p agentsandbox.Page) {
			if p.Cursor != "" && !changed {
				changed = true
				change(s.fake)
			}
		}
		got := decodeAnswer[sessionList](t, s.do(t, "read", "GET", "/v1/sessions", nil), 200)
		seen := map[string]int{}
		for _, id := range got.Sessions {
			seen[id]++
		}
		if !changed {
			t.Errorf("%s: the list was read at once", name)
		}
		for _, live := range lived {
			if seen[live.ID] != 1 {
				t.Errorf("%s: %s is listed %d times", name, live.ID, seen[live.ID])
			}
		}
	}
	s := newTestServer(t, edge.Limits{})
	s.fake.addSessions(150)
	s.fake.onPage = func(agentsandbox.Page) { s.fake.addSessions(1) } // for ever
	if got := decodeAnswer[sessionList](t, s.do(t, "read", "GET", "/v1/sessions", nil), 200); len(got.Sessions) < 150 {
		t.Errorf("%d sessions", len(got.Sessions))
	}
}

func TestKeys(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	made := decodeAnswer[newKey](t, s.do(t, "keys", "POST", "/v1/api-keys", `{"name":"ci","scopes":["read"],"expires_at":"2099-01-01T00:00:00+02:00"}`), 201)
	if !strings.HasPrefix(made.KeyValue, agentsandbox.SecretPrefix) || made.Name != "ci" || made.ExpiresAt.Format("2006-01-02T15:04:05Z07:00") != "2098-12-31T22:00:00Z" {
		t.Errorf("%+v", made)
	}
	if got := decodeAnswer[newKey](t, s.do(t, "keys", "POST", "/v1/api-keys", `{"name":"x"}`), 201); !slices.Equal(got.Scopes, []agentsandbox.Scope{agentsandbox.ScopeSandbox}) {
		t.Errorf("%+v", got.Scopes)
	}
	w := s.do(t, "keys", "GET", "/v1/api-keys?limit=1", nil)
	if got := decodeAnswer[keyList](t, w, 200); len(got.Keys) != 1 || got.Total != 2 || got.Keys[0].RevokedAt != nil || strings.Contains(w.Body.String(), "key_value") {
		t.Errorf("%s", w.Body)
	}
	if w := s.do(t, "keys", "DELETE", "/v1/api-keys/"+made.ID, nil); w.Code != 204 {
		t.Errorf("%d", w.Code)
	}
	failureOf(t, s.do(t, "keys", "DELETE", "/v1/api-keys/key_none", nil), 404)
}

func TestWorkspaceFiles(t *testing.T) {
	s := newTestServer(t, edge.Limits{UploadBytes: 100})
	s.fake.addSessions(1)
	base := "/v1/sessions/" + aSession + "/fs"
	put := decodeAnswer[pathInfo](t, s.do(t, "sandbox", "PUT", base+"?path=/workspace/./d%20x/a%ff.txt", "hello", "Content-Type", "text/plain"), 200)
	if put.Path != "/workspace/d x/a\uFFFD.txt" || put.PathBase64 != "L3dvcmtzcGFjZS9kIHgvYf8udHh0" || put.Mode != "0644" || put.SizeBytes != 5 || put.Target != nil {
		t.Errorf("%+v", put)
	}
	w := s.do(t, "read", "GET", base+"?path=/workspace/d%20x/a%ff.txt", nil)
	if w.Code != 200 || w.Body.String() != "hello" || w.Header().Get("Content-Length") != "5" || w.Header().Get("Content-Type") != "application/octet-stream" {
		t.Errorf("%d %q %v", w.Code, w.Body, w.Header())
	}
	if w := s.do(t, "read", "HEAD", base+"?path=/workspace/d%20x/a%ff.txt", nil); w.Code != 200 || w.Body.Len() != 0 || w.Header().Get("Content-Length") != "5" {
		t.Errorf("HEAD: %d %v", w.Code, w.Header())
	}
	if got := decodeAnswer[pathInfo](t, s.do(t, "read", "GET", base+"/stat?path=/workspace/d%20x/a%ff.txt", nil), 200); got.Kind != agentsandbox.PathFile {
		t.Errorf("%+v", got)
	}
	failureOf(t, s.do(t, "read", "GET", base+"/stat?path=/none", nil), 404)
	if got := failureOf(t, s.do(t, "sandbox", "PUT", base+"?path=/big", strings.Repeat("x", 101)), 413); !strings.Contains(got.Message, "100") {
		t.Errorf("%+v", got)
	}
	if w := s.do(t, "sandbox", "PUT", base+"?path=/empty", nil); w.Code != 200 {
		t.Errorf("empty: %d", w.Code)
	}

	page := decodeAnswer[pathList](t, s.do(t, "read", "GET", base+"/list?path=/workspace&limit=2", nil), 200)
	if len(page.Entries) != 2 || *page.Entries[0].Target != "/etc/shadow" || page.Next != "b\uFFFD.txt" || page.NextBase64 != "Yv8udHh0" {
		t.Errorf("%+v", page)
	}
	page = decodeAnswer[pathList](t, s.do(t, "read", "GET", base+"/list?path=/workspace&after=b%ff.txt", nil), 200)
	if len(page.Entries) != 1 || page.Next != "" {
		t.Errorf("%+v", page)
	}
	if w := s.do(t, "sandbox", "DELETE", base+"?path=/empty", nil); w.Code != 204 {
		t.Errorf("delete: %d", w.Code)
	}
	if got := failureOf(t, s.do(t, "sandbox", "DELETE", base+"?path=/empty", nil), 404); got.Code != agentsandbox.CodePathNotFound {
		t.Errorf("%+v", got)
	}
}

// TestAnswersAreEncodedWhole: an answer that cannot be encoded is a 500, not
// half an answer.
func TestAnswersAreEncodedWhole(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	s.fake.addSessions(1)
	s.fake.sessions[0].CPUs = nan()
	failureOf(t, s.do(t, "read", "GET", "/v1/sessions", nil), http.StatusInternalServerError)
	s.fake.sessions[0].CPUs = 1
	if w := s.do(t, "read", "GET", "/v1/sessions", nil); !json.Valid(w.Body.Bytes()) {
		t.Error("what the failed answer left behind is in the next one")
	}
}

func nan() float64 {
	zero := 0.0
	return zero / zero
}
