package storetest

import (
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/engine/run"
)

// everyByte is output that no text encoding survives.
func everyByte() []byte {
	b := make([]byte, 256)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

// filled is a running execution with every field of the request set.
func filled() agentsandbox.Execution {
	e := newExecution(ours, at(0))
	e.Ephemeral, e.Language, e.Code = true, agentsandbox.Bash, "echo 'ü\n\u2028'"
	e.Endpoint, e.Method = "/v1/execute", "POST"
	e.Meta = map[string]string{"user_agent": "curl/8 \"x\""}
	return e
}

func executionRoundTrip(t *testing.T, s Store) {
	e := filled()
	ok(t, s.InsertExecution(t.Context(), e, "", nil))
	wantSame(t, must[agentsandbox.Execution](t)(execution(t, s, ours, e.ID)), e)
	wantCode(t, s.InsertExecution(t.Context(), e, "", nil), agentsandbox.CodeConflict)

	e.Status, e.ReturnCode, e.Signal = agentsandbox.StatusMemoryExceeded, 137, "SIGKILL"
	e.Stdout, e.Stderr = everyByte(), []byte("\x00\xff")
	e.StdoutBytes, e.StderrBytes, e.Truncated = 1<<40, 2, true
	e.FilesOmitted, e.DurationMS, e.CPUMS, e.Error = 3, 1<<33, 17, "out of memory"
	e.OmittedReasons = map[agentsandbox.OmittedReason]int{agentsandbox.OmittedIgnored: 1, agentsandbox.OmittedSizeLimit: 2}
	e.HTTPStatus, e.EndedAt = 200, at(2)
	for n, name := range []string{"b.csv", "a.csv"} {
		f := newFile(ours, at(n))
		f.Filename, f.Path = name, agentsandbox.Workspace+"/"+name
		f.SessionID, f.ExecutionID = e.SessionID, e.ID
		e.Files = append(e.Files, f)
	}
	wantEqual(t, "finished", must[bool](t)(finish(t, s, e)), true)
	wantSame(t, must[agentsandbox.Execution](t)(execution(t, s, ours, e.ID)), e)
	for _, f := range e.Files {
		wantSame(t, must[agentsandbox.File](t)(s.File(t.Context(), ours, f.ID)), f)
	}

	ok(t, s.DeleteFile(t.Context(), ours, e.Files[0].ID))
	e.Files = e.Files[1:]
	wantSame(t, must[agentsandbox.Execution](t)(execution(t, s, ours, e.ID)), e)

	_, err := execution(t, s, ours, agentsandbox.NewID(agentsandbox.ExecutionPrefix))
	wantCode(t, err, agentsandbox.CodeExecutionNotFound)
}

func executionFinishOnce(t *testing.T, s Store) {
	e := filled()
	ok(t, s.InsertExecution(t.Context(), e, "", nil))
	first := outcome(e)
	wantEqual(t, "finished", must[bool](t)(finish(t, s, first)), true)

	file := newFile(ours, at(3))
	second := outcome(e, file)
	second.Status, second.Stdout = agentsandbox.StatusCancelled, []byte("other")
	wantEqual(t, "finished again", must[bool](t)(finish(t, s, second)), false)
	wantSame(t, must[agentsandbox.Execution](t)(execution(t, s, ours, e.ID)), first)
	wantEqual(t, "a file of the second outcome", must[bool](t)(s.HasFile(t.Context(), file.ID)), false)

	unknown := outcome(newExecution(ours, at(0)), file)
	wantEqual(t, "finished what is not there", must[bool](t)(finish(t, s, unknown)), false)
	wantEqual(t, "a file of no run", must[bool](t)(s.HasFile(t.Context(), file.ID)), false)
}

func executionFinishAtomic(t *testing.T, s Store) {
	taken := newFile(ours, at(0))
	ok(t, s.InsertFile(t.Context(), taken))
	e := filled()
	ok(t, s.InsertExecution(t.Context(), e, "", nil))

	fresh := newFile(ours, at(1))
	_, err := finish(t, s, outcome(e, fresh, taken))
	wantCode(t, err, agentsandbox.CodeConflict)
	wantSame(t, must[agentsandbox.Execution](t)(execution(t, s, ours, e.ID)), e)
	wantEqual(t, "the first file of a failed outcome", must[bool](t)(s.HasFile(t.Context(), fresh.ID)), false)

	wantEqual(t, "finished after a failure", must[bool](t)(finish(t, s, outcome(e, fresh))), true)
	wantEqual(t, "its file", must[bool](t)(s.HasFile(t.Context(), fresh.ID)), true)
}

// executionFinishByID is how recovery ends runs, of which it has ids only.
func executionFinishByID(t *testing.T, s Store) {
	e := filled()
	ok(t, s.InsertExecution(t.Context(), e, "", nil))
	file := newFile("", at(1))
	lost := agentsandbox.Execution{
		ID: e.ID, Status: agentsandbox.StatusSandboxLost, ReturnCode: 137, EndedAt: at(1), Files: []agentsandbox.File{file},
	}
	wantEqual(t, "finished", must[bool](t)(finish(t, s, lost)), true)

	file.Tenant, file.ExecutionID = ours, e.ID
	e.Status, e.ReturnCode, e.EndedAt, e.Files = lost.Status, lost.ReturnCode, lost.EndedAt, []agentsandbox.File{file}
	wantSame(t, must[agentsandbox.Execution](t)(execution(t, s, ours, e.ID)), e)
}

func executionOneFinisher(t *testing.T, s Store) {
	e := filled()
	ok(t, s.InsertExecution(t.Context(), e, "", nil))
	files := make([]agentsandbox.File, 16)
	for n := range files {
		files[n] = newFile(ours, at(n))
	}
	won := winners(t, func(n int) (bool, error) {
		return finish(t, s, outcome(e, files[n]))
	})
	wantEqual(t, "finishers that won", won, 1)
	got := must[agentsandbox.Execution](t)(execution(t, s, ours, e.ID))
	wantEqual(t, "files of the winner", len(got.Files), 1)
}

func executionRefusals(t *testing.T, s Store) {
	e := filled()
	ok(t, s.InsertExecution(t.Context(), e, "", nil))
	foreign, other := newFile(theirs, at(1)), newFile(ours, at(1))
	other.ExecutionID = agentsandbox.NewID(agentsandbox.ExecutionPrefix)
	endless := outcome(e)
	endless.EndedAt = time.Time{}
	for what, bad := range map[string]agentsandbox.Execution{
		"an outcome that is running":      e,
		"an outcome without a status":     {ID: e.ID, EndedAt: at(1)},
		"an outcome without an end":       endless,
		"a file of another tenant":        outcome(e, foreign),
		"a file of another run":           outcome(e, other),
		"a file without an id":            outcome(e, agentsandbox.File{CreatedAt: at(1)}),
		"a file that was made at no time": outcome(e, agentsandbox.File{ID: other.ID}),
	} {
		if finished, err := finish(t, s, bad); err == nil || finished {
			t.Errorf("%s: finished %v, error %v", what, finished, err)
		}
	}
	wantSame(t, must[agentsandbox.Execution](t)(execution(t, s, ours, e.ID)), e)

	withFile := newExecution(ours, at(0))
	withFile.Files = []agentsandbox.File{other}
	endedRunning := newExecution(ours, at(0))
	endedRunning.EndedAt = at(1)
	for what, bad := range map[string]agentsandbox.Execution{
		"a new record with files":                  withFile,
		"a new record that runs and has ended":     endedRunning,
		"a new record that ended at no known time": {ID: withFile.ID, Tenant: ours, Status: agentsandbox.StatusFailed, CreatedAt: at(0)},
	} {
		if err := s.InsertExecution(t.Context(), bad, "", nil); err == nil {
			t.Errorf("%s was stored", what)
		}
	}
}

func executionLists(t *testing.T, s Store) {
	session := agentsandbox.NewID(agentsandbox.SessionPrefix)
	var all []agentsandbox.Execution
	for n := range 6 {
		e := newExecution(ours, at(n))
		e.Meta = map[string]string{"n": time.Duration(n).String()}
		if n%2 == 0 {
			e.SessionID = session
		}
		ok(t, s.InsertExecution(t.Context(), e, "", nil))
		if n >= 3 {
			f := newFile(ours, at(n))
			f.ExecutionID = e.ID
			e = outcome(e, f)
			must[bool](t)(finish(t, s, e))
		}
		e.Code, e.Stdout, e.Stderr = "", nil, nil // lists leave them out
		all = append(all, e)
	}
	foreign := newExecution(theirs, at(9))
	foreign.SessionID = session
	ok(t, s.InsertExecution(t.Context(), foreign, "", nil))

	page := agentsandbox.Page{Limit: 10}
	for _, c := range []struct {
		filter agentsandbox.ExecutionFilter
		want   []int // indexes of all
	}{
		{agentsandbox.ExecutionFilter{}, []int{5, 4, 3, 2, 1, 0}},
		{agentsandbox.ExecutionFilter{SessionID: session}, []int{4, 2, 0}},
		{agentsandbox.ExecutionFilter{Status: agentsandbox.StatusSucceeded}, []int{5, 4, 3}},
		{agentsandbox.ExecutionFilter{SessionID: session, Status: agentsandbox.StatusRunning}, []int{2, 0}},
		{agentsandbox.ExecutionFilter{SessionID: "ses_unknown"}, nil},
		{agentsandbox.ExecutionFilter{Status: "unknown"}, nil},
	} {
		c.filter.Page = page
		want := agentsandbox.ExecutionPage{Page: page, Total: len(c.want)}
		for _, n := range c.want {
			want.Executions = append(want.Executions, all[n])
		}
		wantSame(t, must[agentsandbox.ExecutionPage](t)(s.Executions(t.Context(), ours, c.filter)), want)
	}
	wantSame(t, leftExecutionIDs(must[[]run.Left](t)(s.LeftExecutions(t.Context()))), []string{all[0].ID, all[1].ID, all[2].ID, foreign.ID})
}

// executionPlans: where a run is at work, and how to follow it, is there until it
// has ended, and in no record that is read.
func executionPlans(t *testing.T, s Store) {
	e := newExecution(ours, at(0))
	plan := []byte(`{"Timeout":1}`)
	ok(t, s.InsertExecution(t.Context(), e, "sbx_1", plan))
	wantSame(t, must[[]run.Left](t)(s.LeftExecutions(t.Context())),
		[]run.Left{{Tenant: ours, ID: e.ID, Sandbox: "sbx_1", AttachInfo: plan}})
	wantSame(t, must[agentsandbox.Execution](t)(execution(t, s, ours, e.ID)), e)
	wantEqual(t, "finished", must[bool](t)(finish(t, s, outcome(e))), true)
	wantSame(t, leftExecutionIDs(must[[]run.Left](t)(s.LeftExecutions(t.Context()))), []string{})
}

func executionTenants(t *testing.T, s Store) {
	e := newExecution(ours, at(0))
	ok(t, s.InsertExecution(t.Context(), e, "", nil))
	for _, tenant := range []string{theirs, "", "TENANT-A", "%"} {
		_, err := execution(t, s, tenant, e.ID)
		wantCode(t, err, agentsandbox.CodeExecutionNotFound)
		filter := agentsandbox.ExecutionFilter{Page: agentsandbox.Page{Limit: 10}, SessionID: e.SessionID}
		page := must[agentsandbox.ExecutionPage](t)(s.Executions(t.Context(), tenant, filter))
		wantEqual(t, "executions seen by "+tenant, page.Total+len(page.Executions), 0)
	}
	stolen := outcome(e)
	stolen.Tenant = theirs
	wantEqual(t, "finished by another tenant", must[bool](t)(finish(t, s, stolen)), false)
	wantSame(t, must[agentsandbox.Execution](t)(execution(t, s, ours, e.ID)), e)
}

func leftExecutionIDs(all []run.Left) []string {
	ids := make([]string, 0, len(all))
	for _, l := range all {
		ids = append(ids, l.ID)
	}
	return ids
}
