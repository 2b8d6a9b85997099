package engine

import (
	"context"

	"github.com/agentsandbox/agentsandbox"
)

// Execution implements agentsandbox.Service.
func (e *Engine) Execution(ctx context.Context, id string) (*agentsandbox.Execution, error) {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, err
	}
	rec, err := e.store.Execution(ctx, p.Tenant, id)
	if err != nil {
		return nil, err
	}
	return &rec, nil
}

// Executions implements agentsandbox.Service.
func (e *Engine) Executions(ctx context.Context, filter agentsandbox.ExecutionFilter) (*agentsandbox.ExecutionPage, error) {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, err
	}
	if err := filter.Validate(); err != nil {
		return nil, err
	}
	list, err := e.store.Executions(ctx, p.Tenant, filter)
	return &list, err
}
