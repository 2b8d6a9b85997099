package engine

import (
	"context"

	"github.com/agentsandbox/agentsandbox"
)

// Audit adds a row to the audit log, also when the caller is gone. What has
// happened cannot be taken back because of it, so an error is logged, with the
// row, and not returned.
func (e *Engine) Audit(ctx context.Context, entry agentsandbox.AuditEntry) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	entry.At = e.now()
	if err := e.store.AppendAudit(ctx, entry); err != nil {
		e.log.Error("a row of the audit log could not be written", "error", err,
			"tenant", entry.Tenant, "key_id", entry.KeyID, "request_id", entry.RequestID, "remote", entry.Remote,
			"action", entry.Action, "object_id", entry.ObjectID, "outcome", entry.Outcome, "detail", entry.Detail)
	}
}

// AuditLog implements agentsandbox.Service.
func (e *Engine) AuditLog(ctx context.Context, page agentsandbox.Page) (*agentsandbox.AuditPage, error) {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, err
	}
	if !p.Has(agentsandbox.ScopeAdmin) {
		return nil, agentsandbox.Errorf(agentsandbox.CodeForbidden, "The audit log needs a key with the scope %q.", agentsandbox.ScopeAdmin)
	}
	cursors, err := e.cursorsOf("audit", "")
	if err != nil {
		return nil, err
	}
	opened, err := cursors.open(page)
	if err != nil {
		return nil, err
	}
	list, err := e.store.AuditLog(ctx, opened)
	list.Page, list.NextCursor = page, cursors.seal(list.NextCursor)
	return &list, err
}
