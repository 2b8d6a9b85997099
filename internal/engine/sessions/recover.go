package sessions

import (
	"context"
	"slices"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// endedByCopy is why a session is lost that a data directory has by being copied.
const endedByCopy = "this server's data directory is a copy, a backup, or was moved from another file system, and the sandbox belongs to the original."

// Owned returns the ids of the sandboxes of sessions that an earlier process left live.
func (r *Registry) Owned(ctx context.Context) ([]string, error) {
	left, err := r.store.LeftSessions(ctx)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, s := range left {
		if s.Status == agentsandbox.SessionLive && s.Sandbox != "" {
			ids = append(ids, s.Sandbox)
		}
	}
	return ids, nil
}

// Recover makes the sessions of an earlier process live again whose sandboxes were
// adopted, by id, and ends the others. One that was being created was never answered
// for. Foreign sandboxes belong to the data directory of which this one is a copy. It
// returns the sandboxes of those that are live, and how many sessions were lost. Start watches them.
func (r *Registry) Recover(ctx context.Context, adopted map[string]runtime.Sandbox, foreign []string) (live map[string]bool, lost int, err error) {
	left, err := r.store.LeftSessions(ctx)
	if err != nil {
		return nil, 0, err
	}
	live = map[string]bool{}
	knowsKeys := false // when keys end was looked up
	for _, row := range left {
		sb := adopted[row.Sandbox]
		if row.Status == agentsandbox.SessionLive && sb != nil {
			info, err := r.store.Session(ctx, row.Tenant, row.ID)
			if err != nil {
				return nil, 0, err
			}
			if len(row.Ports) > 0 && !knowsKeys {
				if err := r.keys.LoadEnds(ctx); err != nil {
					return nil, 0, err
				}
				knowsKeys = true
			}
			secrets := r.reconnect(&info, row.SealedSecrets, sb)
			r.recovered = append(r.recovered, r.add(info, sb, secrets, row.Ports))
			live[sb.ID()] = true
			continue
		}
		last := agentsandbox.SessionLost
		if row.Status == agentsandbox.SessionDeleting {
			last = agentsandbox.SessionDeleted
		} else {
			lost++
			if slices.Contains(foreign, row.Sandbox) {
				if err := r.store.NoteSessionEnd(ctx, row.ID, endedByCopy); err != nil {
					return nil, 0, err
				}
			}
		}
		if err := r.store.MoveSession(ctx, row.ID, last, r.now()); err != nil {
			return nil, 0, err
		}
	}
	return live, lost, nil
}
