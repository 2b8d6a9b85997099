package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/agentsandbox/agentsandbox"
)

// overdue are rows about what was done that could not be written to the audit log
// when they should have been.
type overdue struct {
	mu   sync.Mutex
	rows []agentsandbox.AuditEntry
}

// maxOverdue bounds them. Only what was under way when the first one failed, and
// what the server does by itself, can add to them.
const maxOverdue = 10_000

// Audit adds a row to the audit log, also when the caller is gone. What has
// happened cannot be taken back because of an error: the row is in the server's
// log then, and is written as soon as that is possible.
func (e *Engine) Audit(ctx context.Context, entry agentsandbox.AuditEntry) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	entry.At = e.now()
	err := e.store.AppendAudit(ctx, entry)
	if err != nil {
		e.overdue.mu.Lock()
		if entry.Outcome == agentsandbox.AuditOK && len(e.overdue.rows) < maxOverdue {
			e.overdue.rows = append(e.overdue.rows, entry)
		}
		e.overdue.mu.Unlock()
		e.log.Error("a row of the audit log could not be written", "error", err,
			"tenant", entry.Tenant, "key_id", entry.KeyID, "request_id", entry.RequestID, "remote", entry.Remote,
			"action", entry.Action, "object_id", entry.ObjectID, "outcome", entry.Outcome, "detail", entry.Detail)
	}
	return err
}

// AuditReady writes the rows that are overdue. While it fails, nothing must be
// changed that needs a row. Codes: unavailable.
func (e *Engine) AuditReady(ctx context.Context) error {
	e.overdue.mu.Lock()
	defer e.overdue.mu.Unlock()
	for len(e.overdue.rows) > 0 {
		if err := e.store.AppendAudit(ctx, e.overdue.rows[0]); err != nil {
			return &agentsandbox.Error{
				Code: agentsandbox.CodeUnavailable, RetryAfterSeconds: 10, Err: err,
				Message: "The audit log cannot be written, so nothing is changed. The operator must make room for it, or mend it; then try again.",
			}
		}
		e.overdue.rows = e.overdue.rows[1:]
	}
	return nil
}

// flushAudit writes the rows that are overdue before the process ends, which alone
// has them.
func (e *Engine) flushAudit() error {
	ctx, cancel := context.WithTimeout(context.Background(), recordTimeout)
	defer cancel()
	if err := e.AuditReady(ctx); err != nil {
		return fmt.Errorf("rows of the audit log could not be written, and are in the server's log alone: %w", errors.Unwrap(err))
	}
	return nil
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
