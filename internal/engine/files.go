package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"mime"
	"path"
	"strings"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/cursor"
	"github.com/agentsandbox/agentsandbox/internal/engine/supply"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

const unknownMediaType = "application/octet-stream"

// UploadFile implements agentsandbox.Service.
func (e *Engine) UploadFile(ctx context.Context, upload agentsandbox.FileUpload, body io.Reader) (*agentsandbox.File, error) {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, err
	}
	name, err := upload.Name()
	if err != nil {
		return nil, err
	}
	f := agentsandbox.File{
		ID: agentsandbox.NewID(agentsandbox.FilePrefix), Tenant: p.Tenant, Filename: name,
		MediaType: mediaType(upload.MediaType, name), SessionID: upload.SessionID, CreatedAt: e.now(),
	}
	if upload.Path != "" {
		f.Path = path.Join(agentsandbox.Workspace, name)
	}
	if upload.SessionID != "" {
		err = e.inSession(ctx, upload.SessionID, "uploadFile", func(ctx context.Context, s *session) error {
			return e.keepUpload(ctx, &f, body, s)
		})
	} else {
		var done func()
		if ctx, done, err = e.work.Begin(ctx, "uploadFile"); err != nil {
			return nil, err
		}
		defer done()
		err = e.work.Explain(e.keepUpload(ctx, &f, body, nil))
	}
	if err != nil {
		return nil, err
	}
	return &f, nil
}

// keepUpload stores a file, and copies it into a session if one is given.
func (e *Engine) keepUpload(ctx context.Context, f *agentsandbox.File, body io.Reader, target *session) error {
	limit, full, err := e.quotas.UploadLimit(ctx, f.Tenant, e.limits.UploadBytes)
	if err != nil {
		return err
	}
	body, stop := bodyWithin(ctx, body)
	defer stop()
	if err := e.putBlob(ctx, f, body, limit); err != nil {
		if full != nil && agentsandbox.CodeOf(err) == agentsandbox.CodeTooLarge {
			err = full
		}
		return err
	}
	if target != nil {
		err = e.injectOne(ctx, target.sandbox, *f)
	}
	if err == nil {
		err = e.quotas.AddFile(ctx, *f, func(ctx context.Context) error { return e.store.InsertFile(ctx, *f) })
	}
	if err != nil {
		e.removeBlob(f.ID)
	}
	return err
}

func (e *Engine) putBlob(ctx context.Context, f *agentsandbox.File, body io.Reader, limit int64) error {
	blob, err := e.blobs.Put(ctx, f.ID, body, limit)
	if err != nil {
		return err
	}
	f.SizeBytes, f.SHA256 = blob.SizeBytes, blob.SHA256
	return nil
}

func (e *Engine) removeBlob(id string) {
	if err := e.blobs.Remove(id); err != nil {
		e.log.Error("the contents of a file could not be removed", "file", id, "error", err)
	}
}

// File implements agentsandbox.Service.
func (e *Engine) File(ctx context.Context, id string) (*agentsandbox.File, error) {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, err
	}
	f, err := e.store.File(ctx, p.Tenant, id)
	if err != nil {
		return nil, err
	}
	return &f, nil
}

// OpenFile implements agentsandbox.Service. The reader is an io.Seeker.
func (e *Engine) OpenFile(ctx context.Context, id string) (*agentsandbox.File, io.ReadCloser, error) {
	f, err := e.File(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	r, err := e.openBlob(*f)
	if errors.Is(err, fs.ErrNotExist) {
		// Deleted between the two look-ups, or lost: the row tells which.
		if _, again := e.File(ctx, id); again != nil {
			return nil, nil, again
		}
	}
	if err != nil {
		return nil, nil, err
	}
	return f, r, nil
}

// openBlob opens the contents of a file, and refuses what is not what was stored:
// a power failure, a disk or a person can have changed it.
func (e *Engine) openBlob(f agentsandbox.File) (io.ReadSeekCloser, error) {
	r, err := e.blobs.Open(f.ID, Blob{SizeBytes: f.SizeBytes, SHA256: f.SHA256})
	if err != nil {
		return nil, agentsandbox.Internal(err, "The contents of "+f.ID+" are damaged or gone on the server's disk: upload the file again, or have the operator restore it.")
	}
	return r, nil
}

// Files implements agentsandbox.Service.
func (e *Engine) Files(ctx context.Context, page agentsandbox.Page) (*agentsandbox.FilePage, error) {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, err
	}
	cursors, err := cursor.ForList(e.vault, "files", p.Tenant)
	if err != nil {
		return nil, err
	}
	opened, err := cursors.Open(page)
	if err != nil {
		return nil, err
	}
	list, err := e.store.Files(ctx, p.Tenant, opened)
	list.Page, list.NextCursor = page, cursors.Seal(list.NextCursor)
	return &list, err
}

// DeleteFile implements agentsandbox.Service.
func (e *Engine) DeleteFile(ctx context.Context, id string) error {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return err
	}
	if err := e.store.DeleteFile(ctx, p.Tenant, id); err != nil {
		return err
	}
	e.removeBlob(id)
	return nil
}

// lookUpFiles finds the files that a request names, each once, and refuses two
// that would be copied to the same path.
func (e *Engine) lookUpFiles(ctx context.Context, tenant string, ids []string) ([]agentsandbox.File, error) {
	files := make([]agentsandbox.File, 0, len(ids))
	byName := make(map[string]int, len(ids))
	for i, id := range ids {
		f, err := e.store.File(ctx, tenant, id)
		if err != nil {
			var refused *agentsandbox.Error
			if errors.As(err, &refused) {
				refused.Details = []agentsandbox.Detail{{Field: fmt.Sprintf("file_ids[%d]", i), Message: refused.Message}}
			}
			return nil, err
		}
		if j, taken := byName[f.Filename]; taken {
			if ids[j] == id {
				continue
			}
			return nil, agentsandbox.Invalid(fmt.Sprintf("file_ids[%d]", i), "has the same file name, %q, as file_ids[%d].", f.Filename, j)
		}
		byName[f.Filename] = i
		files = append(files, f)
	}
	return files, nil
}

// inject copies files to the workspace of a sandbox.
func (e *Engine) inject(ctx context.Context, sb runtime.Sandbox, files []agentsandbox.File) error {
	for _, f := range files {
		if err := e.injectOne(ctx, sb, f); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) injectOne(ctx context.Context, sb runtime.Sandbox, f agentsandbox.File) error {
	r, err := e.openBlob(f)
	if errors.Is(err, fs.ErrNotExist) {
		// Deleted meanwhile, or lost: the row tells which.
		if _, gone := e.store.File(ctx, f.Tenant, f.ID); gone != nil {
			return fileNotFound(f.ID)
		}
	}
	if err != nil {
		return err
	}
	defer r.Close()
	target := path.Join(agentsandbox.Workspace, f.Filename)
	_, err = sb.WriteFile(ctx, target, r)
	return supply.Explain(err, target)
}

func fileNotFound(id string) error {
	return agentsandbox.Errorf(agentsandbox.CodeFileNotFound, "No file %s exists.", agentsandbox.QuoteID(id))
}

// collect keeps the files that a run made or changed. A file that is gone again,
// or that is no regular file any more, is counted as omitted.
func (e *Engine) collect(ctx context.Context, sb runtime.Sandbox, rec *agentsandbox.Execution, result *runtime.Result) error {
	for why, n := range result.Omitted {
		rec.Omit(why, n)
	}
	left := e.limits.Collect.Bytes
	if left == 0 {
		left = math.MaxInt64
	}
	if most := e.limits.Collect.Time; most > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, most, errCollectTime)
		defer cancel()
	}
	for i, info := range result.Changed {
		name, ok := producedName(info.Path)
		if !ok {
			rec.Omit(agentsandbox.OmittedUnreadable, 1)
			continue
		}
		if e.limits.Collect.Files > 0 && i >= e.limits.Collect.Files {
			rec.Omit(agentsandbox.OmittedFileLimit, 1)
			continue
		}
		f := agentsandbox.File{
			ID: agentsandbox.NewID(agentsandbox.FilePrefix), Tenant: rec.Tenant, Filename: name,
			MediaType: mediaType("", name), SessionID: rec.SessionID, ExecutionID: rec.ID,
			Path: info.Path, CreatedAt: e.now(),
		}
		err := e.collectOne(ctx, sb, &f, left)
		switch {
		case err == nil:
			rec.Files = append(rec.Files, f)
			left -= f.SizeBytes
		case errors.Is(err, runtime.ErrNotExist), errors.Is(err, runtime.ErrNotRegular), errors.Is(err, runtime.ErrPermission),
			errors.Is(err, runtime.ErrSystemPath):
			rec.Omit(agentsandbox.OmittedUnreadable, 1)
		case agentsandbox.CodeOf(err) == agentsandbox.CodeTooLarge:
			rec.Omit(agentsandbox.OmittedSizeLimit, 1)
		case errors.Is(context.Cause(ctx), errCollectTime):
			rec.Omit(agentsandbox.OmittedTimeLimit, len(result.Changed)-i)
			return nil
		case agentsandbox.CodeOf(err) == agentsandbox.CodeStorageFull:
			rec.Omit(agentsandbox.OmittedStorageFull, len(result.Changed)-i)
			return supply.Explain(err, info.Path)
		default:
			rec.Omit(agentsandbox.OmittedUnreadable, len(result.Changed)-i)
			return supply.Explain(err, info.Path)
		}
	}
	return nil
}

// errCollectTime says that the files of a run took too long to fetch.
var errCollectTime = errors.New("the time for collecting files is over")

func (e *Engine) collectOne(ctx context.Context, sb runtime.Sandbox, f *agentsandbox.File, left int64) error {
	if left <= 0 {
		return agentsandbox.Errorf(agentsandbox.CodeTooLarge, "The files of this run are larger than the server collects.")
	}
	_, r, err := sb.ReadFile(ctx, f.Path)
	if err != nil {
		return err
	}
	defer r.Close()
	return e.putBlob(ctx, f, r, left)
}

// producedName is the path of a produced file below the directory that it was
// collected from.
func producedName(p string) (string, bool) {
	for _, dir := range []string{agentsandbox.Workspace, agentsandbox.OutputDir} {
		if name, ok := strings.CutPrefix(p, dir+"/"); ok && path.Clean(p) == p {
			return name, true
		}
	}
	return "", false
}

// mediaType is the one given if it has the form of one, or a guess by the name.
func mediaType(given, name string) string {
	if given != "" {
		if t, params, err := mime.ParseMediaType(given); err == nil && strings.Contains(t, "/") {
			return mime.FormatMediaType(t, params)
		}
	}
	if t := mime.TypeByExtension(path.Ext(name)); t != "" {
		return t
	}
	return unknownMediaType
}
