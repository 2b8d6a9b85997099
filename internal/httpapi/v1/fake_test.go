package v1

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

// fake is a Service in memory. Ids and times are fixed, so that examples can be
// compared whole. It runs no code: the output is the code.
type fake struct {
	mu         sync.Mutex
	executions []agentsandbox.Execution // oldest first, as all lists here
	names      []string                 // in every directory; nil: some
	sessions   []agentsandbox.Session
	ports      map[string][]agentsandbox.OpenPort // by session
	files      []agentsandbox.File
	contents   map[string][]byte
	keys       []agentsandbox.Key
	paths      map[string][]byte // by session id and path
	counter    int
	audited    []agentsandbox.AuditEntry
	auditError error

	fail      error // what every method answers with, if set
	onExecute func(ctx context.Context, req agentsandbox.ExecuteRequest) (*agentsandbox.Execution, error)
	onPage    func(page agentsandbox.Page) // before a page of sessions
	open      func(f agentsandbox.File, b []byte) io.ReadCloser
	runs      map[string]agentsandbox.Execution // what known code does
	requests  []agentsandbox.ExecuteRequest
	principal agentsandbox.Principal // of the last call
	dialled   func(ctx context.Context) (net.Conn, error)
}

var fakeTime = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

func newFake() *fake {
	return &fake{contents: map[string][]byte{}, paths: map[string][]byte{}, ports: map[string][]agentsandbox.OpenPort{}}
}

// enter is the start of every method.
func (f *fake) enter(ctx context.Context) (unlock func(), err error) {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	if f.fail != nil {
		f.mu.Unlock()
		return nil, f.fail
	}
	f.principal = p
	return f.mu.Unlock, nil
}

func (f *fake) id(prefix string) string {
	f.counter++
	return fmt.Sprintf("%s%026d", prefix, f.counter)
}

func (f *fake) Execute(ctx context.Context, req agentsandbox.ExecuteRequest) (*agentsandbox.Execution, error) {
	unlock, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	f.requests = append(f.requests, req)
	if f.onExecute != nil {
		unlock()
		return f.onExecute(ctx, req)
	}
	defer unlock()
	session := req.SessionID
	if session == "" {
		session = f.id(agentsandbox.SessionPrefix)
	} else if !slices.ContainsFunc(f.sessions, func(s agentsandbox.Session) bool { return s.ID == session }) {
		return nil, agentsandbox.Errorf(agentsandbox.CodeSessionNotFound, "No session %s exists.", session)
	}
	for _, id := range req.FileIDs {
		if _, ok := f.contents[id]; !ok {
			return nil, agentsandbox.Errorf(agentsandbox.CodeFileNotFound, "No file %s exists.", id)
		}
	}
	e := agentsandbox.Execution{
		ID: f.id(agentsandbox.ExecutionPrefix), SessionID: session, Ephemeral: req.SessionID == "",
		Language: req.Language, Code: req.Code, Status: agentsandbox.StatusSucceeded,
		Stdout: []byte(req.Code + "\n"), StdoutBytes: int64(len(req.Code)) + 1, DurationMS: 12, CPUMS: 8,
		MemoryPeakBytes: 24 << 20, Metadata: req.Metadata,
		Endpoint: req.Endpoint, Method: req.Method, Meta: req.Meta, HTTPStatus: 200,
		CreatedAt: fakeTime, EndedAt: fakeTime.Add(12 * time.Millisecond),
	}
	if req.SessionID != "" {
		e.SessionStatus = agentsandbox.SessionLive
	}
	f.run(&e)
	f.executions = append(f.executions, e)
	return &e, nil
}

func (f *fake) Execution(ctx context.Context, id string) (*agentsandbox.Execution, error) {
	unlock, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	for _, e := range f.executions {
		if e.ID == id {
			return &e, nil
		}
	}
	return nil, agentsandbox.Errorf(agentsandbox.CodeExecutionNotFound, "No execution %s exists.", id)
}

func (f *fake) Executions(ctx context.Context, filter agentsandbox.ExecutionFilter) (*agentsandbox.ExecutionPage, error) {
	unlock, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	var all []agentsandbox.Execution
	for _, e := range f.executions {
		if (filter.SessionID == "" || e.SessionID == filter.SessionID) && (filter.Status == "" || e.Status == filter.Status) && hasAll(e.Metadata, filter.Metadata) {
			all = append(all, e)
		}
	}
	items, next := pageOf(all, filter.Page)
	return &agentsandbox.ExecutionPage{Executions: items, Total: len(all), Page: filter.Page, NextCursor: next}, nil
}

func (f *fake) CreateSession(ctx context.Context, req agentsandbox.SessionRequest) (*agentsandbox.Session, error) {
	unlock, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	s := agentsandbox.Session{
		ID: f.id(agentsandbox.SessionPrefix), Status: agentsandbox.SessionLive, Template: "default", Env: req.Env,
		Metadata: req.Metadata, TimeoutMS: max(req.TimeoutMS, 100_000), MemoryMB: 1024, CPUs: 1, CreatedAt: fakeTime,
		RunLimits:     agentsandbox.RunLimits{Processes: max(req.Processes, 256), OpenFiles: max(req.OpenFiles, 16384), OutputBytes: max(req.OutputBytes, 10<<20)},
		DiskLimits:    agentsandbox.DiskLimits{DiskMB: max(req.DiskMB, 1024), Inodes: max(req.Inodes, 262_144)},
		IdleTimeoutMS: max(req.IdleTimeoutMS, 3_600_000), MaxLifetimeMS: max(req.MaxLifetimeMS, 86_400_000), LastUsedAt: fakeTime,
		Network: &agentsandbox.NetworkPolicy{Mode: agentsandbox.NetworkPublic}, Secrets: req.Secrets,
	}
	if req.Network != nil {
		s.Network = req.Network
	}
	f.sessions = append(f.sessions, s)
	return &s, nil
}

func (f *fake) session(id string) (*agentsandbox.Session, error) {
	for i := range f.sessions {
		if f.sessions[i].ID == id {
			return &f.sessions[i], nil
		}
	}
	return nil, agentsandbox.Errorf(agentsandbox.CodeSessionNotFound, "No session %s exists.", id)
}

func (f *fake) Session(ctx context.Context, id string) (*agentsandbox.Session, error) {
	unlock, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return f.session(id)
}

func (f *fake) Sessions(ctx context.Context, filter agentsandbox.SessionFilter) (*agentsandbox.SessionPage, error) {
	page := filter.Page
	if f.onPage != nil {
		f.onPage(page)
	}
	unlock, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	var all []agentsandbox.Session
	for _, s := range f.sessions {
		if hasAll(s.Metadata, filter.Metadata) {
			all = append(all, s)
		}
	}
	items, next := pageOf(all, page)
	return &agentsandbox.SessionPage{Sessions: items, Total: len(all), Page: page, NextCursor: next}, nil
}

func hasAll(metadata, wanted map[string]string) bool {
	for name, value := range wanted {
		if got, ok := metadata[name]; !ok || got != value {
			return false
		}
	}
	return true
}

func (f *fake) KeepSession(ctx context.Context, id string, idleTimeoutMS int64) (*agentsandbox.Session, error) {
	unlock, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	s, err := f.session(id)
	if err != nil {
		return nil, err
	}
	if idleTimeoutMS > 0 {
		s.IdleTimeoutMS = idleTimeoutMS
	}
	return s, nil
}

func (f *fake) AuditLog(ctx context.Context, page agentsandbox.Page) (*agentsandbox.AuditPage, error) {
	unlock, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	items, next := pageOf(f.audited, page)
	return &agentsandbox.AuditPage{Entries: items, Total: len(f.audited), Page: page, NextCursor: next}, nil
}

func (f *fake) DeleteSession(ctx context.Context, id string) error {
	unlock, err := f.enter(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := f.session(id); err != nil {
		return err
	}
	f.sessions = slices.DeleteFunc(f.sessions, func(s agentsandbox.Session) bool { return s.ID == id })
	return nil
}

func (f *fake) InjectFiles(ctx context.Context, sessionID string, fileIDs []string) error {
	unlock, err := f.enter(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := f.session(sessionID); err != nil {
		return err
	}
	for _, id := range fileIDs {
		if _, ok := f.contents[id]; !ok {
			return agentsandbox.Errorf(agentsandbox.CodeFileNotFound, "No file %s exists.", id)
		}
	}
	return nil
}

func (f *fake) UploadFile(ctx context.Context, up agentsandbox.FileUpload, body io.Reader) (*agentsandbox.File, error) {
	unlock, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	b, err := io.ReadAll(body)
	if err != nil {
		return nil, fmt.Errorf("store the upload: %w", err)
	}
	if up.MediaType == "" {
		up.MediaType = "text/csv"
	}
	sum := sha256.Sum256(b)
	file := agentsandbox.File{
		ID: f.id(agentsandbox.FilePrefix), Filename: up.Filename, MediaType: up.MediaType, SizeBytes: int64(len(b)),
		SHA256: hex.EncodeToString(sum[:]), SessionID: up.SessionID, CreatedAt: fakeTime,
	}
	f.files = append(f.files, file)
	f.contents[file.ID] = b
	return &file, nil
}

func (f *fake) file(id string) (*agentsandbox.File, error) {
	for _, file := range f.files {
		if file.ID == id {
			return &file, nil
		}
	}
	return nil, agentsandbox.Errorf(agentsandbox.CodeFileNotFound, "No file %s exists.", id)
}

func (f *fake) File(ctx context.Context, id string) (*agentsandbox.File, error) {
	unlock, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return f.file(id)
}

// seekable is how the blob store opens contents.
type seekable struct{ *bytes.Reader }

func (seekable) Close() error { return nil }

func (f *fake) OpenFile(ctx context.Context, id string) (*agentsandbox.File, io.ReadCloser, error) {
	unlock, err := f.enter(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	file, err := f.file(id)
	if err != nil {
		return nil, nil, err
	}
	if f.open != nil {
		return file, f.open(*file, f.contents[id]), nil
	}
	return file, seekable{bytes.NewReader(f.contents[id])}, nil
}

func (f *fake) Files(ctx context.Context, page agentsandbox.Page) (*agentsandbox.FilePage, error) {
	unlock, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	items, next := pageOf(f.files, page)
	return &agentsandbox.FilePage{Files: items, Total: len(f.files), Page: page, NextCursor: next}, nil
}

func (f *fake) DeleteFile(ctx context.Context, id string) error {
	unlock, err := f.enter(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := f.file(id); err != nil {
		return err
	}
	f.files = slices.DeleteFunc(f.files, func(file agentsandbox.File) bool { return file.ID == id })
	delete(f.contents, id)
	return nil
}

func (f *fake) path(sessionID, path string) (*agentsandbox.PathInfo, []byte, error) {
	if _, err := f.session(sessionID); err != nil {
		return nil, nil, err
	}
	b, ok := f.paths[sessionID+path]
	if !ok {
		return nil, nil, agentsandbox.Errorf(agentsandbox.CodePathNotFound, "There is no %s.", path)
	}
	return &agentsandbox.PathInfo{Path: path, Kind: agentsandbox.PathFile, SizeBytes: int64(len(b)), Mode: 0o644, ModifiedAt: fakeTime}, b, nil
}

func (f *fake) ReadPath(ctx context.Context, sessionID, path string) (*agentsandbox.PathInfo, io.ReadCloser, error) {
	unlock, err := f.enter(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	info, b, err := f.path(sessionID, path)
	if err != nil {
		return nil, nil, err
	}
	if f.open != nil {
		return info, f.open(agentsandbox.File{}, b), nil
	}
	return info, io.NopCloser(bytes.NewBuffer(b)), nil
}

func (f *fake) WritePath(ctx context.Context, sessionID, path string, body io.Reader) (*agentsandbox.PathInfo, error) {
	unlock, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := f.session(sessionID); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(body)
	if err != nil {
		return nil, errors.New("the guest hung up") // the cause is lost on the way
	}
	f.paths[sessionID+path] = b
	info, _, err := f.path(sessionID, path)
	return info, err
}

func (f *fake) StatPath(ctx context.Context, sessionID, path string) (*agentsandbox.PathInfo, error) {
	unlock, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	info, _, err := f.path(sessionID, path)
	return info, err
}

func (f *fake) ListPath(ctx context.Context, sessionID, path, after string, limit int) (*agentsandbox.PathPage, error) {
	unlock, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := f.session(sessionID); err != nil {
		return nil, err
	}
	page := &agentsandbox.PathPage{}
	names := f.names
	if names == nil {
		names = []string{"a.txt", "b\xff.txt", "c.txt"}
	}
	for _, name := range names {
		if name <= after {
			continue
		}
		if len(page.Entries) == limit {
			break
		}
		page.Entries = append(page.Entries, agentsandbox.PathInfo{
			Path: path + "/" + name, Kind: agentsandbox.PathSymlink, Target: "/etc/shadow", Mode: 0o777, ModifiedAt: fakeTime,
		})
		page.Next = name
	}
	if page.Next == names[len(names)-1] {
		page.Next = ""
	}
	return page, nil
}

func (f *fake) RemovePath(ctx context.Context, sessionID, path string) error {
	unlock, err := f.enter(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if _, _, err := f.path(sessionID, path); err != nil {
		return err
	}
	delete(f.paths, sessionID+path)
	return nil
}

func (f *fake) CreateKey(ctx context.Context, req agentsandbox.KeyRequest) (*agentsandbox.NewKey, error) {
	unlock, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	k := agentsandbox.Key{
		ID: f.id(agentsandbox.KeyPrefix), Tenant: "acme", Name: req.Name, Hint: "asbx_abcd", Scopes: req.Scopes,
		CreatedAt: fakeTime, ExpiresAt: req.ExpiresAt,
	}
	f.keys = append(f.keys, k)
	return &agentsandbox.NewKey{Key: k, Value: "asbx_abcdefghijklmnopqrstuvwxyz234567abcdefgh"}, nil
}

func (f *fake) Keys(ctx context.Context, page agentsandbox.Page) (*agentsandbox.KeyPage, error) {
	unlock, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	items, next := pageOf(f.keys, page)
	return &agentsandbox.KeyPage{Keys: items, Total: len(f.keys), Page: page, NextCursor: next}, nil
}

func (f *fake) RevokeKey(ctx context.Context, id string) error {
	unlock, err := f.enter(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	for i := range f.keys {
		if f.keys[i].ID == id {
			f.keys[i].RevokedAt = fakeTime
			return nil
		}
	}
	return agentsandbox.Errorf(agentsandbox.CodeKeyNotFound, "No key %s exists.", id)
}

// pageOf is a page, newest first, of a list that is oldest first, and the cursor
// of the next page: how many items are older.
func pageOf[T any](all []T, page agentsandbox.Page) (items []T, next string) {
	newest := slices.Clone(all)
	slices.Reverse(newest)
	from := min(page.Offset, len(newest))
	if left, err := strconv.Atoi(page.Cursor); err == nil {
		from = max(0, len(newest)-left)
	}
	to := min(from+page.Limit, len(newest))
	if to < len(newest) {
		next = strconv.Itoa(len(newest) - to)
	}
	return newest[from:to], next
}
