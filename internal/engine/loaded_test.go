package engine_test

import (
	"slices"
	"testing"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// TestCodeFindsItsModules checks what a run starts from, and what the sandbox is
// told that such code loads.
func TestCodeFindsItsModules(t *testing.T) {
	f := newFixture(t, t.TempDir())
	ctx := as(t, "acme")
	seen := func() (runtime.Spec, []string) {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.started, f.ran.Modules
	}
	run := func(code, session string) {
		t.Helper()
		if _, err := f.Execute(ctx, agentsandbox.ExecuteRequest{Language: agentsandbox.Python, Code: code, SessionID: session}); err != nil {
			t.Fatal(err)
		}
	}
	const plain, loaded = "import json", "try: pass\nfinally: 1\nif False:\n    import numpy"
	run(plain, "")
	if spec, modules := seen(); spec.Snapshot != "default" || len(modules) > 0 {
		t.Errorf("plain code: %q, %q", spec.Snapshot, modules)
	}
	run(loaded, "")
	if spec, modules := seen(); spec.Snapshot != "loaded" || !slices.Equal(modules, []string{"numpy"}) {
		t.Errorf("code that imports: %q, %q", spec.Snapshot, modules)
	}
	s, err := f.CreateSession(ctx, agentsandbox.SessionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	run(loaded, s.ID)
	if spec, modules := seen(); spec.Snapshot != "default" || !slices.Equal(modules, []string{"numpy"}) {
		t.Errorf("in a session: %q, %q", spec.Snapshot, modules)
	}
	_, err = f.CreateSession(ctx, agentsandbox.SessionRequest{Template: "nope"})
	wantCode(t, err, agentsandbox.CodeInvalidRequest)
}
