package engine

import (
	"context"
	"errors"
	"io"
	"strconv"
	"sync"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// maxListLimit bounds one page of a directory.
const maxListLimit = 1000

// enter finds the session, checks the path and registers the work. The function
// returned ends all of that.
func (e *Engine) enter(ctx context.Context, sessionID, p string) (context.Context, *session, string, func(), error) {
	who, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, nil, "", nil, err
	}
	clean, err := agentsandbox.CleanPath(p)
	if err != nil {
		return nil, nil, "", nil, err
	}
	ctx, done, err := e.begin(ctx)
	if err != nil {
		return nil, nil, "", nil, err
	}
	s, release, err := e.acquire(ctx, who.Tenant, sessionID)
	if err != nil {
		done()
		return nil, nil, "", nil, err
	}
	ctx, stop := s.context(ctx)
	return ctx, s, clean, sync.OnceFunc(func() {
		stop()
		release()
		done()
	}), nil
}

// ReadPath implements agentsandbox.Service.
func (e *Engine) ReadPath(ctx context.Context, sessionID, p string) (*agentsandbox.PathInfo, io.ReadCloser, error) {
	ctx, s, p, leave, err := e.enter(ctx, sessionID, p)
	if err != nil {
		return nil, nil, err
	}
	info, r, err := s.sandbox.ReadFile(ctx, p)
	if err != nil {
		leave()
		return nil, nil, s.explain(guestError(err, p))
	}
	return &info, &leavingReader{ReadCloser: r, leave: leave}, nil
}

// leavingReader holds its session until it is closed.
type leavingReader struct {
	io.ReadCloser
	leave func()
}

func (r *leavingReader) Close() error {
	defer r.leave()
	return r.ReadCloser.Close()
}

// WritePath implements agentsandbox.Service.
func (e *Engine) WritePath(ctx context.Context, sessionID, p string, body io.Reader) (*agentsandbox.PathInfo, error) {
	ctx, s, p, leave, err := e.enter(ctx, sessionID, p)
	if err != nil {
		return nil, err
	}
	defer leave()
	info, err := s.sandbox.WriteFile(ctx, p, body)
	if err != nil {
		return nil, s.explain(guestError(err, p))
	}
	return &info, nil
}

// StatPath implements agentsandbox.Service.
func (e *Engine) StatPath(ctx context.Context, sessionID, p string) (*agentsandbox.PathInfo, error) {
	ctx, s, p, leave, err := e.enter(ctx, sessionID, p)
	if err != nil {
		return nil, err
	}
	defer leave()
	info, err := s.sandbox.Stat(ctx, p)
	if err != nil {
		return nil, s.explain(guestError(err, p))
	}
	return &info, nil
}

// ListPath implements agentsandbox.Service.
func (e *Engine) ListPath(ctx context.Context, sessionID, p, after string, limit int) (*agentsandbox.PathPage, error) {
	if limit < 1 || limit > maxListLimit {
		return nil, agentsandbox.Invalid("limit", "must be from 1 to %d, not %d.", maxListLimit, limit)
	}
	ctx, s, p, leave, err := e.enter(ctx, sessionID, p)
	if err != nil {
		return nil, err
	}
	defer leave()
	page, err := s.sandbox.List(ctx, p, after, limit)
	if err != nil {
		return nil, s.explain(guestError(err, p))
	}
	return &page, nil
}

// RemovePath implements agentsandbox.Service.
func (e *Engine) RemovePath(ctx context.Context, sessionID, p string) error {
	ctx, s, p, leave, err := e.enter(ctx, sessionID, p)
	if err != nil {
		return err
	}
	defer leave()
	return s.explain(guestError(s.sandbox.Remove(ctx, p), p))
}

// guestError turns an error of a sandbox into one for the caller.
func guestError(err error, p string) error {
	code, message := agentsandbox.Code(""), ""
	switch {
	case err == nil:
		return nil
	case errors.Is(err, runtime.ErrSandboxLost):
		code, message = agentsandbox.CodeUnavailable, "The sandbox died. Create a new session."
	case errors.Is(err, runtime.ErrNotExist):
		code, message = agentsandbox.CodePathNotFound, "Nothing is at "+quote(p)+" in the sandbox."
	case errors.Is(err, runtime.ErrPermission):
		code, message = agentsandbox.CodeForbidden, "The user of the sandbox has no right to "+quote(p)+"."
	case errors.Is(err, runtime.ErrNotRegular):
		code, message = agentsandbox.CodeConflict, quote(p)+" is not of the kind that this needs: a link, a directory, a FIFO, a socket or a device is never followed or read."
	case errors.Is(err, runtime.ErrNoSpace):
		code, message = agentsandbox.CodeStorageFull, "The disk of the sandbox is full. Remove files in it, or use a new session."
	case errors.Is(err, runtime.ErrInvalid):
		code, message = agentsandbox.CodeInvalidRequest, "path: "+quote(p)+" cannot be used."
	default:
		return err
	}
	told := &agentsandbox.Error{Code: code, Message: message, Err: err}
	if code == agentsandbox.CodeInvalidRequest {
		told.Details = []agentsandbox.Detail{{Field: "path", Message: "cannot be used."}}
	}
	return told
}

func quote(s string) string { return strconv.Quote(s) }

// quoteID shows an id that a caller sent: as it is if it is plain.
func quoteID(id string) string {
	for _, c := range id {
		if c != '_' && c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return strconv.Quote(id)
		}
	}
	return id
}
