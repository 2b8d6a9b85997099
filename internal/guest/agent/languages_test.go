package agent

import (
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/guest/proc"
	"github.com/agentsandbox/agentsandbox/internal/guest/warm"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// recorder is a starter that notes what it is asked for.
type recorder struct {
	starter
	mu                sync.Mutex
	started, refilled []warm.Run
}

func (r *recorder) Start(run warm.Run) (proc.Process, error) {
	r.mu.Lock()
	r.started = append(r.started, run)
	r.mu.Unlock()
	return r.starter.Start(run)
}

func (r *recorder) Refill(run warm.Run) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refilled = append(r.refilled, run)
}

func (r *recorder) lastRefilled() (warm.Run, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.refilled) == 0 {
		return warm.Run{}, false
	}
	return r.refilled[len(r.refilled)-1], true
}

// TestModulesAreThoseThatTheHostNames checks that the agent loads ahead what a run
// says, and nothing of its own, and nothing at all where there is little memory.
func TestModulesAreThoseThatTheHostNames(t *testing.T) {
	a := newAgent(t, nil)
	l := a.language(string(agentsandbox.Python))
	rec := &recorder{starter: l.starter}
	l.starter = rec
	c := client(t, a)
	for _, tc := range []struct {
		code    string
		modules []string
		memory  int64
		want    []string
	}{
		{code: "try: import numpy\nexcept ImportError: pass"},
		{code: "import json", modules: []string{"json", "decimal"}, want: []string{"json", "decimal"}},
		{code: "import json", modules: []string{"json"}, memory: preloadMemory, want: []string{"json"}},
		{code: "import json", modules: []string{"json"}, memory: preloadMemory - 1},
	} {
		a.memory.Store(tc.memory)
		outcome(t, c, runtime.Command{ID: a.nextName(), Language: agentsandbox.Python, Code: tc.code, Modules: tc.modules})
		if got := rec.started[len(rec.started)-1].Modules; !slices.Equal(got, tc.want) {
			t.Errorf("%q with %v: %v are loaded ahead, want %v", tc.code, tc.modules, got, tc.want)
		}
	}
	eventually(t, "a run that is over and was taken lets another process wait", func() bool {
		run, ok := rec.lastRefilled()
		if ok && (run.Code != nil || run.Env != nil) {
			t.Fatalf("the code of a run that is over is kept: %+v", run)
		}
		return ok
	})
}

func TestUnknownLanguages(t *testing.T) {
	a := newAgent(t, nil)
	_, err := a.startRun(&guest.RunRequest{ID: "r", Language: "cobol"}, nil)
	if f := failureOf(err); f.Code != guest.FailInvalid || !strings.Contains(f.Text, `no "cobol"`) {
		t.Errorf("%+v", f)
	}
}
