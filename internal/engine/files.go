package engine

import (
	"context"
	"io"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// UploadFile implements agentsandbox.FileService.
func (e *Engine) UploadFile(ctx context.Context, upload agentsandbox.FileUpload, body io.Reader) (*agentsandbox.File, error) {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, err
	}
	f, err := e.NewUpload(p, upload)
	if err != nil {
		return nil, err
	}
	if upload.SessionID != "" {
		err = e.Use(ctx, upload.SessionID, "uploadFile", func(ctx context.Context, sb runtime.Sandbox) error {
			return e.Keep(ctx, &f, body, sb)
		})
	} else {
		var done func()
		if ctx, done, err = e.work.Begin(ctx, "uploadFile"); err != nil {
			return nil, err
		}
		defer done()
		err = e.work.Explain(e.Keep(ctx, &f, body, nil))
	}
	if err != nil {
		return nil, err
	}
	return &f, nil
}
