package files

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"sync"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/engine/supply"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// Pin keeps files from expiring until the function that it returns is called.
func (l *Library) Pin(ids []string) (unpin func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		l.pinned[id]++
	}
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, id := range ids {
			if l.pinned[id]--; l.pinned[id] == 0 {
				delete(l.pinned, id)
			}
		}
	})
}

// Find finds the files that a request names, each once, and refuses two
// that would be copied to the same path.
func (l *Library) Find(ctx context.Context, tenant string, ids []string) ([]agentsandbox.File, error) {
	files := make([]agentsandbox.File, 0, len(ids))
	byName := make(map[string]int, len(ids))
	for i, id := range ids {
		f, err := l.store.File(ctx, tenant, id)
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

// Inject copies files to the workspace of a sandbox.
func (l *Library) Inject(ctx context.Context, sb runtime.Sandbox, files []agentsandbox.File) error {
	for _, f := range files {
		if err := l.injectOne(ctx, sb, f); err != nil {
			return err
		}
	}
	return nil
}

func (l *Library) injectOne(ctx context.Context, sb runtime.Sandbox, f agentsandbox.File) error {
	r, err := l.open(f)
	if errors.Is(err, fs.ErrNotExist) {
		// Deleted meanwhile, or lost: the row tells which.
		if _, gone := l.store.File(ctx, f.Tenant, f.ID); gone != nil {
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
