package storetest

import (
	"bytes"
	"slices"
	"testing"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/eventlog"
)

// A store does not look into logs: in these tests, that of a run is what it wrote to
// standard output, and behind it what it wrote to standard error.

func finish(t *testing.T, s Store, e agentsandbox.Execution) (bool, error) {
	log := eventlog.Sealed{Stdout: int64(len(e.Stdout)), Stderr: int64(len(e.Stderr)), Inline: append(bytes.Clone(e.Stdout), e.Stderr...)}
	log.Size = int64(len(log.Inline))
	e.Stdout, e.Stderr = nil, nil
	return s.FinishExecution(t.Context(), e, log)
}

func execution(t *testing.T, s Store, tenant, id string) (agentsandbox.Execution, error) {
	e, log, err := s.Execution(t.Context(), tenant, id)
	if log.Size != int64(len(log.Inline)) || log.Size != log.Stdout+log.Stderr {
		t.Errorf("%s has a log of %d bytes, of which %d are in the row, with %d and %d of output", id, log.Size, len(log.Inline), log.Stdout, log.Stderr)
	}
	if log.Stdout > 0 {
		e.Stdout = log.Inline[:log.Stdout]
	}
	if log.Stderr > 0 {
		e.Stderr = log.Inline[log.Stdout:]
	}
	return e, err
}

func deleteExecutions(t *testing.T, s Store, before int, limit int) (int, error) {
	ids, err := s.DeleteExecutions(t.Context(), at(before), limit)
	return len(ids), err
}

func dropOutput(t *testing.T, s Store, tenant string, keep int64) (int, error) {
	ids, err := s.DropOutput(t.Context(), tenant, keep)
	return len(ids), err
}

func wantLog(t *testing.T, s Store, id string, want eventlog.Sealed, needed bool) {
	t.Helper()
	_, log, err := s.Execution(t.Context(), ours, id)
	ok(t, err)
	wantSame(t, log, want)
	wantEqual(t, "its file is needed", must[bool](t)(s.NeedsLog(t.Context(), id)), needed)
}

// executionLogs: the row has a small log, and of a large one what is to be known of the
// file. Whoever drops output, or deletes records, is told whose it was.
func executionLogs(t *testing.T, s Store) {
	small := eventlog.Sealed{Size: 9, Stdout: 1, Stderr: 2, Inline: []byte("\x00whatever")}
	large := eventlog.Sealed{Size: 1 << 33, Stdout: 3 << 30, Stderr: 1 << 30}
	var ids []string
	for n, log := range []eventlog.Sealed{small, large, large} {
		e := newExecution(ours, at(n))
		ids = append(ids, e.ID)
		ok(t, s.InsertExecution(t.Context(), e, "", nil))
		wantLog(t, s, e.ID, eventlog.Sealed{}, true)
		e = outcome(e)
		wantEqual(t, "finished", must[bool](t)(s.FinishExecution(t.Context(), e, log)), true)
		wantLog(t, s, e.ID, log, log.Inline == nil)
	}
	code := int64(len(newExecution(ours, at(0)).Code))
	wantOutput(t, s, ours, 3*code+3+2*4<<30)
	wantEqual(t, "the file of no run is needed", must[bool](t)(s.NeedsLog(t.Context(), "exe_unknown")), false)

	wantSame(t, must[[]string](t)(s.DropOutput(t.Context(), ours, code+4<<30)), ids[:2])
	wantOutput(t, s, ours, code+4<<30)
	wantLog(t, s, ids[0], eventlog.Sealed{}, false)
	wantLog(t, s, ids[1], eventlog.Sealed{}, false)
	wantLog(t, s, ids[2], large, true)

	deleted := must[[]string](t)(s.DeleteExecutions(t.Context(), at(50), 10))
	slices.Sort(deleted)
	slices.Sort(ids)
	wantSame(t, deleted, ids)
	wantOutput(t, s, ours, 0)
	wantEqual(t, "the file of a deleted record is needed", must[bool](t)(s.NeedsLog(t.Context(), ids[2])), false)
}
