package v1

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
)

// discard is a ResponseWriter that costs nothing.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(int)             {}

// BenchmarkExecute is what this layer adds to an execution.
func BenchmarkExecute(b *testing.B) {
	result := &agentsandbox.Execution{
		ID: "exe_1", SessionID: "ses_1", Status: agentsandbox.StatusSucceeded, Stdout: []byte("2\n"), CreatedAt: fakeTime,
	}
	s := newTestServer(b, edge.Limits{}, func(o *setup) {
		o.edge.Logger = slog.New(slog.NewJSONHandler(io.Discard, nil)) //nolint:sloglint // the making of log lines is measured too
	})
	s.service = &instant{fake: s.fake, result: result}
	for name, code := range map[string]string{"small": `print(1 + 1)`, "100KiB": strings.Repeat("print(1)\\n", 10<<10)} {
		body := `{"code":"` + code + `","language":"python","env_vars":{"A":"1","B":"2"}}`
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				req := httptest.NewRequest("POST", "/v1/execute", strings.NewReader(body))
				req.Header.Set("Authorization", "Bearer sandbox")
				s.ServeHTTP(&discard{http.Header{}}, req)
			}
		})
	}
}

type instant struct {
	*fake
	result *agentsandbox.Execution
}

func (s *instant) Execute(context.Context, agentsandbox.ExecuteRequest) (*agentsandbox.Execution, error) {
	return s.result, nil
}

// BenchmarkOutput is what an execution with 1 MiB of output costs here, valid
// UTF-8 and not.
func BenchmarkOutput(b *testing.B) {
	for name, line := range map[string]string{"text": "0123456789 äöü\n", "binary": "\xff\xfe\x00\x01abc"} {
		s := newTestServer(b, edge.Limits{}, func(o *setup) { o.edge.Logger = slog.New(slog.DiscardHandler) })
		s.service = &instant{fake: s.fake, result: &agentsandbox.Execution{ID: "exe_1", Stdout: []byte(strings.Repeat(line, (1<<20)/len(line)))}}
		b.Run(name, func(b *testing.B) {
			b.SetBytes(1 << 20)
			for b.Loop() {
				req := httptest.NewRequest("POST", "/v1/execute", strings.NewReader(`{"code":"1"}`))
				req.Header.Set("Authorization", "Bearer sandbox")
				s.ServeHTTP(&discard{http.Header{}}, req)
			}
		})
	}
}
