package engine

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// endedByCopy is why a session is lost that a data directory has by being copied.
const endedByCopy = "this server's data directory is a copy, a backup, or was moved from another file system, and the sandbox belongs to the original."

// retainTimeout bounds how long a sandbox may take to forget runs.
const retainTimeout = 30 * time.Second

// Owned returns the ids of the sandboxes that an earlier process left and that
// somebody still needs: live sessions, and runs in a sandbox of their own. A
// runtime takes them over before Recover.
func (e *Engine) Owned(ctx context.Context) ([]string, error) {
	sessions, err := e.store.LeftSessions(ctx)
	if err != nil {
		return nil, err
	}
	runs, err := e.store.LeftExecutions(ctx)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, s := range sessions {
		if s.Status == string(agentsandbox.SessionLive) && s.Sandbox != "" {
			ids = append(ids, s.Sandbox)
		}
	}
	for _, x := range runs {
		if p, ok := readPlan(x); ok && p.Final {
			ids = append(ids, x.Sandbox)
		}
	}
	return ids, nil
}

// readPlan returns what was noted of a run; not ok says that the run cannot be
// followed.
func readPlan(x Left) (p plan, ok bool) {
	ok = x.Sandbox != "" && json.Unmarshal(x.Plan, &p) == nil && p.ID == x.ID
	return p, ok
}

// recovery is one Recover under way.
type recovery struct {
	e       *Engine
	adopted map[string]runtime.Sandbox
	foreign []string
	// sessions are those that live on, by id.
	sessions map[string]*session
	follow   []execution
	lost     int // executions
	ended    int // sessions
}

// Recover brings the store in line with what lives on of an earlier process:
// adopted are the sandboxes that were taken over, foreign the ids of those that
// belong to the data directory of which this one is a copy. What has no sandbox
// any more is recorded as lost. Start goes on from there: until then nothing is
// watched, followed or ended, so that a server that fails to start can let go of
// the sandboxes and leave them, with all that runs in them, to the next one.
func (e *Engine) Recover(ctx context.Context, foreign []string, adopted ...runtime.Sandbox) error {
	r := &recovery{e: e, foreign: foreign, adopted: map[string]runtime.Sandbox{}, sessions: map[string]*session{}}
	for _, sb := range adopted {
		r.adopted[sb.ID()] = sb
	}
	for _, step := range []func(context.Context) error{r.recoverSessions, r.recoverRuns, r.sweep, r.retain} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	e.recovered = r
	if len(adopted)+r.ended+r.lost > 0 {
		e.log.Info("recovered from an earlier process", "live_sessions", len(r.sessions), "running_executions", len(r.follow),
			"lost_sessions", r.ended, "lost_executions", r.lost)
	}
	return nil
}

// recoverSessions makes sessions live again, or ends them. One that was being
// created was never answered for.
func (r *recovery) recoverSessions(ctx context.Context) error {
	rows, err := r.e.store.LeftSessions(ctx)
	if err != nil {
		return err
	}
	known := false // when keys end was looked up
	for _, row := range rows {
		sb := r.adopted[row.Sandbox]
		if row.Status == string(agentsandbox.SessionLive) && sb != nil {
			info, err := r.e.store.Session(ctx, row.Tenant, row.ID)
			if err != nil {
				return err
			}
			if len(info.Ports) > 0 && !known {
				if err := r.e.keys.LoadEnds(ctx); err != nil {
					return err
				}
				known = true
			}
			secrets := r.e.reconnect(&info, sb)
			r.sessions[row.ID] = r.e.enlist(info, sb, secrets)
			continue
		}
		last := agentsandbox.SessionLost
		if row.Status == string(agentsandbox.SessionDeleting) {
			last = agentsandbox.SessionDeleted
		} else {
			r.ended++
			if slices.Contains(r.foreign, row.Sandbox) {
				if err := r.e.store.NoteSessionEnd(ctx, row.ID, endedByCopy); err != nil {
					return err
				}
			}
		}
		if err := r.e.store.MoveSession(ctx, row.ID, last, r.e.now()); err != nil {
			return err
		}
	}
	return nil
}

// recoverRuns finds out which runs can be followed, and writes the outcome of the
// others, with the output that was put aside.
func (r *recovery) recoverRuns(ctx context.Context) error {
	rows, err := r.e.store.LeftExecutions(ctx)
	if err != nil {
		return err
	}
	for _, row := range rows {
		rec, err := r.e.store.Execution(ctx, row.Tenant, row.ID)
		if err != nil {
			return err
		}
		kept, err := r.e.spool.Read(row.ID)
		if err != nil {
			return err
		}
		// Read to be counted: it stays in the spool until the outcome is written.
		inSpool := spooled{stdout: len(kept.Stdout), stderr: len(kept.Stderr)}
		rec.StdoutBytes, rec.StderrBytes = kept.Progress.Stdout, kept.Progress.Stderr
		p, ok := readPlan(row)
		cmd := p.Command
		sb := r.adopted[row.Sandbox]
		if ok && sb != nil && (cmd.Final || r.sessions[rec.SessionID] != nil) {
			r.follow = append(r.follow, execution{
				record: rec, session: r.sessions[rec.SessionID], sandbox: sb, final: cmd.Final, command: cmd, network: p.Network, resume: &kept.Progress, spooled: inSpool,
				bounds: bounds{timeout: cmd.Timeout, output: cmd.OutputLimit, run: cmd.Limits},
			})
			r.audit(ctx, &rec, agentsandbox.AuditOK, "The server stopped while this ran; it is followed to its end.")
			continue
		}
		r.lost++
		rec.Stdout, rec.Stderr = kept.Stdout, kept.Stderr
		note := lostTrack(&rec)
		if slices.Contains(r.foreign, row.Sandbox) {
			rec.Error = "The data directory with this record is a copy: the run belongs to the server of the original, and is not followed here."
			note = rec.Error
		}
		rec.Stderr = appendNotes(rec.Stderr, note)
		rec.HTTPStatus, rec.EndedAt = r.e.answerStatus(agentsandbox.CodeUnavailable), r.e.now()
		if _, err := r.e.store.FinishExecution(ctx, rec); err != nil {
			r.e.finishBare(ctx, rec, err)
		}
		r.audit(ctx, &rec, string(agentsandbox.CodeUnavailable), rec.Error)
	}
	return nil
}

// audit notes what became of a run whose request the death of the server cut off:
// that request has left no row, or one that says that the run goes on.
func (r *recovery) audit(ctx context.Context, rec *agentsandbox.Execution, outcome, detail string) {
	_ = r.e.audit.Append(ctx, agentsandbox.AuditEntry{Tenant: rec.Tenant, Action: "recoverExecution", ObjectID: rec.ID, Outcome: outcome, Detail: detail})
}

// lostTrack is the verdict on a run that an earlier server started and that
// cannot be followed any more; note is the last line of its standard error.
func lostTrack(rec *agentsandbox.Execution) (note string) {
	rec.Status, rec.ReturnCode, rec.Signal = agentsandbox.StatusSandboxLost, returnCodeKilled, "SIGKILL"
	rec.Truncated = rec.StdoutBytes+rec.StderrBytes > 0
	rec.Error = "The server stopped while this ran, and the rest of it could not be recovered."
	return rec.Error
}

// forget ends a run whose output cannot be had any more.
func (e *Engine) forget(x *execution) {
	ctx, cancel := context.WithTimeout(context.Background(), retainTimeout)
	defer cancel()
	if err := x.sandbox.Forget(ctx, x.record.ID); err != nil {
		e.log.Warn("a run that was given up may go on in its sandbox", "execution", x.record.ID, "error", err)
	}
}

// sweep removes output that was put aside of runs that have ended.
func (r *recovery) sweep(context.Context) error {
	followed := map[string]bool{}
	for _, x := range r.follow {
		followed[x.record.ID] = true
	}
	return r.e.spool.Sweep(func(id string) bool { return followed[id] })
}

// retain ends what runs in the adopted sandboxes and has no record that says so.
// It comes before new runs begin.
func (r *recovery) retain(ctx context.Context) error {
	wanted := map[string][]string{}
	for _, x := range r.follow {
		wanted[x.sandbox.ID()] = append(wanted[x.sandbox.ID()], x.record.ID)
	}
	ctx, cancel := context.WithTimeout(ctx, retainTimeout)
	defer cancel()
	var asking sync.WaitGroup
	for id, sb := range r.adopted {
		asking.Go(func() {
			if err := sb.Retain(ctx, wanted[id]); err != nil {
				r.e.log.Warn("a sandbox of an earlier process does not answer", "sandbox", id, "error", err)
			}
		})
	}
	asking.Wait()
	return nil
}

// resume goes on where Recover ended: it watches the sessions, follows the runs
// that go on, and destroys the sandboxes that nobody needs.
func (e *Engine) resume() {
	r := e.recovered
	if r == nil {
		return
	}
	e.recovered = nil
	needed := map[string]bool{}
	for _, s := range r.sessions {
		needed[s.sandbox.ID()] = true
		e.watchers.Go(func() { e.watch(s) })
	}
	for _, x := range r.follow {
		needed[x.sandbox.ID()] = true
		if s := r.sessions[x.record.SessionID]; s != nil {
			e.mu.Lock()
			ctx, v := e.visitLocked(e.work.Context(), s, "execute")
			e.mu.Unlock()
			e.work.Go(func() {
				defer v.leave()
				e.followUp(ctx, x)
			})
			continue
		}
		if err := e.network.Apply(x.sandbox.ID(), e.template, x.network, nil); err != nil {
			e.log.Warn("a run of an earlier server reaches nothing any more", "execution", x.record.ID, "error", err)
		}
		e.egressAudit.WatchRun(x.sandbox.ID(), x.record.Tenant, x.record.ID)
		e.work.Go(func() {
			if e.followUp(e.work.Context(), x) {
				e.supply.Destroy(x.sandbox)
				return
			}
			e.supply.Release(x.sandbox)
		})
	}
	for id, sb := range r.adopted {
		if !needed[id] {
			e.supply.DestroyLater(sb)
		}
	}
}

// followUp takes a run of an earlier server to its end, and tells whether it has
// ended: if not, the next server follows it.
func (e *Engine) followUp(ctx context.Context, x execution) (ended bool) {
	rec, err := e.perform(ctx, &x)
	switch {
	case errors.Is(err, errLeftRunning):
		return false
	case x.spooled.bytes() > 0:
		defer e.removeSpool(x.record.ID) // no request waits for it
	}
	switch {
	case err != nil:
		e.log.Error("a run of an earlier process ended with an error", "execution", x.record.ID, "error", err)
	default:
		e.log.Info("a run of an earlier process has ended", "execution", rec.ID, "status", rec.Status)
	}
	return true
}
