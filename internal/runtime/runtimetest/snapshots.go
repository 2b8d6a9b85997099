package runtimetest

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"testing"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// Machine is a runtime with its snapshots, of which none is there.
type Machine interface {
	runtime.Runtime
	Snapshots() runtime.Snapshots
}

// SnapshotSuite is the contract of snapshots. name is one that the machine knows.
func SnapshotSuite(t *testing.T, open func(t *testing.T) Machine, name string) {
	for what, test := range map[string]func(*testing.T, Machine, string){
		"make, list, open, remove": manageSnapshots,
		"unknown":                  unknownSnapshots,
		"start":                    startFromSnapshots,
	} {
		t.Run(what, func(t *testing.T) { test(t, open(t), name) })
	}
}

var snapshotLimits = runtime.Limits{MemoryBytes: 512 << 20, MilliCPUs: 1000, DiskBytes: 64 << 20}

func makeSnapshot(t *testing.T, m Machine, name string, limits runtime.Limits) runtime.Manifest {
	t.Helper()
	made, err := m.Snapshots().Make(t.Context(), name, limits, func(string) {})
	if err != nil {
		t.Fatalf("Make: %v", err)
	}
	return made
}

func manageSnapshots(t *testing.T, m Machine, name string) {
	first := makeSnapshot(t, m, name, snapshotLimits)
	if first.ID == "" || first.Kind != runtime.SnapshotTemplate || first.Image == "" || first.Kernel == "" ||
		first.CPUs != 1 || first.DiskBytes != 64<<20 || first.MadeAt.IsZero() || first.SizeBytes == 0 {
		t.Errorf("manifest: %+v", first)
	}
	if again := makeSnapshot(t, m, name, snapshotLimits); again.ID != first.ID || !again.MadeAt.Equal(first.MadeAt) {
		t.Errorf("made again: %+v, not %+v", again, first)
	}
	smaller := snapshotLimits
	smaller.MemoryBytes, smaller.Tasks = 256<<20, 100
	if again := makeSnapshot(t, m, name, smaller); again.ID != first.ID {
		t.Error("limits that can be changed have a snapshot of their own")
	}
	larger := snapshotLimits
	larger.DiskBytes *= 2
	second := makeSnapshot(t, m, name, larger)
	if second.ID == first.ID || second.DiskBytes != larger.DiskBytes {
		t.Errorf("another size of the disk has no snapshot of its own: %+v", second)
	}
	want := []string{first.ID, second.ID}
	slices.Sort(want)
	if got := listSnapshots(t, m); !slices.Equal(got, want) {
		t.Errorf("listed %v, want %v", got, want)
	}
	opened, err := m.Snapshots().Open(t.Context(), first.ID)
	if err != nil || !opened.MadeAt.Equal(first.MadeAt) {
		t.Errorf("opened %+v, %v", opened, err)
	}
	opened.MadeAt = first.MadeAt
	if !reflect.DeepEqual(opened, first) {
		t.Errorf("opened %+v, made %+v", opened, first)
	}
	for range 2 {
		if err := m.Snapshots().Remove(t.Context(), first.ID); err != nil {
			t.Errorf("Remove: %v", err)
		}
	}
	if _, err := m.Snapshots().Open(t.Context(), first.ID); !errors.Is(err, runtime.ErrNoSnapshot) {
		t.Errorf("a removed snapshot: %v", err)
	}
	if got := listSnapshots(t, m); !slices.Equal(got, []string{second.ID}) {
		t.Errorf("left %v", got)
	}
}

func listSnapshots(t *testing.T, m Machine) []string {
	t.Helper()
	all, err := m.Snapshots().List(t.Context())
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	var ids []string
	for _, s := range all {
		ids = append(ids, s.ID)
	}
	return ids
}

func unknownSnapshots(t *testing.T, m Machine, _ string) {
	const unknown = "no such name"
	if _, err := m.Snapshots().Make(t.Context(), unknown, snapshotLimits, nil); !errors.Is(err, runtime.ErrNoSnapshot) {
		t.Errorf("Make: %v", err)
	}
	spec := runtime.Spec{ID: "sbx_unknown", Snapshot: unknown, Limits: snapshotLimits}
	if _, err := m.Start(t.Context(), spec); !errors.Is(err, runtime.ErrNoSnapshot) {
		t.Errorf("Start: %v", err)
	}
	for _, id := range []string{"", "..", "*", unknown} {
		if _, err := m.Snapshots().Open(t.Context(), id); !errors.Is(err, runtime.ErrNoSnapshot) {
			t.Errorf("Open %q: %v", id, err)
		}
		if err := m.Snapshots().Remove(t.Context(), id); err != nil {
			t.Errorf("Remove %q: %v", id, err)
		}
	}
	if got := listSnapshots(t, m); len(got) > 0 {
		t.Errorf("there are %v", got)
	}
}

// startFromSnapshots checks that a sandbox does not need its snapshot any more, and
// that Start makes what is missing.
func startFromSnapshots(t *testing.T, m Machine, name string) {
	start := func(id string) *box {
		sb, err := m.Start(t.Context(), runtime.Spec{ID: id, Snapshot: name, Limits: snapshotLimits})
		if err != nil {
			t.Fatalf("Start: %v", err)
		}
		t.Cleanup(func() {
			if err := sb.Destroy(context.Background()); err != nil {
				t.Errorf("Destroy: %v", err)
			}
		})
		return &box{Sandbox: sb, t: t}
	}
	first := start(agentsandbox.NewID("sbx_"))
	made := listSnapshots(t, m)
	if len(made) != 1 {
		t.Fatalf("Start made %v", made)
	}
	if err := m.Snapshots().Remove(t.Context(), made[0]); err != nil {
		t.Fatalf("Remove: %v", err)
	}
	second := start(agentsandbox.NewID("sbx_"))
	if got := listSnapshots(t, m); !slices.Equal(got, made) {
		t.Errorf("Start made %v, not %v", got, made)
	}
	for _, b := range []*box{first, second} {
		if o := b.finish(b.begin(bash("echo here"))); o.stdout.String() != "here\n" {
			t.Errorf("%v", o)
		}
	}
}
