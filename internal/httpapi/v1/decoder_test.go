package v1

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/input"
)

// TestUnknownNamesAreRefused: on every route, in the query and at every depth of
// the body, with the whole path of the field and the name that was meant.
func TestUnknownNamesAreRefused(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	for _, c := range []struct{ method, target, body, field, meant string }{
		{"POST", "/v1/execute", `{"code":"1","network":{"mod":"off"}}`, "network.mod", "network.mode"},
		{"POST", "/v1/execute", `{"code":"1","networks":{"mode":"off"}}`, "networks", "network"},
		{"POST", "/v1/execute", `{"code":"1","memory":512}`, "memory", "memory_mb"},
		{"POST", "/v1/execute", `{"code":"1","timeout":5}`, "timeout", "timeout_ms"},
		{"POST", "/v1/execute", `{"code":"1","timeoutMs":5}`, "timeoutMs", "timeout_ms"},
		{"POST", "/v1/execute", `{"Code":"1"}`, "Code", "code"},
		{"POST", "/v1/execute", `{"code":"1","CODE":"2"}`, "CODE", "code"},
		{"POST", "/v1/execute", `{"code":"1","fileids":[]}`, "fileids", "file_ids"},
		{"POST", "/v1/execute", `{"code":"1","zebra":[[[[`, "zebra", ""},
		{"POST", "/v1/execute", `{"code":"1","":1}`, `""`, ""},
		{"POST", "/v1/execute", `{"code":"1","network":{"":1}}`, `network.""`, ""},
		{"POST", "/v1/sessions", `{"secrets":[{"name":"A","vlaue":"x","hosts":["a.org"]}]}`, "secrets[0].vlaue", "secrets[0].value"},
		{"POST", "/v1/sessions", `{"idle_timeout":5}`, "idle_timeout", "idle_timeout_ms"},
		{"POST", "/v1/sessions/ses_x/keepalive", `{"idle":1}`, "idle", "idle_timeout_ms"},
		{"PUT", "/v1/sessions/ses_x/network", `{"mode":"off","alow":[]}`, "alow", "allow"},
		{"POST", "/v1/sessions/ses_x/ports", `{"port":80,"expires_in":5}`, "expires_in", "expires_in_ms"},
		{"POST", "/v1/sessions/ses_x/files", `{"file_ids":["a"],"files":["a"]}`, "files", ""},
		{"POST", "/v1/api-keys", `{"name":"x","tennant":"acme"}`, "tennant", "tenant"},
		{"GET", "/v1/files?limt=2", ``, "limt", "limit"},
		{"GET", "/v1/files?Limit=2", ``, "Limit", "limit"},
		{"GET", "/v1/files?limit=2&=x", ``, `""`, ""},
		{"GET", "/v1/executions?metadata=x", ``, "metadata", "metadata[name]"},
		{"GET", "/v1/executions?metadat[a]=x", ``, "metadat[a]", "metadata[name]"},
		{"GET", "/v1/sessions/ses_x?verbose=1", ``, "verbose", ""},
		{"DELETE", "/v1/sessions/ses_x?force=true", ``, "force", ""},
		{"POST", "/v1/execute?timeout_ms=5", `{"code":"1"}`, "timeout_ms", ""},
		{"POST", "/v1/files?session=ses_x", uploadBody, "session", "session_id"},
		{"GET", "/healthz?x=1", ``, "x", ""},
		{"GET", "/v1/files", `{"limit":5}`, "limit", ""},
		{"DELETE", "/v1/files/fil_x", `{"force":true}`, "force", ""},
		{"DELETE", "/v1/files/fil_x", `force`, "body", ""},
		{"DELETE", "/v1/files/fil_x", strings.Repeat(" ", 4<<10+1), "body", ""},
	} {
		got := failureOf(t, s.do(t, "admin", c.method, c.target, c.body), http.StatusUnprocessableEntity)
		if len(got.Details) != 1 || got.Details[0].Field != c.field {
			t.Errorf("%s %s %s: %+v, want the field %s", c.method, c.target, c.body, got, c.field)
		}
		if _, meant, _ := strings.Cut(got.Message, "Did you mean "); strings.TrimSuffix(meant, "?") != c.meant {
			t.Errorf("%s %s %s: %q, want the suggestion %q", c.method, c.target, c.body, got.Message, c.meant)
		}
	}
	if len(s.fake.requests)+len(s.fake.files) != 0 {
		t.Error("one came through")
	}
	// What clients of every age send.
	for _, c := range []struct{ method, target, body string }{
		{"GET", "/v1/files", ""}, {"GET", "/v1/files", "{}"}, {"GET", "/v1/files", " \n"}, {"POST", "/v1/sessions", "{}"}, {"POST", "/v1/sessions", ""},
		{"GET", "/v1/executions?metadata[a]=x&metadata[limt]=y", ""},
	} {
		if w := s.do(t, "admin", c.method, c.target, c.body); w.Code >= 300 {
			t.Errorf("%s %s %q: %d %s", c.method, c.target, c.body, w.Code, w.Body)
		}
	}
}

// TestEveryRouteRefusesUnknownParameters goes over the document.
func TestEveryRouteRefusesUnknownParameters(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	for path, item := range s.document.Paths {
		path = strings.NewReplacer("{port}", "80", "{", "", "}", "").Replace(path)
		for method, op := range map[string]any{"GET": item.Get, "POST": item.Post, "PUT": item.Put, "DELETE": item.Delete} {
			if reflect.ValueOf(op).IsNil() {
				continue
			}
			got := failureOf(t, s.do(t, "admin", method, path+"?no_such=1", nil), http.StatusUnprocessableEntity)
			if got.Details[0].Field != "no_such" {
				t.Errorf("%s %s: %+v", method, path, got)
			}
		}
	}
}

func TestNamesGivenTwiceAreRefused(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	for body, field := range map[string]string{
		`{"code":"1","code":"2"}`:                               "code",
		`{"code":"1","code":"1"}`:                               "code",
		`{"code":"1","c\u006fde":"2"}`:                          "code",
		`{"code":"1","timeout_ms":null,"timeout_ms":1}`:         "timeout_ms",
		`{"code":"1","network":{"mode":"off","mode":"public"}}`: "network.mode",
		`{"code":"1","env_vars":{"A":"1","A":"2"}}`:             "env_vars.A",
		`{"code":"1","metadata":{"a":"1","b":"","\u0061":"2"}}`: "metadata.a",
	} {
		got := failureOf(t, s.do(t, "sandbox", "POST", "/v1/execute", body), 422)
		if got.Details[0].Field != field || got.Details[0].Message != "is given twice." {
			t.Errorf("%s: %+v", body, got)
		}
	}
}

// TestWrongValuesSayWhatIsRight: of every kind, each names the field.
func TestWrongValuesSayWhatIsRight(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	port := "must be a whole number from 1 to 65535, not "
	for _, c := range []struct{ target, body, field, message string }{
		{"/v1/sessions/ses_x/ports", `{"port":65536}`, "port", port + "65536."},
		{"/v1/sessions/ses_x/ports", `{"port":-1}`, "port", port + "-1."},
		{"/v1/sessions/ses_x/ports", `{"port":0}`, "port", port + "0."},
		{"/v1/sessions/ses_x/ports", `{"port":22.5}`, "port", port + "22.5."},
		{"/v1/sessions/ses_x/ports", `{"port":1e400}`, "port", port + "1e400."},
		{"/v1/sessions/ses_x/ports", `{"port":"8000"}`, "port", port + "a string."},
		{"/v1/sessions/ses_x/ports", `{"port":[80]}`, "port", port + "a list."},
		{"/v1/sessions/ses_x/ports", `{"port":true}`, "port", port + "true."},
		{"/v1/execute", `{"code":"1","session_id":""}`, "session_id", "must not be empty. Leave it out to run without a session."},
		{"/v1/execute", `{"code":{}}`, "code", "must be a string, not an object."},
		{"/v1/execute", `{"code":5}`, "code", "must be a string, not a number."},
		{"/v1/execute", `{"code":"1","language":"cobol"}`, "language", `must be python or bash, not "cobol".`},
		{"/v1/execute", `{"code":"1","language":7}`, "language", "must be python or bash, not a number."},
		{"/v1/execute", `{"code":"1","cpus":-0.5}`, "cpus", "must be a number of at least 0, not -0.5."},
		{"/v1/execute", `{"code":"1","cpus":1e400}`, "cpus", "must be a number of at least 0, not 1e400."},
		{"/v1/execute", `{"code":"1","cpus":1e-400}`, "cpus", "must be a number of at least 0, not 1e-400."},
		{"/v1/execute", `{"code":"1","cpus":"2"}`, "cpus", "must be a number of at least 0, not a string."},
		{"/v1/execute", `{"code":"1","timeout_ms":-1}`, "timeout_ms", "must be a whole number from 0 to 9223372036854775807, not -1."},
		{"/v1/execute", `{"code":"1","timeout_ms":9223372036854775808}`, "timeout_ms", "must be a whole number from 0 to 9223372036854775807, not 9223372036854775808."},
		{"/v1/execute", `{"code":"1","env_vars":["A"]}`, "env_vars", "must be an object of which each value is a string, not a list."},
		{"/v1/execute", `{"code":"1","env_vars":{"A":1}}`, "env_vars.A", "must be a string, not a number."},
		{"/v1/execute", `{"code":"1","file_ids":{"a":1}}`, "file_ids", "must be a list of strings, not an object."},
		{"/v1/execute", `{"code":"1","file_ids":["a",null]}`, "file_ids[1]", "must be a string, not null."},
		{"/v1/execute", `{"code":"1","network":"off"}`, "network", "must be an object, not a string."},
		{"/v1/execute", `{"code":"1","network":{"mode":"on"}}`, "network.mode", `must be off, public or allowlist, not "on".`},
		{"/v1/execute", `{"code":"1","network":{"deny":"*"}}`, "network.deny", "must be a list of strings, not a string."},
		{"/v1/sessions", `{"secrets":{}}`, "secrets", "must be a list of objects, not an object."},
		{"/v1/sessions", `{"secrets":["x"]}`, "secrets[0]", "must be an object, not a string."},
		{"/v1/sessions", `{"secrets":[null]}`, "secrets[0]", "must be an object, not null."},
		{"/v1/api-keys", `{"name":"x","scopes":"read"}`, "scopes", "must be a list of which each item is sandbox, read, keys or admin, not a string."},
		{"/v1/api-keys", `{"name":"x","scopes":["read","root"]}`, "scopes[1]", `must be sandbox, read, keys or admin, not "root".`},
		{"/v1/execute", `[]`, "body", "must be a JSON object, not a list."},
		{"/v1/execute", `nope`, "body", "must be a JSON object, and is not JSON."},
	} {
		got := failureOf(t, s.do(t, "admin", "POST", c.target, c.body), 422)
		if len(got.Details) != 1 || got.Details[0] != (agentsandbox.Detail{Field: c.field, Message: c.message}) {
			t.Errorf("%s %s: %+v", c.target, c.body, got.Details)
		}
	}
	for target, message := range map[string]string{
		"/v1/files?limit=0":                            `must be a whole number from 1 to 100, not "0".`,
		"/v1/files?limit=ten":                          `must be a whole number from 1 to 100, not "ten".`,
		"/v1/executions?status=done":                   "must be running, succeeded, ",
		"/v1/sessions/ses_x/fs/list?path=/&limit=1001": `must be a whole number from 1 to 1000, not "1001".`,
	} {
		if got := failureOf(t, s.do(t, "admin", "GET", target, nil), 422); !strings.HasPrefix(got.Details[0].Message, message) {
			t.Errorf("%s: %+v", target, got.Details)
		}
	}
	for _, number := range []string{"0", "65536", "-1", "http"} {
		got := failureOf(t, s.do(t, "admin", "DELETE", "/v1/sessions/ses_x/ports/"+number, nil), 422)
		if got.Details[0].Message != port+fmt.Sprintf("%q.", number) {
			t.Errorf("%s: %+v", number, got.Details)
		}
	}
}

// TestBodiesCostNoMoreThanTheyMay: each is refused at the limit, and what follows
// is not looked at.
func TestBodiesCostNoMoreThanTheyMay(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	many := func(item string) string { return strings.Repeat(item, 2_700_000) }
	var entries strings.Builder
	for i := range 300_000 {
		fmt.Fprintf(&entries, `"A%d":"",`, i)
	}
	for name, c := range map[string]struct{ target, body, field string }{
		"a list of strings":     {"/v1/execute", `{"code":"1","file_ids":[` + many(`"",`), "file_ids"},
		"a map":                 {"/v1/execute", `{"code":"1","env_vars":{` + entries.String(), "env_vars"},
		"a small map":           {"/v1/execute", `{"code":"1","metadata":{` + entries.String(), "metadata"},
		"a list of objects":     {"/v1/sessions", `{"secrets":[` + many(`{},`), "secrets"},
		"a nested list":         {"/v1/sessions", `{"network":{"deny":[` + many(`"",`), "network.deny"},
		"scopes":                {"/v1/api-keys", `{"scopes":[` + many(`"",`), "scopes"},
		"a long string":         {"/v1/api-keys", `{"name":"` + strings.Repeat("x", 7<<20) + `"}`, "name"},
		"a long value":          {"/v1/execute", `{"env_vars":{"A":"` + strings.Repeat("x", 7<<20) + `"}}`, "env_vars.A"},
		"nesting":               {"/v1/execute", `{"network":` + many(`[`), "network"},
		"nesting of objects":    {"/v1/execute", `{"network":{"network":` + strings.Repeat(`{"network":`, 600_000), "network.network"},
		"a list where none is":  {"/v1/execute", `{"code":[` + many(`"",`), "code"},
		"a list in place of it": {"/v1/execute", `[` + many(`"",`), "body"},
	} {
		var allocated uint64
		got := failureOf(t, s.do(t, "admin", "POST", c.target, c.body), 422)
		if got.Details[0].Field != c.field {
			t.Errorf("%s: %+v", name, got)
		}
		allocated = uint64(testing.AllocsPerRun(1, func() {
			var req executeRequest
			_ = input.JSON([]byte(c.body), &req, input.ShapeOf(reflect.TypeOf(req), ""), false)
		}))
		if allocated > 10_000 {
			t.Errorf("%s: %d allocations", name, allocated)
		}
	}
	// What is within the bounds, and a body of code alone, is fine.
	s = newTestServer(t, edge.Limits{}, codeBytes(8<<20))
	if w := s.do(t, "sandbox", "POST", "/v1/execute", `{"code":"`+strings.Repeat("x", 7<<20)+`"}`); w.Code != 200 {
		t.Errorf("%d %.300s", w.Code, w.Body)
	}
}

func TestAByteOrderMarkIsSkipped(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	for body, status := range map[string]int{
		input.ByteOrderMark + `{"code":"1"}`: 200, input.ByteOrderMark + " \n" + `{"code":"1"}`: 200,
		input.ByteOrderMark + input.ByteOrderMark + `{"code":"1"}`: 422, " " + input.ByteOrderMark + `{"code":"1"}`: 422, input.ByteOrderMark: 422,
	} {
		if w := s.do(t, "sandbox", "POST", "/v1/execute", body); w.Code != status {
			t.Errorf("%q: %d %s", body, w.Code, w.Body)
		}
	}
	if w := s.do(t, "sandbox", "POST", "/v1/sessions", input.ByteOrderMark); w.Code != 201 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// FuzzDecoder compares with encoding/json: what is accepted is JSON, and means
// the same there.
func FuzzDecoder(f *testing.F) {
	for _, body := range []string{
		`{"code":"1","env_vars":{"A":"b"},"file_ids":["x"],"timeout_ms":5e3,"cpus":0.5,"network":{"mode":"off","deny":[]}}`,
		`{"code":"\ud83d\ude00\n","metadata":null}`, "\ufeff{}", `{"timeout_ms":1e400}`, `{"code":"a" "b"}`, `{"a":}`, `{,}`, `{"code":"1",}`, `[`, `{"cpus":01}`, `{"cpus":-}`,
	} {
		f.Add([]byte(body))
	}
	s := input.ShapeOf(reflect.TypeFor[executeRequest](), "")
	f.Fuzz(func(t *testing.T, body []byte) {
		var got, want executeRequest
		if input.JSON(body, &got, s, false) != nil {
			return
		}
		plain := bytes.TrimPrefix(body, []byte(input.ByteOrderMark))
		dec := json.NewDecoder(bytes.NewReader(plain))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&want); err != nil && !strings.Contains(err.Error(), "cannot unmarshal number") {
			t.Fatalf("%q was accepted: %v", body, err)
		} else if err == nil && !reflect.DeepEqual(got, want) {
			t.Fatalf("%q: %+v, encoding/json has %+v", body, got, want)
		}
		if !json.Valid(plain) {
			t.Fatalf("%q was accepted", body)
		}
	})
}
