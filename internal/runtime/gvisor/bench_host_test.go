package gvisor

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// benchHost is a Runtime whose snapshot is made.
func benchHost(b *testing.B) *Runtime {
	b.Helper()
	dir, err := os.MkdirTemp("", "asbx")
	if err != nil {
		b.Fatal(err)
	}
	r, err := New(testOptions(dir, testCache))
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
	if err := r.Prepare(b.Context(), "default", runtime.Bare, testLimits, nil); err != nil {
		b.Fatal(err)
	}
	return r
}

// BenchmarkStart makes one sandbox after another: the wall time of Start, and
// what it costs in processor time of the sandbox.
func BenchmarkStart(b *testing.B) {
	r := benchHost(b)
	var cpu time.Duration
	for i := 0; b.Loop(); i++ {
		sb := benchStart(b, r, i)
		b.StopTimer()
		u, err := sb.Usage()
		if err != nil {
			b.Fatal(err)
		}
		cpu += u.CPU
		benchDestroy(b, sb)
		b.StartTimer()
	}
	b.ReportMetric(float64(cpu.Milliseconds())/float64(b.N), "cpu-ms/op")
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
	id := fmt.Sprintf("exe_bench%d-%d", os.Getpid(), i)
	sb, err := r.Start(b.Context(), runtime.Spec{ID: id, Template: "default", Limits: testLimits})
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
