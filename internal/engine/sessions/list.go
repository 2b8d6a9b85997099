package sessions

import (
	"context"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/cursor"
)

// Session implements agentsandbox.SessionService.
func (r *Registry) Session(ctx context.Context, id string) (*agentsandbox.Session, error) {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, err
	}
	s, err := r.live(ctx, p.Tenant, id)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	info := r.view(s)
	return &info, nil
}

// Sessions implements agentsandbox.SessionService.
func (r *Registry) Sessions(ctx context.Context, filter agentsandbox.SessionFilter) (*agentsandbox.SessionPage, error) {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, err
	}
	cursors, err := cursor.ForList(r.vault, "sessions", p.Tenant, filter.Metadata)
	if err != nil {
		return nil, err
	}
	page := filter.Page
	if filter.Page, err = cursors.Open(page); err != nil {
		return nil, err
	}
	list, err := r.store.Sessions(ctx, p.Tenant, filter)
	list.Page, list.NextCursor = page, cursors.Seal(list.NextCursor)
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, row := range list.Sessions {
		if s := r.sessions[row.ID]; s != nil {
			list.Sessions[i] = r.view(s) // the store is behind in its times of last use
		}
	}
	return &list, err
}
