// Package credentials tries every route of the API with every kind of credential.
package credentials

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/audit"
	"github.com/agentsandbox/agentsandbox/internal/blob"
	"github.com/agentsandbox/agentsandbox/internal/engine"
	"github.com/agentsandbox/agentsandbox/internal/engine/limits"
	"github.com/agentsandbox/agentsandbox/internal/engine/quota"
	"github.com/agentsandbox/agentsandbox/internal/engine/templates"
	"github.com/agentsandbox/agentsandbox/internal/eventlog"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/v1"
	"github.com/agentsandbox/agentsandbox/internal/idempotency"
	"github.com/agentsandbox/agentsandbox/internal/keys"
	"github.com/agentsandbox/agentsandbox/internal/pool"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
	fakeruntime "github.com/agentsandbox/agentsandbox/internal/runtime/fake"
	"github.com/agentsandbox/agentsandbox/internal/store"
)

// The matrix of every route by every kind of credential, on the real engine and
// store. The routes come from the document, which is made from the declarations
// of the routes themselves; one without a row here fails the test.

const (
	uploadBody = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\n\r\nabc\r\n--b--\r\n"
	uploadType = "multipart/form-data; boundary=b"
)

// access says what a route needs and how to ask it. In request and body,
// {session_id}, {file_id}, {execution_id} and {key_id} stand for things of the
// tenant whose right key is tried.
type access struct {
	scope  agentsandbox.Scope // "": no key is needed
	query  string
	body   string
	upload bool // the body is a multipart upload
	// status of the answer to the right key.
	status int
}

var accessOfRoutes = map[string]access{
	"GET /healthz": {status: 200},
	"GET /readyz":  {status: 200},

	"POST /v1/execute":                         {scope: agentsandbox.ScopeSandbox, body: `{"code":"true","language":"bash","session_id":"{session_id}","file_ids":["{file_id}"]}`, status: 200},
	"GET /v1/executions":                       {scope: agentsandbox.ScopeRead, status: 200},
	"GET /v1/executions/{execution_id}":        {scope: agentsandbox.ScopeRead, status: 200},
	"GET /v1/executions/{execution_id}/stdout": {scope: agentsandbox.ScopeRead, status: 200},
	"GET /v1/executions/{execution_id}/stderr": {scope: agentsandbox.ScopeRead, status: 200},

	"POST /v1/sessions":                        {scope: agentsandbox.ScopeSandbox, body: `{"file_ids":["{file_id}"]}`, status: 201},
	"GET /v1/sessions":                         {scope: agentsandbox.ScopeRead, status: 200},
	"GET /v1/sessions/{session_id}":            {scope: agentsandbox.ScopeRead, status: 200},
	"DELETE /v1/sessions/{session_id}":         {scope: agentsandbox.ScopeSandbox, status: 204},
	"POST /v1/sessions/{session_id}/keepalive": {scope: agentsandbox.ScopeSandbox, status: 200},
	"POST /v1/sessions/{session_id}/files":     {scope: agentsandbox.ScopeSandbox, body: `{"file_ids":["{file_id}"]}`, status: 204},
	"GET /v1/sessions/{session_id}/fs":         {scope: agentsandbox.ScopeRead, query: "path=/workspace/a.txt", status: 200},
	"PUT /v1/sessions/{session_id}/fs":         {scope: agentsandbox.ScopeSandbox, query: "path=/workspace/b.txt", body: "bytes", status: 200},
	"DELETE /v1/sessions/{session_id}/fs":      {scope: agentsandbox.ScopeSandbox, query: "path=/workspace/a.txt", status: 204},
	"GET /v1/sessions/{session_id}/fs/stat":    {scope: agentsandbox.ScopeRead, query: "path=/workspace", status: 200},
	"GET /v1/sessions/{session_id}/fs/list":    {scope: agentsandbox.ScopeRead, query: "path=/workspace", status: 200},

	"GET /v1/sessions/{session_id}/network":             {scope: agentsandbox.ScopeRead, status: 200},
	"PUT /v1/sessions/{session_id}/network":             {scope: agentsandbox.ScopeSandbox, body: `{"mode":"off"}`, status: 200},
	"GET /v1/sessions/{session_id}/ports":               {scope: agentsandbox.ScopeSandbox, status: 200},
	"POST /v1/sessions/{session_id}/ports":              {scope: agentsandbox.ScopeSandbox, body: `{"port":80}`, status: 409},
	"DELETE /v1/sessions/{session_id}/ports/{port}":     {scope: agentsandbox.ScopeSandbox, status: 409},
	"GET /v1/sessions/{session_id}/ports/{port}/tunnel": {scope: agentsandbox.ScopeSandbox, status: 422},

	"POST /v1/files":                   {scope: agentsandbox.ScopeSandbox, query: "session_id={session_id}", upload: true, status: 201},
	"GET /v1/files":                    {scope: agentsandbox.ScopeRead, status: 200},
	"GET /v1/files/{file_id}":          {scope: agentsandbox.ScopeRead, status: 200},
	"GET /v1/files/{file_id}/metadata": {scope: agentsandbox.ScopeRead, status: 200},
	"DELETE /v1/files/{file_id}":       {scope: agentsandbox.ScopeSandbox, status: 204},

	"POST /v1/api-keys":            {scope: agentsandbox.ScopeKeys, body: `{"name":"more","scopes":["keys"]}`, status: 201},
	"GET /v1/api-keys":             {scope: agentsandbox.ScopeKeys, status: 200},
	"DELETE /v1/api-keys/{key_id}": {scope: agentsandbox.ScopeKeys, status: 204},

	"GET /v1/audit": {scope: agentsandbox.ScopeAdmin, status: 200},
}

func TestEveryRouteByEveryCredential(t *testing.T) {
	m := newMatrix(t)
	routes := m.routes(t)
	for name := range accessOfRoutes {
		if _, ok := routes[name]; !ok {
			t.Errorf("%s has a row and is no route", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(routes)) {
		a, ok := accessOfRoutes[name]
		if !ok {
			t.Errorf("%s has no row in accessOfRoutes: say which scope it needs and how to ask it", name)
			continue
		}
		if routes[name] != a.scope {
			t.Errorf("%s needs the scope %q by its document, and %q here", name, routes[name], a.scope)
		}
		t.Run(name, func(t *testing.T) { m.try(t, name, a) })
	}
}

// matrix is the API on the real engine, with two tenants.
type matrix struct {
	http.Handler
	store   *store.DB
	service agentsandbox.Service
}

type service struct {
	*engine.Engine
	agentsandbox.KeyService
	agentsandbox.AuditService
}

func newMatrix(t *testing.T) *matrix {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	dir := t.TempDir()
	db, err := store.Open(t.Context(), dir, store.Options{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := blob.Open(filepath.Join(dir, "blobs"), log)
	if err != nil {
		t.Fatal(err)
	}
	logs, err := eventlog.Open(filepath.Join(dir, "logs"), eventlog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	limits := limits.Limits{
		DefaultTimeout: 20 * time.Second, MaxTimeout: time.Minute, DefaultMemoryMB: 256, MaxMemoryMB: 1024,
		DefaultCPUs: 1, MaxCPUs: 2, Tasks: 100, OutputBytes: 1000, CodeBytes: 10_000, UploadBytes: 1 << 20,
		Collect: runtime.CollectLimits{Files: 3, Bytes: 1000, Depth: 4},
	}
	p := pool.New(pool.Options{
		Runtime: fakeruntime.New(fakeruntime.Options{Dir: t.TempDir()}), NewID: func() string { return agentsandbox.NewID("sbx_") },
		Stocks: []pool.Stock{{Snapshot: "default"}}, Builders: 2, Limits: limits.Default(), Logger: log,
	})
	p.Start()
	rows := audit.New(audit.Options{Store: db, Logger: log})
	k := keys.New(keys.Options{Store: db, Audit: rows, Logger: log})
	q := quota.New(quota.Limits{}, db, logs, log)
	e := engine.New(engine.Options{Store: db, Quotas: q, Keys: k, Audit: rows, EgressAudit: audit.NewEgress(rows, nil), Blobs: blobs, Logs: logs, Sandboxes: p, Template: "default", Templates: templates.Map{"default": {Snapshot: "default"}}, Limits: limits, AnswerStatus: edge.Status, Logger: log})
	if err := e.Recover(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		e.Close(context.Background())
		if err := errors.Join(k.Close(), rows.Close()); err != nil {
			t.Error(err)
		}
		p.Close()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	s := service{e, k, rows}
	api, err := v1.New(v1.Options{Service: s, Ready: func() error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	handler, err := edge.New(edge.Options{Idempotency: idempotency.New(idempotency.Options{Store: db, Quotas: q, Logger: log}), Audit: rows.Append, Authenticate: k.Authenticate, Logger: log}, api)
	if err != nil {
		t.Fatal(err)
	}
	return &matrix{Handler: handler, store: db, service: s}
}

// routes are those of the document, with the scope that each says it needs.
func (m *matrix) routes(t *testing.T) map[string]agentsandbox.Scope {
	t.Helper()
	w := httptest.NewRecorder()
	m.ServeHTTP(w, httptest.NewRequest("GET", "/openapi.json", nil))
	var document struct {
		Paths map[string]map[string]struct {
			Security []map[string][]agentsandbox.Scope
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &document); err != nil {
		t.Fatal(err)
	}
	all := map[string]agentsandbox.Scope{}
	for path, methods := range document.Paths {
		for method, operation := range methods {
			name := strings.ToUpper(method) + " " + path
			all[name] = ""
			for _, way := range operation.Security {
				for _, scopes := range way {
					all[name] = scopes[0]
				}
			}
		}
	}
	if len(all) == 0 {
		t.Fatal("the document has no routes")
	}
	return all
}

// credential is one way to ask.
type credential struct {
	name   string
	header string // of Authorization; "": none is sent
	status int    // of the answer; 0: decided by the row
}

// things are what a tenant has, by the names in braces.
type things map[string]string

func (th things) in(text string) string {
	for name, id := range th {
		text = strings.ReplaceAll(text, "{"+name+"}", id)
	}
	return strings.ReplaceAll(text, "{port}", "80")
}

func (m *matrix) try(t *testing.T, name string, a access) {
	owner, stranger := "owner of "+name, "stranger to "+name
	th := m.makeThings(t, owner)
	if a.scope == "" {
		for _, header := range []string{"", "Bearer", "Bearer unknown", "Bearer " + m.key(t, owner, agentsandbox.ScopeRead, time.Time{}, false)} {
			if w := m.ask(name, a, th, header); w.Code != a.status {
				t.Errorf("with %q: %d, want %d, whoever asks", header, w.Code, a.status)
			}
		}
		return
	}
	past := time.Now().Add(-time.Hour)
	refused := []credential{
		{"none", "", 401},
		{"malformed", "Bearer", 401},
		{"another scheme", "Basic " + m.key(t, owner, a.scope, time.Time{}, false), 401},
		{"unknown", "Bearer " + agentsandbox.NewSecret(), 401},
		{"revoked", "Bearer " + m.key(t, owner, a.scope, time.Time{}, true), 401},
		{"expired", "Bearer " + m.key(t, owner, a.scope, past, false), 401},
	}
	for _, scope := range agentsandbox.Scopes {
		if !(agentsandbox.Principal{Scopes: []agentsandbox.Scope{scope}}).Has(a.scope) {
			refused = append(refused, credential{"scope " + string(scope), "Bearer " + m.key(t, owner, scope, time.Time{}, false), 403})
		}
	}
	for _, c := range refused {
		w := m.ask(name, a, th, c.header)
		if w.Code != c.status {
			t.Errorf("%s: %d, want %d: %s", c.name, w.Code, c.status, w.Body)
		}
		th.absent(t, c.name, w)
	}
	foreign := m.ask(name, a, th, "Bearer "+m.key(t, stranger, a.scope, time.Time{}, false))
	want := a.status
	if strings.Contains(name+a.query+a.body, "{") && th.in(name+a.query+a.body) != name+a.query+a.body {
		want = 404
	}
	if foreign.Code != want {
		t.Errorf("another tenant: %d, want %d: %s", foreign.Code, want, foreign.Body)
	}
	if want != 404 { // the message of a 404 repeats the id that was asked for
		th.absent(t, "another tenant", foreign)
	}
	// Last, because it may delete: and it shows that none of the others had an
	// effect.
	if w := m.ask(name, a, th, "Bearer "+m.key(t, owner, a.scope, time.Time{}, false)); w.Code != a.status {
		t.Errorf("the right key: %d, want %d: %s", w.Code, a.status, w.Body)
	}
}

// absent checks that an answer tells nothing of the owner's things.
func (th things) absent(t *testing.T, who string, w *httptest.ResponseRecorder) {
	t.Helper()
	for name, id := range th {
		if strings.Contains(w.Body.String(), id) {
			t.Errorf("%s learns of the %s %s", who, name, id)
		}
	}
}

func (m *matrix) ask(name string, a access, th things, authorization string) *httptest.ResponseRecorder {
	method, path, _ := strings.Cut(name, " ")
	target := th.in(path)
	if a.query != "" {
		target += "?" + th.in(a.query)
	}
	body, kind := th.in(a.body), "application/json"
	if a.upload {
		body, kind = uploadBody, uploadType
	}
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Header.Set("Content-Type", kind)
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	w := httptest.NewRecorder()
	m.ServeHTTP(w, r)
	return w
}

// key makes a key of a tenant and returns its value.
func (m *matrix) key(t *testing.T, tenant string, scope agentsandbox.Scope, expires time.Time, revoked bool) string {
	t.Helper()
	value := agentsandbox.NewSecret()
	k := agentsandbox.Key{
		ID: agentsandbox.NewID(agentsandbox.KeyPrefix), Tenant: tenant, Name: "key", Scopes: []agentsandbox.Scope{scope},
		CreatedAt: time.Now().Add(-2 * time.Hour), ExpiresAt: expires,
	}
	if err := m.store.InsertKey(t.Context(), k, sha256.Sum256([]byte(value))); err != nil {
		t.Fatal(err)
	}
	if revoked {
		if err := m.store.RevokeKey(t.Context(), tenant, k.ID, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	return value
}

// makeThings gives a tenant one thing of each kind.
func (m *matrix) makeThings(t *testing.T, tenant string) things {
	t.Helper()
	ctx := agentsandbox.WithPrincipal(t.Context(), agentsandbox.Principal{
		KeyID: "key_of_the_test", Tenant: tenant, Scopes: []agentsandbox.Scope{agentsandbox.ScopeAdmin},
	})
	need := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	session, err := m.service.CreateSession(ctx, agentsandbox.SessionRequest{})
	need(err)
	_, err = m.service.WritePath(ctx, session.ID, "/workspace/a.txt", strings.NewReader("a"))
	need(err)
	file, err := m.service.UploadFile(ctx, agentsandbox.FileUpload{Filename: "f.txt"}, strings.NewReader("f"))
	need(err)
	run, err := m.service.Execute(ctx, agentsandbox.ExecuteRequest{Code: "echo secret", Language: agentsandbox.Bash, SessionID: session.ID})
	need(err)
	key, err := m.service.CreateKey(ctx, agentsandbox.KeyRequest{Name: "k", Tenant: tenant})
	need(err)
	t.Cleanup(func() {
		if err := m.service.DeleteSession(context.WithoutCancel(ctx), session.ID); err != nil && agentsandbox.CodeOf(err) != agentsandbox.CodeSessionNotFound {
			t.Error(err)
		}
	})
	return things{"session_id": session.ID, "file_id": file.ID, "execution_id": run.ID, "key_id": key.ID}
}

// The message of an answer to another tenant is the one for what never was.
func TestForeignIsLikeMissing(t *testing.T) {
	m := newMatrix(t)
	th := m.makeThings(t, "owner")
	never := things{}
	for name, id := range th {
		prefix, _, _ := strings.Cut(id, "_")
		never[name] = agentsandbox.NewID(prefix + "_")
	}
	for name, a := range accessOfRoutes {
		if a.scope == "" || th.in(name) == name {
			continue
		}
		stranger := "Bearer " + m.key(t, "stranger", a.scope, time.Time{}, false)
		foreign, missing := m.ask(name, a, th, stranger), m.ask(name, a, never, stranger)
		one, two := shape(foreign, th), shape(missing, never)
		if one != two || foreign.Code != http.StatusNotFound {
			t.Errorf("%s: foreign %s, missing %s", name, one, two)
		}
	}
}

// shape is an answer without the ids in it.
func shape(w *httptest.ResponseRecorder, th things) string {
	body, _ := io.ReadAll(w.Body)
	text := strings.ReplaceAll(string(body), w.Header().Get("X-Request-Id"), "REQUEST")
	for name, id := range th {
		text = strings.ReplaceAll(text, id, name)
	}
	return fmt.Sprint(w.Code, " ", text)
}
