package proc

import (
	"log/slog"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// start starts a script of sh in a table of its own.
func start(t *testing.T, code string) (*Child, Output) {
	t.Helper()
	table := New(Options{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	ch, out, err := table.Start(Program{Path: "/bin/sh", Args: []string{"sh", "-c", code}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ch.Kill()
		<-ch.Done()
		out.Close()
		table.Close()
	})
	return ch, out
}

// line reads one line.
func line(t *testing.T, out Output) string {
	t.Helper()
	var got []byte
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		if _, closed := out.Waiter.Wait(20 * time.Second); closed {
			break
		}
		b := make([]byte, 1000)
		n := out.Stdout.ReadNow(b)
		if got = append(got, b[:n]...); n == 0 || strings.HasSuffix(string(got), "\n") {
			return strings.TrimSuffix(string(got), "\n")
		}
		out.Waiter.Rearm(out.Stdout)
	}
	t.Fatalf("no line, but %q", got)
	return ""
}

func ended(t *testing.T, ch *Child) Exit {
	t.Helper()
	select {
	case <-ch.Done():
	case <-time.After(5 * time.Minute):
		t.Fatal("the process does not end")
	}
	return ch.Exit(time.Now(), 0)
}

func TestAProcessEnds(t *testing.T) {
	ch, out := start(t, "echo $PWD; exit 7")
	if got := line(t, out); !strings.HasPrefix(got, os.TempDir()) {
		t.Errorf("it started in %q", got)
	}
	if e := ended(t, ch); e.Status.ExitStatus() != 7 {
		t.Errorf("%+v", e)
	}
	if !ch.Exited() || ch.OwnCPU() != 0 {
		t.Error("it has ended, and has a use of CPU of its own")
	}
	ch.WithLive(func(int) { t.Error("a process that was reaped counts as live") })
}

func TestKillReachesWhatLeftTheGroup(t *testing.T) {
	ch, out := start(t, "setsid sleep 1000 & echo $!; wait")
	pid, err := strconv.Atoi(line(t, out))
	if err != nil {
		t.Fatal(err)
	}
	ch.Kill()
	if e := ended(t, ch); !e.Status.Signaled() || e.Status.Signal() != unix.SIGKILL {
		t.Errorf("%+v", e)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if fields := statFields(pid); len(fields) == 0 || fields[0] == "Z" || fields[0] == "X" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("process %d outlives it", pid)
		}
	}
}

func TestLimitsAreSet(t *testing.T) {
	ch, out := start(t, "kill -STOP $$; ulimit -n; ulimit -t")
	for state := ""; state != "T"; time.Sleep(time.Millisecond) {
		if fields := statFields(ch.PID()); len(fields) > 0 {
			state = fields[0]
		}
		if ch.Exited() {
			t.Fatal("it has ended")
		}
	}
	if err := ch.Limit(Limits{OpenFiles: 33, CPUTime: 5 * time.Second, Processes: 1}); err != nil {
		t.Fatal(err)
	}
	ch.Continue()
	ended(t, ch)
	b := make([]byte, 100)
	// Without a user to count, there is no limit of processes: then sh could not fork.
	if got := string(b[:out.Stdout.ReadNow(b)]); got != "33\n7\n" {
		t.Errorf("got %q", got)
	}
}

func TestInterruptReachesWhatWasStopped(t *testing.T) {
	ch, out := start(t, "trap 'echo interrupted; exit 3' INT; echo ready; kill -STOP $$; sleep 1000")
	line(t, out)
	for state := ""; state != "T"; time.Sleep(time.Millisecond) {
		if fields := statFields(ch.PID()); len(fields) > 0 {
			state = fields[0]
		}
	}
	ch.Interrupt()
	if e := ended(t, ch); e.Status.ExitStatus() != 3 {
		t.Errorf("%+v", e)
	}
}
