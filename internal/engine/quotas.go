package engine

import (
	"context"
	"fmt"
	"math"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// Quotas bound what one tenant may keep. Zero is no bound.
type Quotas struct {
	Sessions int64 // that have not ended
	Files    int64 // that are stored
	Bytes    int64 // of those, added up; output takes what they leave of it
	// Output bounds the bytes of code, output and kept answers. The oldest are
	// dropped for new ones.
	Output int64
}

// TenantUsage is what a tenant keeps, in the terms of Quotas. It is an alias, so
// that a store need not import this package to return it.
type TenantUsage = struct {
	Sessions, Files, Bytes, Output int64
}

// AdmissionStore keeps what the admission of work needs to know.
type AdmissionStore interface {
	// TenantUsage counts what a tenant keeps now.
	TenantUsage(ctx context.Context, tenant string) (TenantUsage, error)
	// DropOutput drops code, output and kept answers of a tenant, the oldest first,
	// until at most keep bytes are left or nothing is left that can be dropped. It
	// returns how many runs have lost theirs.
	DropOutput(ctx context.Context, tenant string, keep int64) (int, error)
	// NoteSessionEnd keeps why a session ended, in sentences for people. The first
	// reason stays.
	NoteSessionEnd(ctx context.Context, id, why string) error
	// SessionEnd returns what was noted; "" if nothing was.
	SessionEnd(ctx context.Context, id string) (string, error)
}

// evictable is a sandbox that its supply may end before anybody asked for that.
type evictable interface {
	// Evicted says why, in sentences for people; "" if it was not ended so.
	Evicted() string
}

func evicted(sb runtime.Sandbox) string {
	if s, ok := sb.(evictable); ok {
		return s.Evicted()
	}
	return ""
}

// noteEviction keeps why a session is lost, if its sandbox was ended.
func (e *Engine) noteEviction(s *session) {
	why := evicted(s.sandbox)
	if why == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), recordTimeout)
	defer cancel()
	if err := e.store.NoteSessionEnd(ctx, s.info.ID, why); err != nil {
		e.log.Error("why a session was lost could not be written", "session", s.info.ID, "error", err)
	}
}

// whyLost is the error for a session whose sandbox died.
func (e *Engine) whyLost(ctx context.Context, id string) error {
	why, err := e.store.SessionEnd(ctx, id)
	if err != nil {
		return err
	}
	if why == "" {
		why = "its sandbox died."
	}
	return agentsandbox.Errorf(agentsandbox.CodeSessionNotFound, "The session %s was lost: %s Create a new one.", id, why)
}

// count makes the caller the only one who counts what a tenant keeps, and adds to
// it, until the function returned is called. One turn for all tenants is enough:
// the store writes one thing at a time anyway.
func (e *Engine) count(ctx context.Context) (done func(), err error) {
	select {
	case e.counting <- struct{}{}:
		return func() { <-e.counting }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// insertSession stores a session, unless its tenant has as many as it may.
func (e *Engine) insertSession(ctx context.Context, info agentsandbox.Session) error {
	if e.quotas.Sessions == 0 {
		return e.store.InsertSession(ctx, info)
	}
	done, err := e.count(ctx)
	if err != nil {
		return err
	}
	defer done()
	u, err := e.store.TenantUsage(ctx, info.Tenant)
	if err != nil {
		return err
	}
	if u.Sessions >= e.quotas.Sessions {
		return &agentsandbox.Error{
			Code: agentsandbox.CodeRateLimited, RetryAfterSeconds: 10,
			Message: fmt.Sprintf("The quota of %d live sessions of this tenant is used up: delete sessions that are not needed, or ask the operator for more (tenant_max_sessions).", e.quotas.Sessions),
		}
	}
	return e.store.InsertSession(ctx, info)
}

// fileQuota is the error for a file that a tenant has no room for; nil if it has.
func (e *Engine) fileQuota(u TenantUsage, size int64) error {
	switch q := e.quotas; {
	case q.Files > 0 && u.Files >= q.Files:
		return agentsandbox.Errorf(agentsandbox.CodeStorageFull,
			"The quota of %d stored files of this tenant is used up: delete files that are not needed, or ask the operator for more (tenant_max_files).", q.Files)
	case q.Bytes > 0 && (u.Bytes >= q.Bytes || size > q.Bytes-u.Bytes):
		return agentsandbox.Errorf(agentsandbox.CodeStorageFull,
			"The quota of %d stored bytes of this tenant has no room for this file; %d are in use: delete files that are not needed, or ask the operator for more (tenant_max_bytes).", q.Bytes, u.Bytes)
	}
	return nil
}

func (e *Engine) limitsFiles() bool { return e.quotas.Files > 0 || e.quotas.Bytes > 0 }

// uploadRoom tells how large a file may be that a tenant stores, 0 for any size.
// If that is because of a quota, full is the error for one that is larger.
func (e *Engine) uploadRoom(ctx context.Context, tenant string) (limit int64, full, err error) {
	limit = e.limits.UploadBytes
	if !e.limitsFiles() {
		return limit, nil, nil
	}
	u, err := e.store.TenantUsage(ctx, tenant)
	if err != nil {
		return 0, nil, err
	}
	if err := e.fileQuota(u, 0); err != nil {
		return 0, nil, err
	}
	if left := e.quotas.Bytes - u.Bytes; e.quotas.Bytes > 0 && (limit == 0 || left < limit) {
		return left, e.fileQuota(u, math.MaxInt64), nil
	}
	return limit, nil, nil
}

// insertFile stores the row of an uploaded file, unless its tenant has no room for
// it: others may have taken it meanwhile.
func (e *Engine) insertFile(ctx context.Context, f agentsandbox.File) error {
	if !e.limitsFiles() {
		return e.store.InsertFile(ctx, f)
	}
	done, err := e.count(ctx)
	if err != nil {
		return err
	}
	defer done()
	u, err := e.store.TenantUsage(ctx, f.Tenant)
	if err != nil {
		return err
	}
	if err := e.fileQuota(u, f.SizeBytes); err != nil {
		return err
	}
	u.Bytes += f.SizeBytes
	if err := e.dropOutput(ctx, f.Tenant, u, e.outputRoom(u)); err != nil {
		return err
	}
	return e.store.InsertFile(ctx, f)
}

// omitFiles drops, from the files that a run made, those that its tenant has no
// room for, says so in the record, and adds the others to what the tenant keeps.
func (e *Engine) omitFiles(rec *agentsandbox.Execution, u *TenantUsage) {
	var kept []agentsandbox.File
	var full error
	for _, f := range rec.Files {
		if err := e.fileQuota(*u, f.SizeBytes); err != nil {
			e.removeBlob(f.ID)
			rec.Omit(agentsandbox.OmittedStorageFull, 1)
			full = err
			continue
		}
		u.Files++
		u.Bytes += f.SizeBytes
		kept = append(kept, f)
	}
	rec.Files = kept
	if full != nil && rec.Error == "" {
		rec.Error = "Not all files that the run made were kept. " + agentsandbox.MessageOf(full)
	}
}

// outputRoom is how much output a tenant may have: what its files leave of the
// quota, and no more than there may be of output.
func (e *Engine) outputRoom(u TenantUsage) int64 {
	room := int64(math.MaxInt64)
	if e.quotas.Output > 0 {
		room = e.quotas.Output
	}
	if e.quotas.Bytes > 0 {
		room = min(room, max(0, e.quotas.Bytes-u.Bytes))
	}
	return room
}

// makeOutputRoom drops the oldest output of the tenant for that of a run, whose code is
// counted in u already. If the run's own would not fit even alone, it is the one
// that is not kept.
func (e *Engine) makeOutputRoom(ctx context.Context, rec *agentsandbox.Execution, u TenantUsage) error {
	room, adds := e.outputRoom(u), int64(len(rec.Stdout)+len(rec.Stderr))
	if int64(len(rec.Code))+adds > room {
		rec.OutputDropped = true
		room += int64(len(rec.Code)) // which goes with the outcome
		adds = 0
	}
	return e.dropOutput(ctx, rec.Tenant, u, room-adds)
}

// dropOutput drops output of a tenant until only keep bytes are left.
func (e *Engine) dropOutput(ctx context.Context, tenant string, u TenantUsage, keep int64) error {
	if u.Output <= keep {
		return nil
	}
	dropped, err := e.store.DropOutput(ctx, tenant, keep)
	if dropped > 0 {
		e.log.Info("dropped the output of old runs for want of room", "tenant", tenant, "executions", dropped)
	}
	return err
}
