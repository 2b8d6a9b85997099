package sessions

import (
	"context"
	"errors"
	"io"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/engine/supply"
	"github.com/agentsandbox/agentsandbox/internal/engine/work"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// maxListLimit bounds one page of a directory.
const maxListLimit = 1000

// atPath does a piece of work at a path of a session.
func (r *Registry) atPath(ctx context.Context, sessionID, p, name string, work func(ctx context.Context, sb runtime.Sandbox, p string) error) error {
	clean, err := agentsandbox.CleanPath(p)
	if err != nil {
		return err
	}
	return r.inSession(ctx, sessionID, name, func(ctx context.Context, s *session) error {
		return supply.Explain(work(ctx, s.sandbox, clean), clean)
	})
}

// ReadPath implements agentsandbox.SessionService. The reader fails when the session
// ends, which does not wait for whoever reads.
func (r *Registry) ReadPath(ctx context.Context, sessionID, p string) (*agentsandbox.PathInfo, io.ReadCloser, error) {
	p, err := agentsandbox.CleanPath(p)
	if err != nil {
		return nil, nil, err
	}
	ctx, v, err := r.enter(ctx, sessionID, "readPath")
	if err != nil {
		return nil, nil, err
	}
	info, content, err := v.sandbox.ReadFile(ctx, p)
	if err != nil {
		v.Leave()
		return nil, nil, v.Explain(supply.Explain(err, p))
	}
	context.AfterFunc(ctx, v.Leave)
	return &info, &visitingReader{content, v}, nil
}

// visitingReader keeps its session in use until it is closed, or the session ends.
type visitingReader struct {
	io.ReadCloser
	visit *Visit
}

func (r *visitingReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = r.visit.Explain(err)
	}
	return n, err
}

func (r *visitingReader) Close() error {
	defer r.visit.Leave()
	return r.ReadCloser.Close()
}

// WritePath implements agentsandbox.SessionService.
func (r *Registry) WritePath(ctx context.Context, sessionID, p string, body io.Reader) (*agentsandbox.PathInfo, error) {
	var info agentsandbox.PathInfo
	err := r.atPath(ctx, sessionID, p, "writePath", func(ctx context.Context, sb runtime.Sandbox, p string) (err error) {
		body, stop := work.BodyWithin(ctx, body)
		defer stop()
		info, err = sb.WriteFile(ctx, p, body)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &info, nil
}

// StatPath implements agentsandbox.SessionService.
func (r *Registry) StatPath(ctx context.Context, sessionID, p string) (*agentsandbox.PathInfo, error) {
	var info agentsandbox.PathInfo
	err := r.atPath(ctx, sessionID, p, "statPath", func(ctx context.Context, sb runtime.Sandbox, p string) (err error) {
		info, err = sb.Stat(ctx, p)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &info, nil
}

// ListPath implements agentsandbox.SessionService.
func (r *Registry) ListPath(ctx context.Context, sessionID, p, after string, limit int) (*agentsandbox.PathPage, error) {
	if limit < 1 || limit > maxListLimit {
		return nil, agentsandbox.Invalid("limit", "must be from 1 to %d, not %d.", maxListLimit, limit)
	}
	var page agentsandbox.PathPage
	err := r.atPath(ctx, sessionID, p, "listPath", func(ctx context.Context, sb runtime.Sandbox, p string) (err error) {
		page, err = sb.List(ctx, p, after, limit)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &page, nil
}

// RemovePath implements agentsandbox.SessionService.
func (r *Registry) RemovePath(ctx context.Context, sessionID, p string) error {
	return r.atPath(ctx, sessionID, p, "removePath", func(ctx context.Context, sb runtime.Sandbox, p string) error {
		return sb.Remove(ctx, p)
	})
}

// InjectFiles implements agentsandbox.SessionService.
func (r *Registry) InjectFiles(ctx context.Context, sessionID string, fileIDs []string) error {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return err
	}
	if len(fileIDs) == 0 {
		return agentsandbox.Invalid("file_ids", "must name at least one file.")
	}
	if err := agentsandbox.ValidateFileIDs(fileIDs); err != nil {
		return err
	}
	return r.inSession(ctx, sessionID, "injectFiles", func(ctx context.Context, s *session) error {
		defer r.files.Pin(fileIDs)()
		files, err := r.files.Find(ctx, p.Tenant, fileIDs)
		if err != nil {
			return err
		}
		return r.files.Inject(ctx, s.sandbox, files)
	})
}
