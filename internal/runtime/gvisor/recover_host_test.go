package gvisor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gvisor.dev/gvisor/pkg/sentry/state/checkpointfiles"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

const crashedID = "exe_crashed"

// serveUntilKilled is a server that starts one sandbox and is killed, sooner or
// later.
func serveUntilKilled(stateDir, cacheDir string) int {
	out := os.Stdout
	opts := testOptions(stateDir, cacheDir)
	opts.Logger = slog.New(slog.NewTextHandler(out, nil))
	r, err := New(opts)
	if err == nil {
		_, err = r.Start(context.Background(), runtime.Spec{ID: crashedID, Snapshot: bareSnapshot, Limits: testLimits})
	}
	if err != nil {
		_, _ = fmt.Fprintln(out, err) // the test sees that nothing was started
		return 1
	}
	if _, err := fmt.Fprintln(out, "started"); err != nil {
		return 1
	}
	select {} // until killed
}

// A server that is killed in the middle of a start must leave nothing, once the
// next one has recovered.
func TestRecoverAfterKill(t *testing.T) {
	prepared := newHost(t) // makes the snapshot
	prepared.make(bareSnapshot)
	moments := map[string]func(stateDir string, out *bytes.Buffer) bool{
		"record": func(dir string, _ *bytes.Buffer) bool { return readRecord(dir) != nil },
		"group":  func(dir string, _ *bytes.Buffer) bool { return len(groupsOf(dir)) > 0 },
		"process in the group": func(dir string, _ *bytes.Buffer) bool {
			return slices.ContainsFunc(groupsOf(dir), func(group string) bool {
				b, _ := os.ReadFile(filepath.Join(group, "cgroup.procs"))
				return len(b) > 0
			})
		},
		"process in the record": func(dir string, _ *bytes.Buffer) bool {
			rec := readRecord(dir)
			return rec != nil && rec.PID > 0
		},
		"started": func(_ string, out *bytes.Buffer) bool { return strings.Contains(out.String(), "started") },
	}
	for name, moment := range moments {
		t.Run(name, func(t *testing.T) {
			stateDir, err := os.MkdirTemp("", "asbx")
			must(t, err)
			defer func() { must(t, os.RemoveAll(stateDir)) }()
			killServerAt(t, stateDir, moment)

			r, err := New(testOptions(stateDir, testCache))
			must(t, err)
			// Nobody's: not even one that was started is kept.
			found, err := r.Recover(t.Context(), []string{"another"})
			must(t, err)
			if !slices.Equal(found.Destroyed, []string{crashedID}) || len(found.Adopted) > 0 {
				t.Errorf("recovered %v", found)
			}
			if again, err := r.Recover(t.Context(), nil); err != nil || len(again.Destroyed) > 0 {
				t.Errorf("recovering again: %v %v", again, err)
			}
			must(t, r.Close())
			// A process that had not joined its group yet cannot, and ends by itself.
			eventually(t, "the end of every process", func() bool { return len(sandboxProcesses(stateDir)) == 0 })
			for _, left := range traces(stateDir) {
				t.Errorf("left: %s", left)
			}
		})
	}
}

// killServerAt runs a server and kills it when the moment has come.
func killServerAt(t *testing.T, stateDir string, moment func(string, *bytes.Buffer) bool) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "output")
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), crashVariable+"="+stateDir, "AGENTSANDBOX_TEST_CACHE="+testCache)
	cmd.Stdout, cmd.Stderr = f, f
	must(t, cmd.Start())
	defer func() { _ = cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	eventually(t, "the moment of the crash", func() bool {
		text, err := os.ReadFile(path)
		must(t, err)
		return moment(stateDir, bytes.NewBuffer(text))
	})
}

func readRecord(stateDir string) *record {
	b, err := os.ReadFile(filepath.Join(stateDir, recordsDir, crashedID+recordSuffix))
	if err != nil {
		return nil
	}
	rec := &record{}
	_ = json.Unmarshal(b, rec) // half a record is one too
	return rec
}

func groupsOf(stateDir string) []string {
	groups, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup/*", groupName(stateDir), crashedID))
	if len(groups) == 0 {
		groups, _ = filepath.Glob(filepath.Join("/sys/fs/cgroup", groupName(stateDir), crashedID))
	}
	return groups
}

// A snapshot that is whole, but that gVisor does not take, is made again.
func TestUnusableSnapshotIsMadeAgain(t *testing.T) {
	cache := t.TempDir()
	h := newHostWith(t, func(o *Options) { o.CacheDir = cache })
	recipe, err := testRecipe(t.Context(), bareSnapshot)
	must(t, err)
	in, err := h.snapshots.inputs(recipe, coresFor(testLimits), DefaultDiskBytes)
	must(t, err)
	made, err := h.Snapshots().Make(t.Context(), bareSnapshot, testLimits, nil)
	must(t, err)
	must(t, h.Snapshots().Remove(t.Context(), made.ID))
	snap, err := h.snapshots.Store.Make(t.Context(), in, func(_ context.Context, dir string) error {
		return errors.Join(
			os.WriteFile(filepath.Join(dir, specFile), in.Spec, 0o600),
			os.WriteFile(filepath.Join(dir, checkpointfiles.StateFileName), []byte("nonsense"), 0o600),
		)
	}, func(string) {})
	must(t, err)
	if snap.ID != made.ID {
		t.Fatalf("another snapshot: %s, not %s", snap.ID, made.ID)
	}
	if got := python(t, h.start(testLimits), "print('again')"); got != "again" {
		t.Errorf("got %q", got)
	}
	if !strings.Contains(h.log.String(), "making it again") {
		t.Error("nobody was told")
	}
}
