// Package audit is the audit log: who did what, and how it ended. It owns when rows
// are written, what becomes of those that cannot be, and what is told of the network
// of sandboxes. The store numbers rows and chains their hashes.
//
// It knows neither requests nor sandboxes. A row that cannot be written is in the
// server's log at once, and is tried again; until it is written, Ready refuses
// whatever would need another.
package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/cursor"
)

const (
	// writeTimeout bounds the writing of a row whose caller is gone.
	writeTimeout = 30 * time.Second
	// maxOverdue bounds the rows that wait to be written. Only what was under way
	// when the first one failed, and what the server does by itself, can add to them.
	maxOverdue = 10_000
)

// Store keeps the rows, to which others are only added.
type Store interface {
	// AppendAudit numbers and chains the row.
	AppendAudit(ctx context.Context, e agentsandbox.AuditEntry) error
	// AuditLog lists newest first.
	AuditLog(ctx context.Context, page agentsandbox.Page) (agentsandbox.AuditPage, error)
}

// Options configure a Log.
type Options struct {
	Store Store
	// Vault seals the cursors of lists; nil: there are none.
	Vault  cursor.Vault
	Logger *slog.Logger
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Log is the audit log. Make one with New, and Close it after everything that
// appends to it has ended.
type Log struct {
	store Store
	vault cursor.Vault
	log   *slog.Logger
	clock func() time.Time

	mu sync.Mutex
	// overdue are rows about what was done that could not be written when they
	// should have been.
	overdue []agentsandbox.AuditEntry
}

var _ agentsandbox.AuditService = (*Log)(nil)

// New makes a log.
func New(opts Options) *Log {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	return &Log{store: opts.Store, vault: opts.Vault, log: opts.Logger, clock: opts.Now}
}

// now is the time that rows carry: UTC, to the microsecond that stores keep.
func (l *Log) now() time.Time { return l.clock().UTC().Truncate(time.Microsecond) }

// Append adds a row, also when the caller is gone. What has happened cannot be
// taken back because of an error: the row is in the server's log then, and is
// written as soon as that is possible.
func (l *Log) Append(ctx context.Context, entry agentsandbox.AuditEntry) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	entry.At = l.now()
	err := l.store.AppendAudit(ctx, entry)
	if err != nil {
		l.mu.Lock()
		if entry.Outcome == agentsandbox.AuditOK && len(l.overdue) < maxOverdue {
			l.overdue = append(l.overdue, entry)
		}
		l.mu.Unlock()
		l.log.Error("a row of the audit log could not be written", "error", err,
			"tenant", entry.Tenant, "key_id", entry.KeyID, "request_id", entry.RequestID, "remote", entry.Remote,
			"action", entry.Action, "object_id", entry.ObjectID, "outcome", entry.Outcome, "detail", entry.Detail)
	}
	return err
}

// Ready writes the rows that are overdue. While it fails, nothing must be changed
// that needs a row. Codes: unavailable.
func (l *Log) Ready(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.overdue) > 0 {
		if err := l.store.AppendAudit(ctx, l.overdue[0]); err != nil {
			return &agentsandbox.Error{
				Code: agentsandbox.CodeUnavailable, RetryAfterSeconds: 10, Err: err,
				Message: "The audit log cannot be written, so nothing is changed. The operator must make room for it, or mend it; then try again.",
			}
		}
		l.overdue = l.overdue[1:]
	}
	return nil
}

// Close writes the rows that are overdue, which this process alone has. It can be
// called again.
func (l *Log) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	if err := l.Ready(ctx); err != nil {
		return fmt.Errorf("rows of the audit log could not be written, and are in the server's log alone: %w", errors.Unwrap(err))
	}
	return nil
}

// AuditLog implements agentsandbox.AuditService.
func (l *Log) AuditLog(ctx context.Context, page agentsandbox.Page) (*agentsandbox.AuditPage, error) {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, err
	}
	if !p.Has(agentsandbox.ScopeAdmin) {
		return nil, agentsandbox.Errorf(agentsandbox.CodeForbidden, "The audit log needs a key with the scope %q.", agentsandbox.ScopeAdmin)
	}
	cursors, err := cursor.ForList(l.vault, "audit", "")
	if err != nil {
		return nil, err
	}
	opened, err := cursors.Open(page)
	if err != nil {
		return nil, err
	}
	list, err := l.store.AuditLog(ctx, opened)
	list.Page, list.NextCursor = page, cursors.Seal(list.NextCursor)
	return &list, err
}
