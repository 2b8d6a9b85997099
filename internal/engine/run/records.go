package run

import (
	"context"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/cursor"
)

// Execution implements agentsandbox.ExecutionService.
func (s *Supervisor) Execution(ctx context.Context, id string) (*agentsandbox.Execution, error) {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, err
	}
	rec, err := s.store.Execution(ctx, p.Tenant, id)
	if err != nil {
		return nil, err
	}
	if rec.OutputDropped {
		rec.Stderr = appendNotes(rec.Stderr, droppedNote(&rec))
	}
	return &rec, nil
}

// Executions implements agentsandbox.ExecutionService.
func (s *Supervisor) Executions(ctx context.Context, filter agentsandbox.ExecutionFilter) (*agentsandbox.ExecutionPage, error) {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, err
	}
	cursors, err := cursor.ForList(s.vault, "executions", p.Tenant, filter.SessionID, filter.Status, filter.Metadata)
	if err != nil {
		return nil, err
	}
	page := filter.Page
	if filter.Page, err = cursors.Open(page); err != nil {
		return nil, err
	}
	list, err := s.store.Executions(ctx, p.Tenant, filter)
	list.Page, list.NextCursor = page, cursors.Seal(list.NextCursor)
	return &list, err
}
