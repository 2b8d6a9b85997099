// Package clienttest is an [agentsandbox.Service] for the tests of what stands
// in front of one: the client, the command line. It runs nothing: executions are
// looked up in a table of programs, and the rest is kept in memory.
//
// It knows no tenants, and it fails as the interface says that a service does.
package clienttest

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

var _ agentsandbox.Service = (*Service)(nil)

// Epoch is when everything in a Service was made.
var Epoch = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

// Service keeps everything in memory. The zero value is empty and ready. It is
// safe for concurrent use; its fields are set before the first call.
type Service struct {
	// Programs are the outcomes of code: the execution whose Code is that of
	// the request. Other code is invalid.
	Programs []Program
	// Hold is sent the id of an execution of code "hang" once it has begun; it
	// then runs until its context ends.
	Hold chan<- string
	// Audit is the audit log, newest first.
	Audit []agentsandbox.AuditEntry

	mu         sync.Mutex
	requests   []any
	executions []agentsandbox.Execution
	sessions   []agentsandbox.Session
	ports      map[string][]agentsandbox.OpenPort // by session
	files      []agentsandbox.File
	contents   map[string][]byte
	paths      map[string]map[string][]byte // session, path
	keys       []agentsandbox.Key
}

// Program is code with its outcome, whose Files are stored with the contents
// given by their names.
type Program struct {
	Code     string
	Outcome  agentsandbox.Execution
	Contents map[string]string
}

// Requests returns the requests so far that have a struct of their own.
func (s *Service) Requests() []any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Execute answers with the outcome of a program.
func (s *Service) Execute(ctx context.Context, req agentsandbox.ExecuteRequest) (*agentsandbox.Execution, error) {
	if req.Code == "hang" && s.Hold != nil {
		s.Hold <- "hang"
		<-ctx.Done()
		return nil, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, req)
	if req.SessionID != "" {
		if _, err := s.session(req.SessionID); err != nil {
			return nil, err
		}
	}
	if err := s.haveFiles(req.FileIDs); err != nil {
		return nil, err
	}
	for _, p := range s.Programs {
		if p.Code == req.Code {
			return s.finish(req, p), nil
		}
	}
	return nil, agentsandbox.Invalid("code", "is no program of this test.")
}

func (s *Service) finish(req agentsandbox.ExecuteRequest, p Program) *agentsandbox.Execution {
	e := p.Outcome
	e.ID = agentsandbox.NewID(agentsandbox.ExecutionPrefix)
	e.Code, e.Language, e.SessionID = req.Code, req.Language, req.SessionID
	if e.Ephemeral = req.SessionID == ""; e.Ephemeral {
		e.SessionID = agentsandbox.NewID(agentsandbox.SessionPrefix)
	}
	e.Endpoint, e.Method, e.Meta, e.Metadata = req.Endpoint, req.Method, req.Meta, req.Metadata
	e.CreatedAt, e.EndedAt = Epoch, Epoch.Add(time.Duration(e.DurationMS)*time.Millisecond)
	e.StdoutBytes = max(e.StdoutBytes, int64(len(e.Stdout)))
	e.StderrBytes = max(e.StderrBytes, int64(len(e.Stderr)))
	e.Files = nil
	for _, f := range p.Outcome.Files {
		f.SessionID, f.ExecutionID = e.SessionID, e.ID
		e.Files = append(e.Files, s.store(f, []byte(p.Contents[f.Filename])))
	}
	s.executions = append([]agentsandbox.Execution{e}, s.executions...)
	return &e
}

// store keeps a file under a new id.
func (s *Service) store(f agentsandbox.File, data []byte) agentsandbox.File {
	f.ID = agentsandbox.NewID(agentsandbox.FilePrefix)
	f.SizeBytes, f.CreatedAt = int64(len(data)), Epoch
	f.MediaType = cmp.Or(f.MediaType, "application/octet-stream")
	if s.contents == nil {
		s.contents = make(map[string][]byte)
	}
	s.contents[f.ID] = data
	s.files = append([]agentsandbox.File{f}, s.files...)
	return f
}

// Execution returns a record.
func (s *Service) Execution(_ context.Context, id string) (*agentsandbox.Execution, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.executions {
		if e.ID == id {
			return &e, nil
		}
	}
	return nil, agentsandbox.Errorf(agentsandbox.CodeExecutionNotFound, "No execution %s exists.", id)
}

// Executions lists records, without code and output.
func (s *Service) Executions(_ context.Context, filter agentsandbox.ExecutionFilter) (*agentsandbox.ExecutionPage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, filter)
	var matching []agentsandbox.Execution
	for _, e := range s.executions {
		if (filter.SessionID == "" || e.SessionID == filter.SessionID) && (filter.Status == "" || e.Status == filter.Status) && hasAll(e.Metadata, filter.Metadata) {
			e.Code, e.Stdout, e.Stderr = "", nil, nil
			matching = append(matching, e)
		}
	}
	items, next, err := part(matching, filter.Page)
	if err != nil {
		return nil, err
	}
	return &agentsandbox.ExecutionPage{Executions: items, Total: len(matching), Page: filter.Page, NextCursor: next}, nil
}

// part is a page of a list, and the cursor of the next one: how many older items
// are left, which stays right when newer ones come and go.
func part[T any](all []T, p agentsandbox.Page) (items []T, next string, err error) {
	if err := p.Validate(); err != nil {
		return nil, "", err
	}
	from := min(p.Offset, len(all))
	if p.Cursor != "" {
		left, err := strconv.Atoi(p.Cursor)
		if err != nil || left < 0 {
			return nil, "", agentsandbox.Invalid("cursor", "must be a next_cursor of this list.")
		}
		from = max(0, len(all)-left)
	}
	to := min(from+p.Limit, len(all))
	if to < len(all) {
		next = strconv.Itoa(len(all) - to)
	}
	return slices.Clone(all[from:to]), next, nil
}

// CreateSession makes a session that only remembers.
func (s *Service) CreateSession(_ context.Context, req agentsandbox.SessionRequest) (*agentsandbox.Session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, req)
	if err := s.haveFiles(req.FileIDs); err != nil {
		return nil, err
	}
	session := agentsandbox.Session{
		ID: agentsandbox.NewID(agentsandbox.SessionPrefix), Status: agentsandbox.SessionLive, Template: cmp.Or(req.Template, "default"),
		Env: req.Env, Metadata: req.Metadata, TimeoutMS: cmp.Or(req.TimeoutMS, 100_000), MemoryMB: cmp.Or(req.MemoryMB, 2048),
		CPUs: cmp.Or(req.CPUs, 1), CreatedAt: Epoch,
		IdleTimeoutMS: cmp.Or(req.IdleTimeoutMS, 3_600_000), MaxLifetimeMS: cmp.Or(req.MaxLifetimeMS, 86_400_000), LastUsedAt: Epoch,
		Network: req.Network, Secrets: withoutValues(req.Secrets),
	}
	s.sessions = append([]agentsandbox.Session{session}, s.sessions...)
	if s.paths == nil {
		s.paths = make(map[string]map[string][]byte)
	}
	s.paths[session.ID] = make(map[string][]byte)
	return &session, nil
}

func (s *Service) session(id string) (*agentsandbox.Session, error) {
	for i := range s.sessions {
		if s.sessions[i].ID == id {
			return &s.sessions[i], nil
		}
	}
	return nil, agentsandbox.Errorf(agentsandbox.CodeSessionNotFound, "No session %s exists.", id)
}

// Session returns a session.
func (s *Service) Session(_ context.Context, id string) (*agentsandbox.Session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	session, err := s.session(id)
	if err != nil {
		return nil, err
	}
	shown := *session
	return &shown, nil
}

// Sessions lists sessions.
func (s *Service) Sessions(_ context.Context, filter agentsandbox.SessionFilter) (*agentsandbox.SessionPage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, filter)
	var matching []agentsandbox.Session
	for _, session := range s.sessions {
		if hasAll(session.Metadata, filter.Metadata) {
			matching = append(matching, session)
		}
	}
	items, next, err := part(matching, filter.Page)
	if err != nil {
		return nil, err
	}
	return &agentsandbox.SessionPage{Sessions: items, Total: len(matching), Page: filter.Page, NextCursor: next}, nil
}

func hasAll(metadata, wanted map[string]string) bool {
	for name, value := range wanted {
		if got, ok := metadata[name]; !ok || got != value {
			return false
		}
	}
	return true
}

// KeepSession remembers the idle time.
func (s *Service) KeepSession(_ context.Context, id string, idleTimeoutMS int64) (*agentsandbox.Session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	session, err := s.session(id)
	if err != nil {
		return nil, err
	}
	session.IdleTimeoutMS = cmp.Or(idleTimeoutMS, session.IdleTimeoutMS)
	shown := *session
	return &shown, nil
}

// AuditLog lists Audit.
func (s *Service) AuditLog(_ context.Context, page agentsandbox.Page) (*agentsandbox.AuditPage, error) {
	items, next, err := part(s.Audit, page)
	if err != nil {
		return nil, err
	}
	return &agentsandbox.AuditPage{Entries: items, Total: len(s.Audit), Page: page, NextCursor: next}, nil
}

// DeleteSession forgets a session.
func (s *Service) DeleteSession(_ context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.session(id); err != nil {
		return err
	}
	s.sessions = slices.DeleteFunc(s.sessions, func(x agentsandbox.Session) bool { return x.ID == id })
	delete(s.paths, id)
	return nil
}

// InjectFiles copies files to the workspace.
func (s *Service) InjectFiles(_ context.Context, sessionID string, fileIDs []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.session(sessionID); err != nil {
		return err
	}
	if err := s.haveFiles(fileIDs); err != nil {
		return err
	}
	for _, f := range s.files {
		if slices.Contains(fileIDs, f.ID) {
			s.paths[sessionID][path.Join(agentsandbox.Workspace, f.Filename)] = s.contents[f.ID]
		}
	}
	return nil
}

func (s *Service) haveFiles(ids []string) error {
	for _, id := range ids {
		if _, ok := s.contents[id]; !ok {
			return noFile(id)
		}
	}
	return nil
}

func noFile(id string) error {
	return agentsandbox.Errorf(agentsandbox.CodeFileNotFound, "No file %s exists.", id)
}

// UploadFile keeps a file.
func (s *Service) UploadFile(_ context.Context, upload agentsandbox.FileUpload, body io.Reader) (*agentsandbox.File, error) {
	data, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, upload)
	if upload.SessionID != "" {
		if _, err := s.session(upload.SessionID); err != nil {
			return nil, err
		}
		s.paths[upload.SessionID][path.Join(agentsandbox.Workspace, upload.Filename)] = data
	}
	f := s.store(agentsandbox.File{Filename: upload.Filename, MediaType: upload.MediaType, SessionID: upload.SessionID}, data)
	return &f, nil
}

// File returns what is known of a file.
func (s *Service) File(_ context.Context, id string) (*agentsandbox.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.files {
		if f.ID == id {
			return &f, nil
		}
	}
	return nil, noFile(id)
}

// seekable is contents as the real service has them.
type seekable struct{ *bytes.Reader }

func (seekable) Close() error { return nil }

// OpenFile opens contents.
func (s *Service) OpenFile(ctx context.Context, id string) (*agentsandbox.File, io.ReadCloser, error) {
	f, err := s.File(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return f, seekable{bytes.NewReader(s.contents[id])}, nil
}

// Files lists files.
func (s *Service) Files(_ context.Context, page agentsandbox.Page) (*agentsandbox.FilePage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	items, next, err := part(s.files, page)
	if err != nil {
		return nil, err
	}
	return &agentsandbox.FilePage{Files: items, Total: len(s.files), Page: page, NextCursor: next}, nil
}

// DeleteFile forgets a file.
func (s *Service) DeleteFile(_ context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.contents[id]; !ok {
		return noFile(id)
	}
	delete(s.contents, id)
	s.files = slices.DeleteFunc(s.files, func(f agentsandbox.File) bool { return f.ID == id })
	return nil
}

func noPath(p string) error {
	return agentsandbox.Errorf(agentsandbox.CodePathNotFound, "Nothing is at %s.", p)
}

func infoOf(p string, data []byte) *agentsandbox.PathInfo {
	return &agentsandbox.PathInfo{Path: p, Kind: agentsandbox.PathFile, SizeBytes: int64(len(data)), Mode: 0o644, ModifiedAt: Epoch}
}

// ReadPath opens a file of a session.
func (s *Service) ReadPath(_ context.Context, sessionID, p string) (*agentsandbox.PathInfo, io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.session(sessionID); err != nil {
		return nil, nil, err
	}
	data, ok := s.paths[sessionID][p]
	if !ok {
		return nil, nil, noPath(p)
	}
	return infoOf(p, data), seekable{bytes.NewReader(data)}, nil
}

// WritePath keeps a file of a session.
func (s *Service) WritePath(_ context.Context, sessionID, p string, body io.Reader) (*agentsandbox.PathInfo, error) {
	data, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.session(sessionID); err != nil {
		return nil, err
	}
	s.paths[sessionID][p] = data
	return infoOf(p, data), nil
}

// StatPath says what is at a path.
func (s *Service) StatPath(ctx context.Context, sessionID, p string) (*agentsandbox.PathInfo, error) {
	info, _, err := s.ReadPath(ctx, sessionID, p)
	return info, err
}

// ListPath lists the files below a path, without their directories.
func (s *Service) ListPath(_ context.Context, sessionID, p, after string, limit int) (*agentsandbox.PathPage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.session(sessionID); err != nil {
		return nil, err
	}
	page := &agentsandbox.PathPage{}
	for _, name := range slices.Sorted(maps.Keys(s.paths[sessionID])) {
		rest, ok := strings.CutPrefix(name, p+"/")
		if !ok || rest <= after {
			continue
		}
		if len(page.Entries) == limit {
			page.Next = path.Base(page.Entries[limit-1].Path)
			break
		}
		page.Entries = append(page.Entries, *infoOf(name, s.paths[sessionID][name]))
	}
	return page, nil
}

// RemovePath forgets a file of a session.
func (s *Service) RemovePath(_ context.Context, sessionID, p string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.session(sessionID); err != nil {
		return err
	}
	if _, ok := s.paths[sessionID][p]; !ok {
		return noPath(p)
	}
	delete(s.paths[sessionID], p)
	return nil
}

// CreateKey makes a key that opens nothing.
func (s *Service) CreateKey(_ context.Context, req agentsandbox.KeyRequest) (*agentsandbox.NewKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, req)
	value := agentsandbox.NewSecret()
	key := agentsandbox.Key{
		ID: agentsandbox.NewID(agentsandbox.KeyPrefix), Tenant: cmp.Or(req.Tenant, "main"), Name: req.Name, Hint: value[:9],
		Scopes: req.Scopes, CreatedAt: Epoch, ExpiresAt: req.ExpiresAt,
	}
	s.keys = append([]agentsandbox.Key{key}, s.keys...)
	return &agentsandbox.NewKey{Key: key, Value: value}, nil
}

// Keys lists keys.
func (s *Service) Keys(_ context.Context, page agentsandbox.Page) (*agentsandbox.KeyPage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	items, next, err := part(s.keys, page)
	if err != nil {
		return nil, err
	}
	return &agentsandbox.KeyPage{Keys: items, Total: len(s.keys), Page: page, NextCursor: next}, nil
}

// RevokeKey marks a key as revoked.
func (s *Service) RevokeKey(_ context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.keys {
		if s.keys[i].ID == id {
			s.keys[i].RevokedAt = Epoch
			return nil
		}
	}
	return agentsandbox.Errorf(agentsandbox.CodeKeyNotFound, "No key %s exists.", id)
}
