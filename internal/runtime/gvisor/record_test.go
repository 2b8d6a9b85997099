package gvisor

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestRecords(t *testing.T) {
	r := records{dir: t.TempDir()}
	rec := record{ID: "exe_1", Snapshot: bareSnapshot, CreatedAt: time.Now().UTC().Round(0), BootID: "b"}
	must(t, r.create(rec))
	if err := r.create(rec); err == nil {
		t.Error("one id was taken twice")
	}
	rec.PID, rec.StartTicks = 12, 34
	must(t, r.write(rec))
	// What crashes leave: half a record, a temporary name, and what is not ours.
	must(t, os.WriteFile(r.path("exe_2"), []byte(`{"id":"exe_2","pi`), 0o600))
	must(t, os.WriteFile(filepath.Join(r.dir, ".exe_3"), []byte("x"), 0o600))
	must(t, os.WriteFile(filepath.Join(r.dir, "notes.txt"), []byte("x"), 0o600))
	// A record that names another sandbox is not believed.
	must(t, os.WriteFile(r.path("exe_4"), []byte(`{"id":"other","pid":1}`), 0o600))
	all, err := r.list()
	must(t, err)
	got := map[string]record{}
	for _, rec := range all {
		got[rec.ID] = rec
	}
	if len(all) != 3 || got["exe_1"] != rec || got["exe_2"].PID != 0 || got["exe_4"].PID != 0 {
		t.Errorf("got %+v", all)
	}
	if _, err := os.Stat(filepath.Join(r.dir, ".exe_3")); !errors.Is(err, os.ErrNotExist) {
		t.Error("a temporary file is left")
	}
	must(t, r.remove("exe_1"))
	must(t, r.remove("exe_1"))
}

func TestValidID(t *testing.T) {
	for id, want := range map[string]bool{
		"exe_abc-9": true, "A": true, "": false, ".": false, "..": false, "a/b": false, "a b": false, "a\x00": false,
		string(make([]byte, maxIDLength+1)): false, "ü": false,
	} {
		if validID(id) != want {
			t.Errorf("%q: %v", id, !want)
		}
	}
}

func TestProcess(t *testing.T) {
	cmd := exec.Command("/bin/sleep", "1000")
	must(t, cmd.Start())
	p, err := openProcess(cmd.Process.Pid)
	must(t, err)
	defer p.close()
	before, err := startTime(cmd.Process.Pid)
	must(t, err)
	if mine, err := startTime(os.Getpid()); err != nil || mine == 0 || mine > before {
		t.Errorf("this process started at %d, its child at %d: %v", mine, before, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := p.wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting ended with %v", err)
	}
	q, err := openProcess(cmd.Process.Pid)
	must(t, err)
	defer q.close()
	must(t, q.kill())
	must(t, q.wait(context.Background()))
	// The process is a zombie now; once it is collected, its number is free.
	if err := cmd.Wait(); err == nil {
		t.Error("the process was not killed")
	}
	must(t, q.kill())
	if _, err := openProcess(cmd.Process.Pid); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("a process that is gone: %v", err)
	}
}

// A number that stands for another process now must not be killed.
func TestRecoverKillsOnlyWhatTheRecordNames(t *testing.T) {
	cmd := exec.Command("/bin/sleep", "1000")
	must(t, cmd.Start())
	defer func() { _ = cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	ticks, err := startTime(cmd.Process.Pid)
	must(t, err)
	boot, err := bootID()
	must(t, err)
	r := &Runtime{bootID: boot}
	for _, rec := range []record{
		{ID: "a", PID: cmd.Process.Pid, StartTicks: ticks + 1, BootID: boot},
		{ID: "b", PID: cmd.Process.Pid, StartTicks: ticks, BootID: "another run of the host"},
		{ID: "c", PID: 0, StartTicks: ticks, BootID: boot},
	} {
		must(t, r.endProcess(context.Background(), rec))
		if now, err := startTime(cmd.Process.Pid); err != nil || now != ticks {
			t.Fatalf("record %s: the process is gone", rec.ID)
		}
	}
	must(t, r.endProcess(context.Background(), record{ID: "d", PID: cmd.Process.Pid, StartTicks: ticks, BootID: boot}))
}

func TestStateDirectoryHasOneUser(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := lockStateDir(path)
	must(t, err)
	if _, err := lockStateDir(path); err == nil {
		t.Fatal("two servers have the state directory")
	}
	first.Close()
	again, err := lockStateDir(path)
	must(t, err)
	again.Close()
}

// gVisor silently puts a control socket whose path is too long somewhere else.
func TestControlSocketsHaveRoom(t *testing.T) {
	const room = 107 // what a Unix socket address holds, less the final NUL
	path := filepath.Join(runDir, groupPrefix+strings.Repeat("x", 12), socketName(strings.Repeat("i", maxIDLength)))
	if len(path) > room {
		t.Errorf("%s has %d characters; at most %d fit", path, len(path), room)
	}
}
