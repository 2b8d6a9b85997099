package client_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/client"
	"github.com/agentsandbox/agentsandbox/client/clienttest"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/v1"
)

// connect puts the real HTTP layer between a client and a service: what one
// sends and the other reads must be the same.
func connect(t *testing.T, service agentsandbox.Service) *client.Client {
	t.Helper()
	api, err := v1.New(v1.Options{Service: service, Ready: func() error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	handler, err := edge.New(edge.Options{
		Authenticate: func(_ context.Context, key string) (agentsandbox.Principal, error) {
			if key != "asbx_right" {
				return agentsandbox.Principal{}, agentsandbox.Errorf(agentsandbox.CodeUnauthorized, "This key is not known.")
			}
			return agentsandbox.Principal{KeyID: "key_1", Tenant: "main", Scopes: agentsandbox.Scopes}, nil
		},
		Idempotency: new(clienttest.Keys),
		Logger:      slog.New(slog.DiscardHandler),
	}, api)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	c, err := client.New(server.URL+"/", "asbx_right")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

func TestExecutionsTravel(t *testing.T) {
	outcome := agentsandbox.Execution{
		Status: agentsandbox.StatusFailed, ReturnCode: 137, Signal: "SIGKILL", Truncated: true,
		Stdout: []byte("raw \xff\xfe and \uFFFD and \x00 and <&>"), Stderr: []byte("é"), StdoutBytes: 5000,
		DurationMS: 12, CPUMS: 3, FilesOmitted: 2, Error: "why", HTTPStatus: 200,
		Files: []agentsandbox.File{{Filename: "dir/a b.txt", Path: "/workspace/dir/a b.txt", MediaType: "text/plain", SHA256: strings.Repeat("ab", 32)}},
	}
	service := &clienttest.Service{Programs: []clienttest.Program{
		{Code: "é = 1\n", Outcome: outcome, Contents: map[string]string{"dir/a b.txt": "text"}},
	}}
	c := connect(t, service)
	ctx := t.Context()
	file, err := c.UploadFile(ctx, agentsandbox.FileUpload{Filename: "x"}, strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	req := agentsandbox.ExecuteRequest{
		Code: "é = 1\n", Language: agentsandbox.Bash, Env: map[string]string{"A": "1", "ü": "<\n>"},
		FileIDs: []string{file.ID}, TimeoutMS: 5, MemoryMB: 6, CPUs: 0.5,
	}
	got, err := c.Execute(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	sent, ok := service.Requests()[1].(agentsandbox.ExecuteRequest)
	sent.Endpoint, sent.Method, sent.Meta = "", "", nil
	if equal(t, "the request", sent, req); !ok {
		t.Fatal("no request arrived")
	}
	want, err := service.Execution(ctx, got.ID)
	if err != nil {
		t.Fatal(err)
	}
	record, err := c.Execution(ctx, got.ID)
	if err != nil {
		t.Fatal(err)
	}
	for i := range want.Files { // an answer says when it was made, not each file of it
		want.Files[i].CreatedAt = time.Time{}
	}
	equal(t, "the record", record, want)
	if !bytes.Equal(got.Stdout, outcome.Stdout) || !bytes.Equal(got.Stderr, outcome.Stderr) {
		t.Errorf("output is %q and %q", got.Stdout, got.Stderr)
	}
	answer := *want
	answer.Ephemeral, answer.Endpoint, answer.Method, answer.HTTPStatus, answer.Meta = false, "", "", 0, nil
	answer.CreatedAt, answer.EndedAt = time.Time{}, time.Time{}
	equal(t, "the answer", got, &answer)

	filter := agentsandbox.ExecutionFilter{Page: agentsandbox.Page{Limit: 7}, SessionID: got.SessionID, Status: agentsandbox.StatusFailed}
	page, err := c.Executions(ctx, filter)
	if err != nil || page.Total != 1 || page.Limit != 7 || len(page.Executions) != 1 || page.Executions[0].ID != got.ID {
		t.Fatalf("the list is %+v, %v", page, err)
	}
	requests := service.Requests()
	equal(t, "the filter", requests[len(requests)-1], filter)
}

func TestSessionsTravel(t *testing.T) {
	service := &clienttest.Service{}
	c := connect(t, service)
	ctx := t.Context()
	req := agentsandbox.SessionRequest{
		Env: map[string]string{"A": "1"}, Template: "other", TimeoutMS: 1, MemoryMB: 2, CPUs: 0.25, Metadata: map[string]string{"user": "ada"},
	}
	s, err := c.CreateSession(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the request", service.Requests()[0], req)
	want, err := service.Session(ctx, s.ID)
	if err != nil {
		t.Fatal(err)
	}
	want.Env = nil // never shown again
	equal(t, "the new session", s, want)
	again, err := c.Session(ctx, s.ID)
	equal(t, "the session", again, want)
	if err != nil {
		t.Fatal(err)
	}
	page, err := c.Sessions(ctx, agentsandbox.SessionFilter{Page: agentsandbox.Page{Limit: 3}})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the list", page.Sessions, []agentsandbox.Session{*want})
	if err := c.DeleteSession(ctx, s.ID); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"delete twice": c.DeleteSession(ctx, s.ID),
		"inject":       c.InjectFiles(ctx, s.ID, []string{"fil_1"}),
	} {
		if agentsandbox.CodeOf(err) != agentsandbox.CodeSessionNotFound {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestFilesTravel(t *testing.T) {
	service := &clienttest.Service{}
	c := connect(t, service)
	ctx := t.Context()
	session, err := c.CreateSession(ctx, agentsandbox.SessionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("\x00\xff\r\n--boundary"), 100_000)
	name := `a "quoted" name; ü=1.csv`
	file, err := c.UploadFile(ctx, agentsandbox.FileUpload{Filename: "some/dir/" + name, SessionID: session.ID}, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	upload, _ := service.Requests()[1].(agentsandbox.FileUpload)
	if upload.Filename != name || upload.SessionID != session.ID || !strings.HasPrefix(upload.MediaType, "text/csv") {
		t.Errorf("uploaded as %+v", upload)
	}
	want, err := service.File(ctx, file.ID)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the file", file, want)
	opened, body, err := c.OpenFile(ctx, file.ID)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(body)
	if err != nil || body.Close() != nil || !bytes.Equal(got, data) {
		t.Errorf("read %d bytes of %d, %v", len(got), len(data), err)
	}
	known, err := c.File(ctx, file.ID)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "what is known of the file", known, want)
	known = opened
	if known.Filename != name || known.SizeBytes != int64(len(data)) || known.MediaType != want.MediaType || !known.CreatedAt.Equal(want.CreatedAt) {
		t.Errorf("known: %+v", known)
	}
	list, err := c.Files(ctx, agentsandbox.Page{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the list", list, &agentsandbox.FilePage{Files: []agentsandbox.File{*want}, Total: 1, Page: agentsandbox.Page{Limit: 1}})
	if err := c.DeleteFile(ctx, file.ID); err != nil {
		t.Fatal(err)
	}
	_, fileErr := c.File(ctx, file.ID)
	_, _, openErr := c.OpenFile(ctx, file.ID)
	for what, err := range map[string]error{"stat": fileErr, "open": openErr, "delete": c.DeleteFile(ctx, file.ID)} {
		if agentsandbox.CodeOf(err) != agentsandbox.CodeFileNotFound {
			t.Errorf("%s after the deletion: %v", what, err)
		}
	}
}

func TestWorkspacesTravel(t *testing.T) {
	c := connect(t, &clienttest.Service{})
	ctx := t.Context()
	session, err := c.CreateSession(ctx, agentsandbox.SessionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"/workspace/\xff raw", "/workspace/a&b=c?d#e%2F.txt", "/workspace/new\nline", "/workspace/ü"}
	slices.Sort(names)
	for _, name := range names {
		info, err := c.WritePath(ctx, session.ID, name, strings.NewReader("in "+name))
		if err != nil {
			t.Fatalf("write %q: %v", name, err)
		}
		stat, err := c.StatPath(ctx, session.ID, name)
		equal(t, "stat", stat, info)
		if err != nil || info.Path != name || info.Mode != 0o644 || info.SizeBytes != int64(len("in "+name)) || !info.ModifiedAt.Equal(clienttest.Epoch) {
			t.Errorf("%q is %+v, %v", name, info, err)
		}
		_, body, err := c.ReadPath(ctx, session.ID, name)
		if err != nil {
			t.Fatalf("read %q: %v", name, err)
		}
		if got, err := io.ReadAll(body); err != nil || string(got) != "in "+name {
			t.Errorf("read %q, %v", got, err)
		}
		body.Close()
	}
	var listed []string
	for after := ""; ; {
		page, err := c.ListPath(ctx, session.ID, "/workspace", after, 1)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Entries {
			listed = append(listed, e.Path)
		}
		if after = page.Next; after == "" {
			break
		}
	}
	equal(t, "the names", listed, names)
	for _, name := range names {
		if err := c.RemovePath(ctx, session.ID, name); err != nil {
			t.Errorf("remove %q: %v", name, err)
		}
		if _, err := c.StatPath(ctx, session.ID, name); agentsandbox.CodeOf(err) != agentsandbox.CodePathNotFound {
			t.Errorf("stat %q after the removal: %v", name, err)
		}
	}
}

func TestKeysTravel(t *testing.T) {
	service := &clienttest.Service{}
	c := connect(t, service)
	ctx := t.Context()
	req := agentsandbox.KeyRequest{
		Name: "ci", Tenant: "other", Scopes: []agentsandbox.Scope{agentsandbox.ScopeRead},
		ExpiresAt: time.Now().Add(time.Hour).UTC().Truncate(time.Second),
	}
	key, err := c.CreateKey(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the request", service.Requests()[0], req)
	if !strings.HasPrefix(key.Value, agentsandbox.SecretPrefix) {
		t.Errorf("the value is %q", key.Value)
	}
	if err := c.RevokeKey(ctx, key.ID); err != nil {
		t.Fatal(err)
	}
	want, err := service.Keys(ctx, agentsandbox.Page{Limit: 50})
	if err != nil {
		t.Fatal(err)
	}
	list, err := c.Keys(ctx, agentsandbox.Page{Limit: 50})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the list", list, want)
	if err := c.RevokeKey(ctx, "key_none"); agentsandbox.CodeOf(err) != agentsandbox.CodeKeyNotFound {
		t.Errorf("revoke none: %v", err)
	}
}

func TestRefusalsTravel(t *testing.T) {
	c := connect(t, &clienttest.Service{})
	_, err := c.Files(t.Context(), agentsandbox.Page{Limit: 500})
	if agentsandbox.CodeOf(err) != agentsandbox.CodeInvalidRequest || !strings.Contains(err.Error(), "limit") {
		t.Errorf("a page too large: %v", err)
	}
	wrong, err := client.New(c.BaseURL(), "asbx_wrong")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wrong.Sessions(t.Context(), agentsandbox.SessionFilter{}); agentsandbox.CodeOf(err) != agentsandbox.CodeUnauthorized {
		t.Errorf("a wrong key: %v", err)
	}
}
