package gvisor

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// The sandbox of a server that was killed is no child of the next one.
func TestAdoptAfterKill(t *testing.T) {
	prepared := newHost(t) // makes the snapshot
	prepared.make(bareSnapshot)
	stateDir, err := os.MkdirTemp("", "asbx")
	must(t, err)
	defer func() { must(t, os.RemoveAll(stateDir)) }()
	killServerAt(t, stateDir, func(_ string, out *bytes.Buffer) bool { return strings.Contains(out.String(), "started") })

	for range 2 { // the second time after an orderly end
		r, err := New(testOptions(stateDir, testCache))
		must(t, err)
		found, err := r.Recover(t.Context(), []string{"another", crashedID})
		must(t, err)
		if len(found.Adopted) != 1 || len(found.Destroyed) > 0 {
			t.Fatalf("recovered %+v", found)
		}
		sb := found.Adopted[0]
		if got := python(t, sb, "print(6 * 7)"); got != "42" {
			t.Errorf("got %q", got)
		}
		sb.Release()
		must(t, r.Close())
	}

	r, err := New(testOptions(stateDir, testCache))
	must(t, err)
	found, err := r.Recover(t.Context(), []string{crashedID})
	must(t, err)
	sb := found.Adopted[0]
	must(t, sb.(*sandbox).m.process.kill()) // dies by itself
	closed(t, "the end of the sandbox is noticed", sb.Done())
	must(t, sb.Destroy(context.Background()))
	must(t, r.Close())
	for _, left := range traces(stateDir) {
		t.Errorf("left: %s", left)
	}
}

// Whatever does not fit the record is not taken over, and removed by what is
// ours beyond doubt: the control group.
func TestOnlyWhatIsProvenIsAdopted(t *testing.T) {
	h := newHost(t)
	for name, spoil := range map[string]func(*record){
		"another start time":    func(r *record) { r.StartTicks++ },
		"another run of a host": func(r *record) { r.BootID = "another" },
		"no process":            func(r *record) { r.PID = 0 },
		"another process":       func(r *record) { r.PID = os.Getpid() },
	} {
		sb, err := h.Start(t.Context(), h.spec(testLimits))
		must(t, err)
		sb.Release()
		rec := sb.(*sandbox).m.record
		spoil(&rec)
		must(t, h.records.write(rec))
		found, err := h.Recover(t.Context(), []string{sb.ID()})
		must(t, err)
		if len(found.Adopted) > 0 || !slices.Equal(found.Destroyed, []string{sb.ID()}) {
			t.Errorf("%s: %+v", name, found)
		}
	}
}

func TestLimitsAreInForceAfterAdoption(t *testing.T) {
	h := newHost(t)
	sb := h.start(testLimits)
	limits := runtime.Limits{MemoryBytes: 768 << 20, MilliCPUs: 500, Tasks: 1024}
	must(t, sb.SetLimits(t.Context(), limits))
	sb.Release()
	must(t, sb.(*sandbox).m.group.SetLimits(runtime.Limits{MemoryBytes: 2 << 30, MilliCPUs: 2000, Tasks: 4096}))
	found, err := h.Recover(t.Context(), []string{sb.ID()})
	must(t, err)
	if len(found.Adopted) != 1 {
		t.Fatalf("recovered %+v", found)
	}
	defer func() { must(t, found.Adopted[0].Destroy(context.Background())) }()
	files, err := filepath.Glob("/sys/fs/cgroup/*/" + groupName(h.stateDir) + "/" + sb.ID() + "/memory.limit_in_bytes")
	must(t, err)
	if len(files) == 0 {
		files = []string{filepath.Join("/sys/fs/cgroup", groupName(h.stateDir), sb.ID(), "memory.max")}
	}
	text, err := os.ReadFile(files[0])
	must(t, err)
	if got := strings.TrimSpace(string(text)); got != strconv.FormatInt(walled(limits).MemoryBytes, 10) {
		t.Errorf("the memory limit in force is %s", got)
	}
}

// Code in a sandbox cannot take the place of the server.
func TestTheDoorIsClosedToUsers(t *testing.T) {
	h := newHost(t)
	sb := h.start(testLimits)
	code := `
import os, socket, subprocess
for attempt in (
    lambda: socket.socket(socket.AF_UNIX).connect("` + guest.DoorDir + `/socket"),
    lambda: os.listdir("` + guest.DoorDir + `"),
    lambda: os.rename("` + guest.DoorDir + `", "/tmp/door"),
):
    try:
        attempt()
        print("came in")
    except PermissionError:
        pass
a, b = socket.socketpair()
if subprocess.run(["` + guest.AgentPath + `", "` + guest.AttachCommand + `"], pass_fds=[a.fileno()], stderr=subprocess.DEVNULL).returncode == 0:
    print("was let in")
print("over")
`
	if got := python(t, sb, code); got != "over" {
		t.Errorf("got %q", got)
	}
}

// TestTakenOverWhileTheUsersProcessesAreEnded: the program that hands the agent a
// new conversation dies with the user's processes, and is run again.
func TestTakenOverWhileTheUsersProcessesAreEnded(t *testing.T) {
	h := newHost(t)
	sb := h.start(testLimits).(*sandbox)
	sb.Release() // as if its server had died
	client, err := h.attach(t.Context(), sb.m)
	must(t, err)
	for range 5 {
		var ending sync.WaitGroup
		ending.Go(func() {
			for range 20 {
				if client.Relieve(t.Context()) != nil {
					return // another conversation has taken over
				}
			}
		})
		var next *guest.Client
		err := patiently(t.Context(), nil, func() (err error) {
			next, err = h.attach(t.Context(), sb.m)
			return err
		})
		ending.Wait()
		must(t, err)
		client = next
	}
	_ = client.Close()
	gone, err := h.Recover(t.Context(), nil)
	must(t, err)
	if !slices.Equal(gone.Destroyed, []string{sb.ID()}) {
		t.Errorf("destroyed %v, want %s", gone.Destroyed, sb.ID())
	}
}
