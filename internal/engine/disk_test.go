package engine_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/eventlog"
)

// unwrittenBytes is how much output all runs have in memory while the disk is full.
const unwrittenBytes = 4 << 20

// mortalDisk is the file of a log, which a dead server does not write.
type mortalDisk struct {
	eventlog.Disk
	s *server
}

func (s *server) writable() error {
	switch {
	case s.dead.Load():
		return errDead
	case s.diskFull.Load():
		return unix.ENOSPC
	}
	return nil
}

func (s *server) openFile(path string, flag int) (eventlog.Disk, error) {
	if flag&os.O_CREATE != 0 {
		if err := s.writable(); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(path, flag, 0o600)
	if err != nil {
		return nil, err
	}
	return mortalDisk{f, s}, nil
}

func (d mortalDisk) WriteAt(b []byte, off int64) (int, error) {
	if err := d.s.writable(); err != nil {
		return 0, err
	}
	return d.Disk.WriteAt(b, off)
}

func (d mortalDisk) Truncate(size int64) error {
	if d.s.dead.Load() {
		return errDead
	}
	return d.Disk.Truncate(size)
}

// What could not be written, and is gone with the server, is not made up.
func TestAFullDiskAndADeadServerAreTold(t *testing.T) {
	h := newHost(t)
	first, ctx := h.start(), as(t, "a")
	id := first.session(ctx)
	first.diskFull.Store(true)
	first.begin(ctx, bash(id, "seq 200000; echo $$ > pid; touch half; sleep 1000"))
	first.exists(ctx, id, "/workspace/half")
	run := first.running(ctx, 1)[0]
	first.kill()
	second := h.start()
	rec := second.ended(ctx, run)
	if rec.Status != agentsandbox.StatusSandboxLost || rec.Error == "" || !strings.Contains(string(rec.Stderr), "could not be recovered") {
		t.Errorf("%s %q %q, %d bytes", rec.Status, rec.Error, rec.Stderr, len(rec.Stdout))
	}
	// The session lives, and what ran in it was ended.
	out, err := second.Execute(ctx, bash(id, "for i in $(seq 100); do kill -0 $(cat pid) || exit 0; sleep 0.05; done; exit 1"))
	if err != nil || out.ReturnCode != 0 {
		t.Errorf("%s %d, %v", out.Status, out.ReturnCode, err)
	}
}

// What could not be written for a while is there in the end, as far as memory had room
// for it. The rest is counted.
func TestAFullDiskAloneLosesNothing(t *testing.T) {
	h := newHost(t)
	s, ctx := h.start(), as(t, "a")
	for _, tt := range []struct{ lines, bytes int }{{200_000, 1_288_895}, {1_000_000, 6_888_896}} {
		s.diskFull.Store(true)
		gate := filepath.Join(t.TempDir(), "gate")
		answer := make(chan *agentsandbox.Execution, 1)
		go func() {
			x, err := s.Execute(ctx, bash("", fmt.Sprintf("seq %d; touch %[2]s.begun; until test -e %[2]s; do sleep 0.01; done", tt.lines, gate)))
			if err != nil {
				t.Error(err)
			}
			answer <- x
		}()
		until(t, "it has printed", func() bool { _, err := os.Stat(gate + ".begun"); return err == nil })
		s.diskFull.Store(false)
		if err := os.WriteFile(gate, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		x := <-answer
		cut := tt.bytes > unwrittenBytes
		if x.Status != agentsandbox.StatusSucceeded || x.StdoutBytes != int64(tt.bytes) || x.Truncated != cut || (len(x.Stdout) < tt.bytes) != cut ||
			len(x.Stdout) < min(tt.bytes, unwrittenBytes/2) || strings.Contains(string(x.Stderr), "the output was cut") != cut {
			t.Errorf("%s, %d of %d bytes, truncated %v, %q", x.Status, len(x.Stdout), x.StdoutBytes, x.Truncated, x.Stderr)
		}
		rec, err := s.Execution(ctx, x.ID)
		if err != nil || string(rec.Stdout) != string(x.Stdout) || string(rec.Stderr) != string(x.Stderr) {
			t.Errorf("the record has %d bytes, the answer %d; %v", len(rec.Stdout), len(x.Stdout), err)
		}
	}
}

// Where the disk takes nothing in the end either, output that is small is in the row,
// and for more there is an outcome without it, which says so.
func TestADiskThatStaysFull(t *testing.T) {
	h := newHost(t)
	s, ctx := h.start(), as(t, "a")
	s.diskFull.Store(true)
	small, err := s.Execute(ctx, bash("", "seq 10000"))
	if err != nil || small.StdoutBytes != 48894 || len(small.Stdout) != 48894 {
		t.Fatalf("%+v, %v", small, err)
	}
	for range 5 { // what was in memory is given back: five times 1.3 MB within 4 MiB
		_, err = s.Execute(ctx, bash("", "seq 200000"))
		if agentsandbox.CodeOf(err) != agentsandbox.CodeStorageFull || !strings.Contains(err.Error(), "The run's record is exe_") {
			t.Fatal(err)
		}
	}
	list, err := s.Executions(ctx, agentsandbox.ExecutionFilter{Page: agentsandbox.Page{Limit: 1}})
	if err != nil {
		t.Fatal(err)
	}
	rec, err := s.Execution(ctx, list.Executions[0].ID)
	if err != nil || rec.Status != agentsandbox.StatusSucceeded || rec.StdoutBytes != 1288895 || !rec.OutputDropped || !rec.Truncated ||
		rec.HTTPStatus != 507 || !strings.Contains(rec.Error, "could not be kept") {
		t.Errorf("%+v, %v", rec, err)
	}
	wantLogs(t, h.dir)
}
