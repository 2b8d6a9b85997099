// Package quota keeps tenants within what they may keep: sessions, files, and output,
// which gives way to newer output. It counts in the store, one caller at a time, so
// that what is counted and what is added to it belong together. A tenant that has no
// room is refused with an error that names the quota and the remedy.
package quota

import (
	"context"
	"fmt"
	"log/slog"
	"math"

	"github.com/agentsandbox/agentsandbox"
)

// Limits bound what one tenant may keep. Zero is no bound.
type Limits struct {
	Sessions int64 // that have not ended
	Files    int64 // that are stored
	Bytes    int64 // of those, added up; output takes what they leave of it
	// Output bounds the bytes of code, output and kept answers. The oldest are
	// dropped for new ones.
	Output int64
}

// Usage is what a tenant keeps, in the terms of Limits. It is an alias, so that a
// store need not import this package to return it.
type Usage = struct {
	Sessions, Files, Bytes, Output int64
}

// Store is what the quotas need of the store.
type Store interface {
	// TenantUsage counts what a tenant keeps now.
	TenantUsage(ctx context.Context, tenant string) (Usage, error)
	// DropOutput drops code, output and kept answers of a tenant, the oldest first,
	// until at most keep bytes are left or nothing is left that can be dropped. It
	// returns the runs that have lost theirs, also with an error.
	DropOutput(ctx context.Context, tenant string, keep int64) ([]string, error)
}

// Logs keep the output that is not in the store.
type Logs interface {
	// Remove removes what there is of a run. It can be repeated.
	Remove(id string) error
}

// Quotas keep tenants within their limits.
type Quotas struct {
	limits Limits
	store  Store
	logs   Logs
	log    *slog.Logger
	turn   chan struct{} // holds a token while somebody counts and adds
}

// New returns quotas of those limits.
func New(limits Limits, store Store, logs Logs, log *slog.Logger) *Quotas {
	return &Quotas{limits: limits, store: store, logs: logs, log: log, turn: make(chan struct{}, 1)}
}

// Count makes the caller the only one who counts what a tenant keeps, and adds to it,
// until done is called. One turn for all tenants is enough: the store writes one thing
// at a time anyway.
func (q *Quotas) Count(ctx context.Context, tenant string) (u Usage, done func(), err error) {
	select {
	case q.turn <- struct{}{}:
	case <-ctx.Done():
		return u, nil, ctx.Err()
	}
	if u, err = q.store.TenantUsage(ctx, tenant); err != nil {
		<-q.turn
		return u, nil, err
	}
	return u, func() { <-q.turn }, nil
}

// AddSession inserts a session of a tenant, unless that has as many as it may.
func (q *Quotas) AddSession(ctx context.Context, tenant string, insert func(context.Context) error) error {
	if q.limits.Sessions == 0 {
		return insert(ctx)
	}
	u, done, err := q.Count(ctx, tenant)
	if err != nil {
		return err
	}
	defer done()
	if u.Sessions >= q.limits.Sessions {
		return &agentsandbox.Error{
			Code: agentsandbox.CodeRateLimited, RetryAfterSeconds: 10,
			Message: fmt.Sprintf("The quota of %d live sessions of this tenant is used up: delete sessions that are not needed, "+
				"or ask the operator for more (tenant_max_sessions).", q.limits.Sessions),
		}
	}
	return insert(ctx)
}

// checkFile is the error for a file that a tenant has no room for; nil if it has.
func (q *Quotas) checkFile(u Usage, size int64) error {
	switch l := q.limits; {
	case l.Files > 0 && u.Files >= l.Files:
		return agentsandbox.Errorf(agentsandbox.CodeStorageFull,
			"The quota of %d stored files of this tenant is used up: delete files that are not needed, or ask the operator for more (tenant_max_files).", l.Files)
	case l.Bytes > 0 && (u.Bytes >= l.Bytes || size > l.Bytes-u.Bytes):
		return agentsandbox.Errorf(agentsandbox.CodeStorageFull,
			"The quota of %d stored bytes of this tenant has no room for this file; %d are in use: "+
				"delete files that are not needed, or ask the operator for more (tenant_max_bytes).", l.Bytes, u.Bytes)
	}
	return nil
}

func (q *Quotas) limitsFiles() bool { return q.limits.Files > 0 || q.limits.Bytes > 0 }

// UploadLimit tells how large a file may be that a tenant stores, in bytes, where the
// server takes no more than most; 0 is any size. If it is less because of a quota, full
// is the error for a file that is larger.
func (q *Quotas) UploadLimit(ctx context.Context, tenant string, most int64) (limit int64, full, err error) {
	if !q.limitsFiles() {
		return most, nil, nil
	}
	u, err := q.store.TenantUsage(ctx, tenant)
	if err != nil {
		return 0, nil, err
	}
	if err := q.checkFile(u, 0); err != nil {
		return 0, nil, err
	}
	if left := q.limits.Bytes - u.Bytes; q.limits.Bytes > 0 && (most == 0 || left < most) {
		return left, q.checkFile(u, math.MaxInt64), nil
	}
	return most, nil, nil
}

// AddFile inserts the row of an uploaded file, unless its tenant has no room for it:
// others may have taken that since UploadLimit.
func (q *Quotas) AddFile(ctx context.Context, f agentsandbox.File, insert func(context.Context) error) error {
	if !q.limitsFiles() {
		return insert(ctx)
	}
	u, done, err := q.Count(ctx, f.Tenant)
	if err != nil {
		return err
	}
	defer done()
	if err := q.checkFile(u, f.SizeBytes); err != nil {
		return err
	}
	u.Bytes += f.SizeBytes
	if err := q.dropOutput(ctx, f.Tenant, u, q.outputRoom(u)); err != nil {
		return err
	}
	return insert(ctx)
}

// FitFiles splits the files that a run made into those that its tenant has room for,
// which it adds to the usage, and the others; full is the error for the last of these.
func (q *Quotas) FitFiles(files []agentsandbox.File, u *Usage) (kept, omitted []agentsandbox.File, full error) {
	for _, f := range files {
		if err := q.checkFile(*u, f.SizeBytes); err != nil {
			omitted, full = append(omitted, f), err
			continue
		}
		u.Files++
		u.Bytes += f.SizeBytes
		kept = append(kept, f)
	}
	return kept, omitted, full
}

// outputRoom is how much output a tenant may have: what its files leave of the
// quota, and no more than there may be of output.
func (q *Quotas) outputRoom(u Usage) int64 {
	room := int64(math.MaxInt64)
	if q.limits.Output > 0 {
		room = q.limits.Output
	}
	if q.limits.Bytes > 0 {
		room = min(room, max(0, q.limits.Bytes-u.Bytes))
	}
	return room
}

// MakeOutputRoom drops the oldest output of a tenant for that of a run, of which the
// usage counts the code already; both in bytes. Where that would not fit even alone, it
// is the one that is not kept: fits is false, and its code goes too.
func (q *Quotas) MakeOutputRoom(ctx context.Context, tenant string, u Usage, code, output int64) (fits bool, err error) {
	room := q.outputRoom(u)
	if code+output > room {
		return false, q.dropOutput(ctx, tenant, u, room+code)
	}
	return true, q.dropOutput(ctx, tenant, u, room-output)
}

// AddAnswer makes room for an answer of so many bytes, as for output, and inserts it;
// fits is false where there is no room for it even alone.
func (q *Quotas) AddAnswer(ctx context.Context, tenant string, bytes int64, insert func(ctx context.Context, fits bool) error) error {
	u, done, err := q.Count(ctx, tenant)
	if err != nil {
		return err
	}
	defer done()
	fits, err := q.MakeOutputRoom(ctx, tenant, u, 0, bytes)
	if err != nil {
		return err
	}
	return insert(ctx, fits)
}

// dropOutput drops output of a tenant until only keep bytes are left.
func (q *Quotas) dropOutput(ctx context.Context, tenant string, u Usage, keep int64) error {
	if u.Output <= keep {
		return nil
	}
	dropped, err := q.store.DropOutput(ctx, tenant, keep)
	for _, id := range dropped {
		if err := q.logs.Remove(id); err != nil {
			q.log.Error("the event log of a run could not be removed; the next start does so", "execution", id, "error", err)
		}
	}
	if len(dropped) > 0 {
		q.log.Info("dropped the output of old runs for want of room", "tenant", tenant, "executions", len(dropped))
	}
	return err
}
