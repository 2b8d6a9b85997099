package v1

import (
	"bytes"
	"flag"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"

	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
)

//go:generate go test -run ^(TestOpenAPIFile|TestExamples)$ -update .

var update = flag.Bool("update", false, "write api/openapi.yaml and the answers in api/examples instead of comparing them")

var openAPIFile = filepath.Join("..", "..", "..", "api", "openapi.yaml")

const generatedNote = "# Made by `go generate ./internal/httpapi/v1`; do not edit.\n"

func TestOpenAPIFile(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	w := s.do(t, "", "GET", "/openapi.yaml", nil)
	want := append([]byte(generatedNote), w.Body.Bytes()...)
	if *update {
		if err := os.WriteFile(openAPIFile, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(openAPIFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("api/openapi.yaml is stale: run go generate ./internal/httpapi/v1")
	}
}

func TestDocumentIsComplete(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	doc := decodeAnswer[map[string]any](t, s.do(t, "", "GET", "/openapi.json", nil), 200)
	if v, _ := doc["openapi"].(string); !strings.HasPrefix(v, "3.1") {
		t.Errorf("openapi: %q", v)
	}
	if strings.Contains(s.do(t, "", "GET", "/openapi.json", nil).Body.String(), "ErrorModel") {
		t.Error("huma's own error shape is in the document")
	}
	for path, item := range s.document.Paths {
		for method, op := range map[string]*huma.Operation{"GET": item.Get, "POST": item.Post, "PUT": item.Put, "DELETE": item.Delete} {
			if op == nil {
				continue
			}
			name := method + " " + path
			if op.OperationID == "" || op.Summary == "" || op.Description == "" {
				t.Errorf("%s lacks an operationId, a summary or a description", name)
			}
			if needsKey := strings.HasPrefix(path, "/v1/"); (len(op.Security) == 1) != needsKey {
				t.Errorf("%s: security %v", name, op.Security)
			}
			for _, p := range op.Parameters {
				if p.Description == "" {
					t.Errorf("%s: the parameter %s is not described", name, p.Name)
				}
			}
			failures, successes := 0, 0
			for status, r := range op.Responses {
				if status < "400" {
					successes++
					continue
				}
				failures++
				if media := r.Content[jsonType]; media == nil || media.Schema.Ref != schemaPrefix+"Failure" {
					t.Errorf("%s: %s does not have the one shape of errors", name, status)
				}
			}
			if successes == 0 || failures == 0 {
				t.Errorf("%s: %d successes and %d failures", name, successes, failures)
			}
		}
	}
	sent := sentSchemas(s.document)
	if !sent["ExecuteRequest"] || !sent["NetworkPolicy"] || !sent["SecretInput"] || sent["SessionInfo"] {
		t.Errorf("schemas of requests: %v", sent)
	}
	for name, schema := range s.document.Components.Schemas.Map() {
		if closed, _ := schema.AdditionalProperties.(bool); sent[name] != (schema.AdditionalProperties != nil) || closed {
			t.Errorf("%s: additionalProperties %v, of a request: %v", name, schema.AdditionalProperties, sent[name])
		}
		for field, property := range schema.Properties {
			if property.Description == "" && property.Ref == "" {
				t.Errorf("%s.%s is not described", name, field)
			}
		}
	}
}

// TestDocsWorkOffline loads the page and all that it names, and checks that its
// policy allows just that.
func TestDocsWorkOffline(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	page := s.do(t, "", "GET", "/docs", nil)
	if page.Code != http.StatusOK {
		t.Fatal(page.Code)
	}
	policy := page.Header().Get("Content-Security-Policy")
	for _, loose := range []string{"unsafe", "http:", "https:", "*"} {
		if strings.Contains(policy, loose) {
			t.Errorf("the policy allows %s: %s", loose, policy)
		}
	}
	html := page.Body.String()
	if regexp.MustCompile(`<script>|<style|\son\w+=|https?://`).MatchString(html) {
		t.Errorf("the page has what its policy forbids, or reaches out: %s", html)
	}
	names := regexp.MustCompile(`(?:src|href)="([^"]+)"`).FindAllStringSubmatch(html, -1)
	if len(names) != 5 {
		t.Errorf("the page names %d files", len(names))
	}
	for _, m := range names {
		for _, encoding := range []string{"", "gzip"} {
			w := s.do(t, "", "GET", "/"+m[1], nil, "Accept-Encoding", encoding)
			if w.Code != http.StatusOK || w.Body.Len() < 100 {
				t.Errorf("%s (%q): status %d, %d bytes", m[1], encoding, w.Code, w.Body.Len())
			}
		}
	}
	for name, want := range map[string]string{"swagger-ui-bundle.js": "javascript", "swagger-ui.css": "css", "start.js": "javascript"} {
		if got := s.do(t, "", "GET", "/docs/"+name, nil).Header().Get("Content-Type"); !strings.Contains(got, want) {
			t.Errorf("%s is a %q", name, got)
		}
	}
	if script := s.do(t, "", "GET", "/docs/start.js", nil).Body.String(); !strings.Contains(script, `url: "openapi.json"`) {
		t.Error("the page does not load the document")
	}
}
