package gvisor

import (
	"testing"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// TestTheWallIsInstalled checks that real sandboxes are below the limit that New
// was given, and what is counted of them.
func TestTheWallIsInstalled(t *testing.T) {
	needRoot(t)
	opts := testOptions(t.TempDir(), testCache)
	opts.MemoryWallBytes = 64 << 10
	r, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	// Too small for anything: no sandbox may come up.
	limits := runtime.Limits{MemoryBytes: 512 << 20, MilliCPUs: 1000, Tasks: 500}
	sb, err := r.Start(t.Context(), runtime.Spec{ID: "walled", Snapshot: bareSnapshot, Limits: limits})
	if err == nil {
		t.Error("a sandbox started beyond the wall")
		_ = sb.Destroy(t.Context())
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	opts.MemoryWallBytes = -1
	if r, err := New(opts); err == nil {
		t.Error("a wall that cannot be was taken")
		_ = r.Close()
	}

	opts.MemoryWallBytes = 1 << 30
	if r, err = New(opts); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}()
	sb, err = r.Start(t.Context(), runtime.Spec{ID: "within", Snapshot: bareSnapshot, Limits: limits})
	if err != nil {
		t.Fatal(err)
	}
	one, err := sb.WorkingSet()
	if err != nil || one < 4<<20 || one > 512<<20 {
		t.Errorf("a sandbox uses %d bytes, %v", one, err)
	}
	if all, err := r.MemoryUse(0); err != nil || all < one/2 || all > 1<<30 {
		t.Errorf("all use %d bytes, one of them %d, %v", all, one, err)
	}
	if err := sb.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
	if left, err := r.MemoryUse(0); err != nil || left > one {
		t.Errorf("%d bytes are used when none lives, %v", left, err)
	}
}
