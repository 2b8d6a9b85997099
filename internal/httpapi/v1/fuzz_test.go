package v1

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
)

// FuzzExecute sends any bytes as the body of an execution: the answer is that
// of a run, or one refusal in the one shape, and never a failure of ours.
func FuzzExecute(f *testing.F) {
	for _, body := range []string{
		`{"code":"1"}`, `{"code":"1","env_vars":{"A":"b"},"file_ids":[],"timeout_ms":1}`, `{"code":"\ud800"}`, `{"code":1e999}`,
		`{"code":"1","cpus":1e308,"memory_mb":-0}`, strings.Repeat(`{"code":`, 100), "\ufeff{}", `{"Code":"x","CODE":"y"}`, `{"code":"1","session_id":"../x"}`,
	} {
		f.Add([]byte(body))
	}
	s := newTestServer(f, edge.Limits{BodyBytes: 4096}, codeBytes(1000))
	f.Fuzz(func(t *testing.T, body []byte) {
		s.fake.requests, s.fake.executions = nil, nil
		w := s.do(t, "sandbox", "POST", "/v1/execute", body)
		switch w.Code {
		case 200:
			req := s.fake.requests[0]
			if !utf8.ValidString(req.Code) || strings.ContainsRune(req.Code, 0) || len(req.Code) > 1000 || req.TimeoutMS < 0 || req.MemoryMB < 0 || req.CPUs < 0 || req.CPUs != req.CPUs {
				t.Fatalf("came through: %+v", req)
			}
			if !json.Valid(w.Body.Bytes()) {
				t.Fatal("the answer is not JSON")
			}
		case 404, 413, 422:
			failureOf(t, w, w.Code)
		default:
			t.Fatalf("status %d: %s", w.Code, w.Body)
		}
	})
}

// FuzzRequest sends any HTTP request that net/http can read, with a key that
// may do everything.
func FuzzRequest(f *testing.F) {
	for _, request := range []string{
		"GET /v1/files?limit=1&offset=0 HTTP/1.1\r\n\r\n",
		"GET /v1/sessions/ses_x/fs?path=%2fworkspace%2f..%2f HTTP/1.1\r\n\r\n",
		"PUT /v1/sessions/ses_x/fs?path=/a HTTP/1.1\r\nContent-Length: 1\r\n\r\nx",
		"POST /v1/api-keys HTTP/1.1\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}",
		"GET /v1/files/..%2f..%2f HTTP/1.1\r\nRange: bytes=0-\r\nIf-None-Match: *\r\n\r\n",
		"BREW /%00 HTTP/1.0\r\nX-Request-Id: \xff\r\n\r\n",
		"GET http://other/v1//files HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\n\r\n",
		"DELETE /v1/files/fil_%ff HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
	} {
		f.Add([]byte(request))
	}
	s := newTestServer(f, edge.Limits{BodyBytes: 4096, UploadBytes: 4096}, codeBytes(1000))
	f.Fuzz(func(t *testing.T, request []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(request)))
		if err != nil {
			return
		}
		r.Header.Set("Authorization", "Bearer admin")
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code >= 500 {
			t.Fatalf("%s %s: %d %s", r.Method, r.URL, w.Code, w.Body)
		}
		if w.Code >= 400 && r.Method != http.MethodHead {
			if w.Code == http.StatusRequestedRangeNotSatisfiable {
				return
			}
			failureOf(t, w, w.Code)
		}
		id := w.Header().Get("X-Request-Id")
		if id == "" || strings.ContainsAny(id, "\r\n\x00") {
			t.Fatalf("request id %q", id)
		}
	})
}
