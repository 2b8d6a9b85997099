package gvisor

import (
	"strings"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// limited runs code with limits of its own.
func limited(t *testing.T, sb runtime.Sandbox, language agentsandbox.Language, code string, timeout time.Duration, limits runtime.RunLimits) ran {
	t.Helper()
	out, err := tryCommand(t.Context(), sb, runtime.Command{
		Language: language, Code: code, Timeout: timeout, OutputLimit: 1 << 20, Limits: limits,
	})
	if err != nil {
		t.Fatalf("run: %v", err)
	}
	return out
}

func TestMemoryLimitEndsTheRunAlone(t *testing.T) {
	h := newHost(t)
	const limit = 256 << 20
	sb := h.start(runtime.Limits{MemoryBytes: limit, MilliCPUs: 1000, Tasks: 2048})
	python(t, sb, "open('/workspace/kept', 'w').write('kept')")
	for _, code := range []string{
		"a = []\nwhile True: a.append(bytearray(b'x') * (1 << 20))",
		"import os\nfds = [os.memfd_create('x') for _ in range(64)]\nwhile True: [os.write(fd, b'x' * (1 << 20)) for fd in fds]",
	} {
		out, err := try(t.Context(), sb, agentsandbox.Python, code)
		must(t, err)
		if out.result.Limit != runtime.LimitMemory || out.result.Signal != 9 || out.result.TimedOut || out.result.Killed {
			t.Errorf("result %+v", out.result)
		}
		if peak := out.result.MemoryPeakBytes; peak < limit || peak > limit+memoryMargin(limit) {
			t.Errorf("a peak of %d bytes", peak)
		}
		if got := python(t, sb, "print(open('/workspace/kept').read())"); got != "kept" {
			t.Errorf("afterwards: %q", got)
		}
	}
	usage, err := sb.Usage()
	must(t, err)
	if usage.OOMKills != 0 {
		t.Errorf("the wall was reached: %+v", usage)
	}
}

func TestLimitsOfARunAreInForce(t *testing.T) {
	sb := newHost(t).start(testLimits)
	limits := runtime.RunLimits{Processes: 60, OpenFiles: 100, CPUTime: 5 * time.Second}
	const want = "60\n100\n7"
	bash := limited(t, sb, agentsandbox.Bash, "ulimit -u; ulimit -n; ulimit -t", 10*time.Second, limits)
	waiting := limited(t, sb, agentsandbox.Python, `
import resource as r
for name in ('NPROC', 'NOFILE', 'CPU'): print(r.getrlimit(getattr(r, 'RLIMIT_' + name))[1])`, 10*time.Second, limits)
	fresh, err := tryCommand(t.Context(), sb, runtime.Command{
		Language: agentsandbox.Python, Timeout: 10 * time.Second, Limits: limits, Env: map[string]string{"PYTHONUTF8": "1"},
		Code: "import os\nos.execvp('bash', ['bash', '-c', 'ulimit -u; ulimit -n; ulimit -t'])",
	})
	must(t, err)
	for _, out := range []ran{bash, waiting, fresh} {
		if got := strings.TrimSpace(out.stdout); got != want {
			t.Errorf("got %q, want %q; %+v %s", got, want, out.result, out.stderr)
		}
	}
}

func TestLimitsEndARun(t *testing.T) {
	sb := newHost(t).start(runtime.Limits{MemoryBytes: 2 << 30, MilliCPUs: 1000, Tasks: 2048})
	tests := []struct {
		name, code string
		limits     runtime.RunLimits
		ended      runtime.Limit
		check      func(runtime.Result) bool
	}{
		{"failure", "raise SystemExit(3)", runtime.RunLimits{Processes: 40}, "",
			func(r runtime.Result) bool { return r.ExitCode == 3 && !r.ProcessesFull && !r.DiskFull }},
		{"CPU time", "while True: pass", runtime.RunLimits{CPUTime: 300 * time.Millisecond}, runtime.LimitCPUTime,
			func(r runtime.Result) bool { return r.CPU >= 300*time.Millisecond }},
		{"CPU time of a child", "import os\nif os.fork(): os.wait()\nwhile True: pass", runtime.RunLimits{CPUTime: 300 * time.Millisecond}, runtime.LimitCPUTime,
			func(r runtime.Result) bool { return r.CPU >= 300*time.Millisecond }},
		{"output", "while True: print('x' * 10000)", runtime.RunLimits{StreamBytes: 8 << 20}, runtime.LimitStream,
			func(r runtime.Result) bool { return r.StdoutBytes > 8<<20 }},
		{"inodes", "import os\nfor i in range(10**6): os.close(os.open(f'/workspace/f{i}', os.O_CREAT))", runtime.RunLimits{Inodes: 3000}, runtime.LimitInodes,
			func(runtime.Result) bool { return true }},
		{"processes", "import os, time\nfor _ in range(100):\n  if os.fork() == 0: time.sleep(60)", runtime.RunLimits{Processes: 40}, "",
			func(r runtime.Result) bool { return r.ExitCode == 1 && r.ProcessesFull }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out := limited(t, sb, agentsandbox.Python, tt.code, 30*time.Second, tt.limits)
			if out.result.Limit != tt.ended || !tt.check(out.result) || tt.ended != "" && out.result.Signal != 9 {
				t.Errorf("result %+v\n%s", out.result, out.stderr)
			}
		})
	}
	if got := limited(t, sb, agentsandbox.Bash, "rm -rf /workspace/f*; ls /workspace | wc -l", 30*time.Second, runtime.RunLimits{Inodes: 3000}); strings.TrimSpace(got.stdout) != "0" {
		t.Errorf("clearing up: %+v", got)
	}
}

// What a run that timed out has started ends with it, however far it ran away;
// what an earlier one left behind stays.
func TestTimeoutEndsRunaways(t *testing.T) {
	sb := newHost(t).start(testLimits)
	limited(t, sb, agentsandbox.Bash, "(setsid -f sleep 1001) & (trap '' HUP TERM; exec setsid sleep 1002) &", 10*time.Second, runtime.RunLimits{})
	out := limited(t, sb, agentsandbox.Bash, `
(setsid bash -c '(exec sleep 2001) & disown; exit' &)
(env -i setsid setsid sleep 2002 &)
unshare -U sleep 2003 &
trap '' TERM
sleep 2004`, time.Second, runtime.RunLimits{})
	if !out.result.TimedOut || out.result.Duration > 3*time.Second {
		t.Errorf("result %+v", out.result)
	}
	got := limited(t, sb, agentsandbox.Bash, "ps -eo args | grep -o '^sleep.*' | sort", 10*time.Second, runtime.RunLimits{})
	if got.stdout != "sleep 1001\nsleep 1002\n" {
		t.Errorf("what goes on: %q", got.stdout)
	}
}

func TestDiskSizesHaveSnapshotsOfTheirOwn(t *testing.T) {
	h := newHost(t)
	small := testLimits
	small.DiskBytes = 64 << 20
	for range 2 {
		sb := h.start(small)
		out := limited(t, sb, agentsandbox.Bash, "df -k /workspace | tail -1 | awk '{print $2}'; exec dd if=/dev/zero of=/workspace/x bs=1M", 30*time.Second, runtime.RunLimits{})
		if !strings.HasPrefix(out.stdout, "65536\n") || out.result.ExitCode != 1 || !out.result.DiskFull {
			t.Errorf("result %+v %q", out.result, out.stdout)
		}
		if got := limited(t, sb, agentsandbox.Bash, "rm /workspace/x; echo room > /workspace/y; cat /workspace/y", 10*time.Second, runtime.RunLimits{}); got.stdout != "room\n" {
			t.Errorf("clearing up a full disk: %+v", got)
		}
	}
}
