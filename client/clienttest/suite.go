package clienttest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/agentsandbox/agentsandbox"
)

// Suite checks that a Service does what the interface says, with real code: the
// engine and a client in front of it both pass. ctx is of a caller with every
// scope, whose tenant has nothing yet.
func Suite(t *testing.T, ctx context.Context, service agentsandbox.Service) {
	s := suite{ctx, service}
	t.Run("executions", s.executions)
	t.Run("sessions", s.sessions)
	t.Run("files", s.files)
	t.Run("paths", s.paths)
	t.Run("keys", s.keys)
	t.Run("refusals", s.refusals)
	t.Run("cancelling", s.cancelling)
}

type suite struct {
	ctx     context.Context
	service agentsandbox.Service
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s suite) bash(t *testing.T, req agentsandbox.ExecuteRequest) *agentsandbox.Execution {
	t.Helper()
	req.Language = agentsandbox.Bash
	e, err := s.service.Execute(s.ctx, req)
	ok(t, err)
	return e
}

func (s suite) executions(t *testing.T) {
	job := map[string]string{"job": "7"}
	e := s.bash(t, agentsandbox.ExecuteRequest{
		Code: `printf 'a\377\n'; echo "$WHO" >&2; mkdir -p d; echo made > d/x.txt; exit 3`, Env: map[string]string{"WHO": "ada"}, Metadata: job,
	})
	if e.Status != agentsandbox.StatusFailed || e.ReturnCode != 3 || string(e.Stdout) != "a\xff\n" || string(e.Stderr) != "ada\n" || e.Truncated {
		t.Errorf("the answer is %+v", e)
	}
	if len(e.Files) != 1 || e.Files[0].Filename != "d/x.txt" || e.Files[0].Path != "/workspace/d/x.txt" || e.Files[0].ExecutionID != e.ID {
		t.Fatalf("the files are %+v", e.Files)
	}
	if got := s.contents(t, e.Files[0].ID); got != "made\n" {
		t.Errorf("the file is %q", got)
	}
	record, err := s.service.Execution(s.ctx, e.ID)
	ok(t, err)
	if !bytes.Equal(record.Stdout, e.Stdout) || record.Status != e.Status || record.Metadata["job"] != "7" || len(record.Files) != 1 || record.EndedAt.IsZero() {
		t.Errorf("the record is %+v", record)
	}
	page, err := s.service.Executions(s.ctx, agentsandbox.ExecutionFilter{Page: agentsandbox.Page{Limit: 5}, Metadata: job, Status: agentsandbox.StatusFailed})
	ok(t, err)
	if page.Total != 1 || len(page.Executions) != 1 || page.Executions[0].ID != e.ID {
		t.Errorf("the list is %+v", page)
	}
}

func (s suite) contents(t *testing.T, id string) string {
	t.Helper()
	_, body, err := s.service.OpenFile(s.ctx, id)
	ok(t, err)
	defer body.Close()
	data, err := io.ReadAll(body)
	ok(t, err)
	return string(data)
}

func (s suite) sessions(t *testing.T) {
	in, err := s.service.UploadFile(s.ctx, agentsandbox.FileUpload{Filename: "in.txt"}, strings.NewReader("in"))
	ok(t, err)
	session, err := s.service.CreateSession(s.ctx, agentsandbox.SessionRequest{
		Env: map[string]string{"WHO": "ada"}, FileIDs: []string{in.ID}, TimeoutMS: 9000, Metadata: map[string]string{"job": "8"},
		IdleTimeoutMS: 60_000, MaxLifetimeMS: 3_600_000,
	})
	ok(t, err)
	if session.Status != agentsandbox.SessionLive || session.TimeoutMS != 9000 || session.IdleTimeoutMS != 60_000 || session.MaxLifetimeMS != 3_600_000 {
		t.Errorf("the session is %+v", session)
	}
	if e := s.bash(t, agentsandbox.ExecuteRequest{SessionID: session.ID, Code: `cat in.txt; echo " $WHO" | tee kept`}); string(e.Stdout) != "in ada\n" {
		t.Errorf("the first run printed %q, %q", e.Stdout, e.Stderr)
	}
	later, err := s.service.UploadFile(s.ctx, agentsandbox.FileUpload{Filename: "later.txt"}, strings.NewReader("later"))
	ok(t, err)
	ok(t, s.service.InjectFiles(s.ctx, session.ID, []string{later.ID}))
	if e := s.bash(t, agentsandbox.ExecuteRequest{SessionID: session.ID, Code: `cat kept later.txt`}); string(e.Stdout) != " ada\nlater" || e.SessionStatus != agentsandbox.SessionLive {
		t.Errorf("the second run printed %q, %q; the session is %s", e.Stdout, e.Stderr, e.SessionStatus)
	}
	kept, err := s.service.KeepSession(s.ctx, session.ID, 120_000)
	ok(t, err)
	if kept.IdleTimeoutMS != 120_000 {
		t.Errorf("kept for %d ms", kept.IdleTimeoutMS)
	}
	page, err := s.service.Sessions(s.ctx, agentsandbox.SessionFilter{Page: agentsandbox.Page{Limit: 5}, Metadata: map[string]string{"job": "8"}})
	ok(t, err)
	if page.Total != 1 || len(page.Sessions) != 1 || page.Sessions[0].ID != session.ID || page.Sessions[0].Metadata["job"] != "8" {
		t.Errorf("the list is %+v", page)
	}
	ok(t, s.service.DeleteSession(s.ctx, session.ID))
	if _, err := s.service.Session(s.ctx, session.ID); !errors.Is(err, agentsandbox.CodeSessionNotFound) {
		t.Errorf("after the deletion: %v", err)
	}
}

func (s suite) files(t *testing.T) {
	var ids []string
	for _, text := range []string{"one", "two", "three"} {
		f, err := s.service.UploadFile(s.ctx, agentsandbox.FileUpload{Filename: "dir/" + text + ".txt", MediaType: "text/plain"}, strings.NewReader(text))
		ok(t, err)
		if f.Filename != text+".txt" || f.SizeBytes != int64(len(text)) || len(f.SHA256) != 64 {
			t.Errorf("uploaded is %+v", f)
		}
		ids = append([]string{f.ID}, ids...)
	}
	var listed []string
	for offset := range ids {
		page, err := s.service.Files(s.ctx, agentsandbox.Page{Limit: 1, Offset: offset})
		ok(t, err)
		if len(page.Files) != 1 || page.Total < len(ids) {
			t.Fatalf("page %d is %+v", offset, page)
		}
		listed = append(listed, page.Files[0].ID)
	}
	if !slices.Equal(listed, ids) {
		t.Errorf("listed are %v, want %v", listed, ids)
	}
	if got := s.contents(t, ids[0]); got != "three" {
		t.Errorf("the newest is %q", got)
	}
	s.filesByCursor(t, ids)
	ok(t, s.service.DeleteFile(s.ctx, ids[0]))
	if _, err := s.service.File(s.ctx, ids[0]); !errors.Is(err, agentsandbox.CodeFileNotFound) {
		t.Errorf("after the deletion: %v", err)
	}
}

// filesByCursor adds and deletes newer files between pages.
func (s suite) filesByCursor(t *testing.T, ids []string) {
	first, err := s.service.Files(s.ctx, agentsandbox.Page{Limit: 1})
	ok(t, err)
	newer, err := s.service.UploadFile(s.ctx, agentsandbox.FileUpload{Filename: "newer"}, strings.NewReader("newer"))
	ok(t, err)
	page := agentsandbox.Page{Limit: 1, Cursor: first.NextCursor}
	second, err := s.service.Files(s.ctx, page)
	ok(t, err)
	if len(second.Files) != 1 || second.Files[0].ID != ids[1] {
		t.Errorf("beside a newer file, the cursor leads to %+v, want %s", second, ids[1])
	}
	ok(t, s.service.DeleteFile(s.ctx, newer.ID))
	second, err = s.service.Files(s.ctx, page)
	ok(t, err)
	if len(second.Files) != 1 || second.Files[0].ID != ids[1] || second.NextCursor == "" {
		t.Errorf("after a deletion, the cursor leads to %+v, want %s", second, ids[1])
	}
	_, err = s.service.Files(s.ctx, agentsandbox.Page{Limit: 1, Cursor: "forged"})
	var invalid *agentsandbox.Error
	if !errors.As(err, &invalid) || invalid.Code != agentsandbox.CodeInvalidRequest || len(invalid.Details) != 1 || invalid.Details[0].Field != "cursor" {
		t.Errorf("a forged cursor: %v", err)
	}
}

func (s suite) paths(t *testing.T) {
	session, err := s.service.CreateSession(s.ctx, agentsandbox.SessionRequest{})
	ok(t, err)
	defer func() { ok(t, s.service.DeleteSession(s.ctx, session.ID)) }()
	names := []string{"/workspace/a?b#c", "/workspace/ü\n", "/workspace/\xff"}
	slices.Sort(names)
	for _, name := range names {
		info, err := s.service.WritePath(s.ctx, session.ID, name, strings.NewReader(name))
		ok(t, err)
		if info.Path != name || info.Kind != agentsandbox.PathFile || info.SizeBytes != int64(len(name)) {
			t.Errorf("wrote %+v", info)
		}
		_, body, err := s.service.ReadPath(s.ctx, session.ID, name)
		ok(t, err)
		if data, err := io.ReadAll(body); err != nil || string(data) != name {
			t.Errorf("read %q, %v", data, err)
		}
		body.Close()
	}
	var listed []string
	for after := ""; ; {
		page, err := s.service.ListPath(s.ctx, session.ID, agentsandbox.Workspace, after, 2)
		ok(t, err)
		for _, entry := range page.Entries {
			listed = append(listed, entry.Path)
		}
		if after = page.Next; after == "" {
			break
		}
	}
	if !slices.Equal(listed, names) {
		t.Errorf("listed are %q, want %q", listed, names)
	}
	ok(t, s.service.RemovePath(s.ctx, session.ID, names[0]))
	if _, err := s.service.StatPath(s.ctx, session.ID, names[0]); !errors.Is(err, agentsandbox.CodePathNotFound) {
		t.Errorf("after the removal: %v", err)
	}
	if _, _, err := s.service.ReadPath(s.ctx, session.ID, agentsandbox.Workspace); !errors.Is(err, agentsandbox.CodeConflict) {
		t.Errorf("reading a directory: %v", err)
	}
}

func (s suite) keys(t *testing.T) {
	key, err := s.service.CreateKey(s.ctx, agentsandbox.KeyRequest{Name: "of the suite", Scopes: []agentsandbox.Scope{agentsandbox.ScopeRead}})
	ok(t, err)
	if !strings.HasPrefix(key.Value, agentsandbox.SecretPrefix) || key.Name != "of the suite" {
		t.Errorf("the key is %+v", key.Key)
	}
	page, err := s.service.Keys(s.ctx, agentsandbox.Page{Limit: 1})
	ok(t, err)
	if len(page.Keys) != 1 || page.Keys[0].ID != key.ID || !slices.Equal(page.Keys[0].Scopes, key.Scopes) {
		t.Errorf("the newest key is %+v", page.Keys)
	}
	ok(t, s.service.RevokeKey(s.ctx, key.ID))
}

func (s suite) refusals(t *testing.T) {
	run := func(req agentsandbox.ExecuteRequest) error { _, err := s.service.Execute(s.ctx, req); return err }
	session := func(req agentsandbox.SessionRequest) error {
		_, err := s.service.CreateSession(s.ctx, req)
		return err
	}
	page := func(p agentsandbox.Page) error { _, err := s.service.Files(s.ctx, p); return err }
	record := func(id string) error { _, err := s.service.Execution(s.ctx, id); return err }
	for name, test := range map[string]struct {
		err   error
		code  agentsandbox.Code
		field string
	}{
		"no code":             {run(agentsandbox.ExecuteRequest{Code: " "}), agentsandbox.CodeInvalidRequest, "code"},
		"an unknown language": {run(agentsandbox.ExecuteRequest{Code: "1", Language: "perl"}), agentsandbox.CodeInvalidRequest, "language"},
		"no such session":     {run(agentsandbox.ExecuteRequest{Code: "1", SessionID: "ses_none"}), agentsandbox.CodeSessionNotFound, ""},
		"no such file":        {run(agentsandbox.ExecuteRequest{Code: "1", FileIDs: []string{"fil_none"}}), agentsandbox.CodeFileNotFound, ""},
		"a name with =":       {session(agentsandbox.SessionRequest{Env: map[string]string{"A=": "1"}}), agentsandbox.CodeInvalidRequest, "env_vars"},
		"too much memory":     {session(agentsandbox.SessionRequest{MemoryMB: 1 << 40}), agentsandbox.CodeInvalidRequest, "memory_mb"},
		"too large a page":    {page(agentsandbox.Page{Limit: 101}), agentsandbox.CodeInvalidRequest, "limit"},
		"no such record":      {record("exe_none"), agentsandbox.CodeExecutionNotFound, ""},
		"no such key":         {s.service.RevokeKey(s.ctx, "key_none"), agentsandbox.CodeKeyNotFound, ""},
		"deleting nothing":    {s.service.DeleteFile(s.ctx, "fil_none"), agentsandbox.CodeFileNotFound, ""},
	} {
		var e *agentsandbox.Error
		if !errors.As(test.err, &e) || !errors.Is(test.err, test.code) {
			t.Errorf("%s: %v, want %s", name, test.err, test.code)
		} else if test.field != "" && (len(e.Details) == 0 || e.Details[0].Field != test.field) {
			t.Errorf("%s: the details are %+v, want the field %s", name, e.Details, test.field)
		}
	}
}

func (s suite) cancelling(t *testing.T) {
	session, err := s.service.CreateSession(s.ctx, agentsandbox.SessionRequest{})
	ok(t, err)
	ctx, cancel := context.WithCancel(s.ctx)
	ended := make(chan error, 1)
	go func() {
		_, err := s.service.Execute(ctx, agentsandbox.ExecuteRequest{Code: "sleep 60", Language: agentsandbox.Bash, SessionID: session.ID})
		ended <- err
	}()
	status := func() agentsandbox.Status {
		page, err := s.service.Executions(s.ctx, agentsandbox.ExecutionFilter{Page: agentsandbox.Page{Limit: 1}, SessionID: session.ID})
		ok(t, err)
		if len(page.Executions) == 0 {
			return ""
		}
		return page.Executions[0].Status
	}
	wait(t, "the run begins", func() bool { return status() == agentsandbox.StatusRunning })
	cancel()
	if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("the run returned %v", err)
	}
	wait(t, "the run is cancelled", func() bool { return status() == agentsandbox.StatusCancelled })
	ok(t, s.service.DeleteSession(s.ctx, session.ID))
}
