package fake

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
	"github.com/agentsandbox/agentsandbox/internal/runtime/runtimetest"
)

func TestSuite(t *testing.T) {
	r := New(Options{Dir: t.TempDir()})
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	runtimetest.Suite(t, func(t *testing.T) runtime.Sandbox {
		sb, err := r.Start(t.Context(), runtime.Spec{ID: agentsandbox.NewID("sbx_")})
		if err != nil {
			t.Fatal(err)
		}
		return sb
	}, runtimetest.WithoutIsolation)
}

func TestSurvivalSuite(t *testing.T) {
	r := New(Options{Dir: t.TempDir()})
	runtimetest.SurvivalSuite(t, func(t *testing.T) runtime.Sandbox {
		sb, err := r.Start(t.Context(), runtime.Spec{ID: agentsandbox.NewID("sbx_")})
		if err != nil {
			t.Fatal(err)
		}
		return sb
	}, func(t *testing.T, sb runtime.Sandbox) runtime.Sandbox {
		sb.Release()
		found, err := r.Recover(t.Context(), []string{sb.ID()})
		if err != nil || len(found.Adopted) != 1 {
			t.Fatalf("%+v, %v", found, err)
		}
		return found.Adopted[0]
	})
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

func TestSnapshotSuite(t *testing.T) {
	runtimetest.SnapshotSuite(t, func(t *testing.T) runtimetest.Machine {
		return New(Options{Dir: t.TempDir(), Snapshots: []string{"default"}})
	}, "default")
}

func TestStartFails(t *testing.T) {
	broken := errors.New("no room")
	dir := t.TempDir()
	r := New(Options{Dir: dir, OnStart: func(context.Context, runtime.Spec) error { return broken }})
	if sb, err := r.Start(t.Context(), runtime.Spec{ID: "a"}); !errors.Is(err, broken) {
		t.Fatalf("Start: %v, %v", sb, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 || r.Live() != 0 {
		t.Errorf("left: %v, %v, %d sandboxes", left, err, r.Live())
	}
}

func TestSandboxDies(t *testing.T) {
	r := New(Options{Dir: t.TempDir()})
	made, err := r.Start(t.Context(), runtime.Spec{ID: "a", Limits: runtime.Limits{Tasks: 7}})
	if err != nil {
		t.Fatal(err)
	}
	sb := r.Sandbox("a")
	if sb == nil || sb.Limits().Tasks != 7 || made.ID() != "a" {
		t.Fatalf("got %v", sb)
	}
	run, err := sb.Run(t.Context(), runtime.Command{ID: "x", Language: agentsandbox.Bash, Code: "sleep 1000"})
	if err != nil {
		t.Fatal(err)
	}
	sb.Die()
	<-sb.Done()
	if _, err := run.Next(t.Context()); !errors.Is(err, runtime.ErrSandboxLost) {
		t.Errorf("Next: %v", err)
	}
	if err := r.Close(); err == nil {
		t.Error("Close succeeds with a sandbox left")
	}
	if err := sb.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(sb.Dir()); !os.IsNotExist(err) {
		t.Errorf("the directory is left: %v", err)
	}
}

// The counters of a sandbox that has died say why, until it is destroyed.
func TestUsageAfterDeath(t *testing.T) {
	r := New(Options{Dir: t.TempDir()})
	made, err := r.Start(t.Context(), runtime.Spec{ID: "sbx_x"})
	if err != nil {
		t.Fatal(err)
	}
	sb := made.(*Sandbox)
	sb.SetUsage(runtime.Usage{OOMKills: 1})
	sb.Die()
	<-sb.Done()
	if u, err := sb.Usage(); err != nil || u.OOMKills != 1 {
		t.Errorf("dead: %+v, %v", u, err)
	}
	if err := sb.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := sb.Usage(); !errors.Is(err, runtime.ErrSandboxLost) {
		t.Errorf("destroyed: %v", err)
	}
}
