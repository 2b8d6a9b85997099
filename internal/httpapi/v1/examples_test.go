package v1

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
)

// example is a file of api/examples: requests in turn, with what they are
// answered. Other implementations of the API and its clients can replay them.
type example struct {
	Title string        `json:"title"`
	Steps []exampleStep `json:"steps"`
}

type exampleStep struct {
	Request struct {
		Method      string `json:"method"`
		Path        string `json:"path"`
		Key         string `json:"key"` // the one scope of the key; "" for no key
		ContentType string `json:"content_type,omitempty"`
		JSON        any    `json:"json,omitempty"`
		Text        string `json:"text,omitempty"`
	} `json:"request"`
	Response exampleAnswer `json:"response"`
}

type exampleAnswer struct {
	Status  int               `json:"status"`
	Headers map[string]string `json:"headers"`
	JSON    any               `json:"json,omitempty"`
	Text    string            `json:"text,omitempty"`
}

// exampleHeaders are those that an example pins.
var exampleHeaders = []string{
	"Content-Type", "Content-Disposition", "ETag", "X-Execution-Id", "X-Request-Id", "WWW-Authenticate", "Allow", "Retry-After",
}

// exampleRuns is what the code of the examples does.
var exampleRuns = map[string]agentsandbox.Execution{
	"print('Hello, World!')": {Status: agentsandbox.StatusSucceeded, Stdout: []byte("Hello, World!\n"), StdoutBytes: 14, DurationMS: 5, CPUMS: 4},
	`echo "$GREETING"; exit 3`: {
		Status: agentsandbox.StatusFailed, ReturnCode: 3, Stdout: []byte("hi\n"), StdoutBytes: 3, DurationMS: 4, CPUMS: 2,
	},
	"while True: pass": {
		Status: agentsandbox.StatusTimedOut, ReturnCode: agentsandbox.ReturnCodeTimedOut, Signal: "SIGKILL", DurationMS: 1003, CPUMS: 998,
	},
	"import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\nplt.savefig('chart.png')\nprint('saved')": {
		Status: agentsandbox.StatusSucceeded, Stdout: []byte("saved\n"), StdoutBytes: 6, DurationMS: 840, CPUMS: 790,
		Files: []agentsandbox.File{{
			ID: "fil_00000000000000000000000099", Filename: "chart.png", Path: "/workspace/chart.png", MediaType: "image/png", SizeBytes: 20480,
			SHA256: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
		}},
	},
}

func TestExamples(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "..", "..", "api", "examples", "*.json"))
	if err != nil || len(files) < 5 {
		t.Fatalf("%d examples, %v", len(files), err)
	}
	used := map[string]bool{}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) { replay(t, file, used) })
	}
	s := newTestServer(t, edge.Limits{})
	for _, item := range s.document.Paths {
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Put, item.Delete} {
			if op != nil && !used[op.OperationID] && op.OperationID != "getExecutionStderr" {
				t.Errorf("no example of %s", op.OperationID)
			}
		}
	}
}

func replay(t *testing.T, file string, used map[string]bool) {
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var ex example
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&ex); err != nil {
		t.Fatal(err)
	}
	s := newTestServer(t, edge.Limits{})
	s.fake.runs = exampleRuns
	for i := range ex.Steps {
		step := &ex.Steps[i]
		got := s.answerTo(t, step, used)
		if *update {
			step.Response = got
		} else if !reflect.DeepEqual(got, step.Response) {
			t.Errorf("step %d, %s %s:\n got %+v\nwant %+v", i+1, step.Request.Method, step.Request.Path, got, step.Response)
		}
	}
	if *update {
		var out bytes.Buffer
		enc := json.NewEncoder(&out)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(ex); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// answerTo sends the request of a step and checks both sides of it against the
// document.
func (s *server) answerTo(t *testing.T, step *exampleStep, used map[string]bool) exampleAnswer {
	t.Helper()
	body := step.Request.JSON
	if step.Request.Text != "" {
		body = step.Request.Text
	}
	headers := []string{"X-Request-Id", "req_example", "User-Agent", "example/1.0"}
	if step.Request.ContentType != "" {
		headers = append(headers, "Content-Type", step.Request.ContentType)
	}
	w := s.do(t, step.Request.Key, step.Request.Method, step.Request.Path, body, headers...)
	got := exampleAnswer{Status: w.Code, Headers: map[string]string{}}
	for _, name := range exampleHeaders {
		if v := w.Header().Get(name); v != "" {
			got.Headers[name] = v
		}
	}
	if w.Header().Get("Content-Type") != jsonType {
		got.Text = w.Body.String()
	} else if err := json.Unmarshal(w.Body.Bytes(), &got.JSON); err != nil {
		t.Fatal(err)
	}

	op := s.operation(step.Request.Method, step.Request.Path)
	if op == nil {
		if w.Code != 404 && w.Code != 405 {
			t.Errorf("%s %s is not in the document", step.Request.Method, step.Request.Path)
		}
		return got
	}
	used[op.OperationID] = true
	response := op.Responses[strconv.Itoa(w.Code)]
	if response == nil {
		t.Errorf("%s: the document has no status %d", op.OperationID, w.Code)
		return got
	}
	if media := response.Content[jsonType]; media != nil {
		s.validate(t, op.OperationID+" answer", media.Schema, huma.ModeReadFromServer, got.JSON)
	}
	if w.Code < 300 && step.Request.JSON != nil {
		s.validate(t, op.OperationID+" request", op.RequestBody.Content[jsonType].Schema, huma.ModeWriteToServer, step.Request.JSON)
	}
	return got
}

func (s *server) validate(t *testing.T, what string, schema *huma.Schema, mode huma.ValidateMode, v any) {
	t.Helper()
	result := &huma.ValidateResult{}
	huma.Validate(s.document.Components.Schemas, schema, huma.NewPathBuffer(nil, 0), mode, v, result)
	for _, err := range result.Errors {
		t.Errorf("%s is not as the document says: %v", what, err)
	}
}

// operation finds the operation of a path with values in place of its names.
func (s *server) operation(method, target string) *huma.Operation {
	path, _, _ := strings.Cut(target, "?")
	parts := strings.Split(path, "/")
	for pattern, item := range s.document.Paths {
		names := strings.Split(pattern, "/")
		if len(names) != len(parts) {
			continue
		}
		same := true
		for i, name := range names {
			same = same && (name == parts[i] || strings.HasPrefix(name, "{"))
		}
		if same {
			return map[string]*huma.Operation{"GET": item.Get, "POST": item.Post, "PUT": item.Put, "DELETE": item.Delete}[method]
		}
	}
	return nil
}

// run is what the fake makes of code that an example has an outcome for.
func (f *fake) run(e *agentsandbox.Execution) {
	known, ok := f.runs[e.Code]
	if !ok {
		return
	}
	e.Status, e.ReturnCode, e.Signal = known.Status, known.ReturnCode, known.Signal
	e.Stdout, e.StdoutBytes, e.Files = known.Stdout, known.StdoutBytes, known.Files
	e.DurationMS, e.CPUMS = known.DurationMS, known.CPUMS
	e.EndedAt = e.CreatedAt.Add(time.Duration(e.DurationMS) * time.Millisecond)
}
