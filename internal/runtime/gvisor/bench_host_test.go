package gvisor

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/egress"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// benchHost is a Runtime whose snapshot is made.
func benchHost(b *testing.B) *Runtime {
	b.Helper()
	dir, err := os.MkdirTemp("", "asbx")
	if err != nil {
		b.Fatal(err)
	}
	gateway := egress.New(egress.Options{Handler: func(string) egress.Handler { return &outside{} }})
	b.Cleanup(func() {
		if err := gateway.Close(); err != nil {
			b.Error(err)
		}
	})
	opts := testOptions(dir, testCache)
	opts.Network = gateway
	r, err := New(opts)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := r.Close(); err != nil {
			b.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			b.Error(err)
		}
	})
	if _, err := r.Snapshots().Make(b.Context(), bareSnapshot, testLimits, nil); err != nil {
		b.Fatal(err)
	}
	return r
}

// BenchmarkStart makes sandboxes with and without a network in turns: the wall
// time of Start, and what it costs in processor time, of the sandbox and of this
// process.
func BenchmarkStart(b *testing.B) {
	r := benchHost(b)
	var spent [2]struct{ wall, sandbox, daemon time.Duration }
	for i := 0; b.Loop(); i++ {
		for network, s := range spent {
			began, before := time.Now(), ownCPU(b)
			sb := benchStartWith(b, r, 2*i+network, network == 1)
			s.wall += time.Since(began)
			s.daemon += ownCPU(b) - before
			u, err := sb.Usage()
			if err != nil {
				b.Fatal(err)
			}
			s.sandbox += u.CPU
			spent[network] = s
			benchDestroy(b, sb)
		}
	}
	for network, name := range []string{"plain", "network"} {
		each := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 / float64(b.N) }
		b.ReportMetric(each(spent[network].wall), name+"-ms/op")
		b.ReportMetric(each(spent[network].sandbox), name+"-sandbox-cpu-ms/op")
		b.ReportMetric(each(spent[network].daemon), name+"-daemon-cpu-ms/op")
	}
}

// ownCPU is the processor time that this process has used.
func ownCPU(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkDownload is one connection that brings 256 MiB into a sandbox.
func BenchmarkDownload(b *testing.B) {
	const size = 256 << 20
	r := benchHost(b)
	sb := benchStartWith(b, r, 0, true)
	defer benchDestroy(b, sb)
	b.SetBytes(size)
	for b.Loop() {
		out, err := try(b.Context(), sb, agentsandbox.Python, download(size))
		if err != nil || !strings.HasPrefix(out.stdout, strconv.Itoa(size)) {
			b.Fatalf("%+v %v", out, err)
		}
	}
}

// BenchmarkFirstRun runs print(1) in sandboxes that are up.
func BenchmarkFirstRun(b *testing.B) {
	r := benchHost(b)
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		sb := benchStart(b, r, i)
		b.StartTimer()
		out, err := try(b.Context(), sb, agentsandbox.Python, "print(1)")
		b.StopTimer()
		if err != nil || out.stdout != "1\n" {
			b.Fatalf("%+v %v", out, err)
		}
		benchDestroy(b, sb)
		b.StartTimer()
	}
}

// BenchmarkDestroy ends sandboxes.
func BenchmarkDestroy(b *testing.B) {
	r := benchHost(b)
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		sb := benchStart(b, r, i)
		b.StartTimer()
		benchDestroy(b, sb)
	}
}

func benchStart(b *testing.B, r *Runtime, i int) runtime.Sandbox {
	b.Helper()
	return benchStartWith(b, r, i, false)
}

func benchStartWith(b *testing.B, r *Runtime, i int, network bool) runtime.Sandbox {
	b.Helper()
	id := fmt.Sprintf("exe_bench%d-%d", os.Getpid(), i)
	sb, err := r.Start(b.Context(), runtime.Spec{ID: id, Snapshot: bareSnapshot, Limits: testLimits, Network: network})
	if err != nil {
		b.Fatal(err)
	}
	return sb
}

func benchDestroy(b *testing.B, sb runtime.Sandbox) {
	b.Helper()
	if err := sb.Destroy(context.Background()); err != nil {
		b.Fatal(err)
	}
}
