package files

import (
	"context"
	"errors"
	"math"
	"path"
	"strings"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/engine/supply"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// Collect keeps the files that a run made or changed. A file that is gone again,
// or that is no regular file any more, is counted as omitted.
func (l *Library) Collect(ctx context.Context, sb runtime.Sandbox, rec *agentsandbox.Execution, result *runtime.Result) error {
	for why, n := range result.Omitted {
		rec.Omit(why, n)
	}
	left := l.collect.Bytes
	if left == 0 {
		left = math.MaxInt64
	}
	if most := l.collect.Time; most > 0 {
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
		if l.collect.Files > 0 && i >= l.collect.Files {
			rec.Omit(agentsandbox.OmittedFileLimit, 1)
			continue
		}
		f := agentsandbox.File{
			ID: agentsandbox.NewID(agentsandbox.FilePrefix), Tenant: rec.Tenant, Filename: name,
			MediaType: mediaType("", name), SessionID: rec.SessionID, ExecutionID: rec.ID,
			Path: info.Path, CreatedAt: l.now(),
		}
		err := l.collectOne(ctx, sb, &f, left)
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

func (l *Library) collectOne(ctx context.Context, sb runtime.Sandbox, f *agentsandbox.File, left int64) error {
	if left <= 0 {
		return agentsandbox.Errorf(agentsandbox.CodeTooLarge, "The files of this run are larger than the server collects.")
	}
	_, r, err := sb.ReadFile(ctx, f.Path)
	if err != nil {
		return err
	}
	defer r.Close()
	return l.put(ctx, f, r, left)
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
