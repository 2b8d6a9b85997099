package run

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/engine/limits"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// forgetTimeout bounds how long a sandbox may take to forget a run.
const forgetTimeout = 30 * time.Second

// Owned returns the ids of the sandboxes that an earlier process left to runs without a
// session.
func (s *Supervisor) Owned(ctx context.Context) ([]string, error) {
	left, err := s.store.LeftExecutions(ctx)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, x := range left {
		if info, ok := readAttachInfo(x); ok && info.Final {
			ids = append(ids, x.Sandbox)
		}
	}
	return ids, nil
}

// Recover finds out which runs of an earlier process can be followed, and writes the
// outcome of the others, with the output that was written. The sessions have been
// recovered. Foreign sandboxes belong to the data directory of which this one is a copy.
// It returns the runs that go on, by sandbox, and how many are lost. Resume follows them.
func (s *Supervisor) Recover(ctx context.Context, adopted map[string]runtime.Sandbox, foreign []string) (goOn map[string][]string, lost int, err error) {
	left, err := s.store.LeftExecutions(ctx)
	if err != nil {
		return nil, 0, err
	}
	goOn = map[string][]string{}
	for _, row := range left {
		rec, _, err := s.store.Execution(ctx, row.Tenant, row.ID)
		if err != nil {
			return nil, 0, err
		}
		info, ok := readAttachInfo(row)
		log, err := s.logs.Resume(row.ID, info.OutputLimit)
		if log == nil {
			return nil, 0, err
		}
		if err != nil {
			s.log.Error("the output of a run is not as it was written, and ends before that", "execution", row.ID, "error", err)
		}
		sb := adopted[row.Sandbox]
		if ok && sb != nil && (info.Final || s.sessions.Live(rec.SessionID)) {
			goOn[sb.ID()] = append(goOn[sb.ID()], row.ID)
			s.recovered = append(s.recovered, &Run{
				s: s, record: rec, command: info.Command, resumed: true, log: log, over: make(chan struct{}),
				placement: &placement{
					sandbox: sb, network: info.Network,
					bounds: limits.Bounds{Timeout: info.Timeout, Output: info.OutputLimit, Run: info.Limits},
				},
			})
			s.auditRecovery(ctx, &rec, agentsandbox.AuditOK, "The server stopped while this ran; it is followed to its end.")
			continue
		}
		lost++
		s.writeLost(ctx, &Run{s: s, record: rec, log: log}, slices.Contains(foreign, row.Sandbox))
	}
	return goOn, lost, nil
}

// writeLost writes the outcome of a run that cannot be followed.
func (s *Supervisor) writeLost(ctx context.Context, r *Run, foreign bool) {
	defer r.log.Close()
	r.log.SkipLost()
	r.countOutput(nil)
	rec := &r.record
	note := lostTrack(rec)
	if foreign {
		rec.Error = "The data directory with this record is a copy: the run belongs to the server of the original, and is not followed here."
		note = rec.Error
	}
	rec.HTTPStatus, rec.EndedAt = s.answerStatus(agentsandbox.CodeUnavailable), s.now()
	sealed, err := r.seal(notes(r.output.Stderr, note))
	if err == nil {
		_, err = s.store.FinishExecution(ctx, *rec, sealed)
	}
	if err != nil {
		r.writeBareOutcome(ctx, err)
	} else {
		r.publish()
	}
	s.auditRecovery(ctx, rec, string(agentsandbox.CodeUnavailable), rec.Error)
}

// auditRecovery notes what became of a run whose request the death of the server cut
// off: that request has left no row, or one that says that the run goes on.
func (s *Supervisor) auditRecovery(ctx context.Context, rec *agentsandbox.Execution, outcome, detail string) {
	_ = s.audit.Append(ctx, agentsandbox.AuditEntry{
		Tenant: rec.Tenant, Action: "recoverExecution", ObjectID: rec.ID, Outcome: outcome, Detail: detail,
	})
}

// lostTrack is the verdict on a run that an earlier server started and that
// cannot be followed any more; note is the last line of its standard error.
func lostTrack(rec *agentsandbox.Execution) (note string) {
	rec.Status, rec.ReturnCode, rec.Signal = agentsandbox.StatusSandboxLost, returnCodeKilled, "SIGKILL"
	rec.Truncated = rec.StdoutBytes+rec.StderrBytes > 0
	rec.Error = "The server stopped while this ran, and the rest of it could not be recovered."
	return rec.Error
}

// endUnknown ends a run of which the sandbox has nothing any more.
func (r *Run) endUnknown() {
	ctx, cancel := context.WithTimeout(context.Background(), forgetTimeout)
	defer cancel()
	if err := r.sandbox.Forget(ctx, r.record.ID); err != nil {
		r.s.log.Warn("a run that was given up may go on in its sandbox", "execution", r.record.ID, "error", err)
	}
}

// Resume follows the runs that Recover found.
func (s *Supervisor) Resume() {
	for _, r := range s.recovered {
		ctx := s.work.Context()
		if r.command.Final {
			if err := s.network.Apply(r.sandbox.ID(), s.template, r.network, nil); err != nil {
				s.log.Warn("a run of an earlier server reaches nothing any more", "execution", r.record.ID, "error", err)
			}
			s.egress.WatchRun(r.sandbox.ID(), r.record.Tenant, r.record.ID)
			r.release = func() {
				if errors.Is(r.err, errLeftRunning) {
					s.supply.Release(r.sandbox)
					return
				}
				s.supply.Destroy(r.sandbox)
			}
		} else {
			r.release = func() {}
			if inside, v := s.sessions.Revisit(ctx, r.record.SessionID, "execute"); v != nil { // nil: it has just ended
				ctx, r.visit, r.release = inside, v, v.Leave
			}
		}
		s.work.Go("run of an earlier server", func() {
			defer r.release()
			r.followUp(ctx)
		})
	}
	s.recovered = nil
}

// followUp takes a run of an earlier server to its outcome, for which no request waits.
func (r *Run) followUp(ctx context.Context) {
	defer r.log.Close()
	r.perform(ctx)
	if errors.Is(r.err, errLeftRunning) {
		return
	}
	if r.err != nil {
		r.s.log.Error("a run of an earlier process ended with an error", "execution", r.record.ID, "error", r.err)
		return
	}
	r.s.log.Info("a run of an earlier process has ended", "execution", r.record.ID, "status", r.record.Status)
}
