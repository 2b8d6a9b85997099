package store_test

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/eventlog"
	"github.com/agentsandbox/agentsandbox/internal/store"
)

// BenchmarkExecution is what one execution costs the store: its insert and the
// update with its outcome, of which the slowest hundredth waits for a
// checkpoint.
func BenchmarkExecution(b *testing.B) {
	for _, bench := range []struct {
		name   string
		output int
	}{{"output=100B", 100}, {"output=64KiB", 64 << 10}} {
		b.Run(bench.name, func(b *testing.B) {
			db, err := store.Open(b.Context(), b.TempDir(), store.Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer db.Close()
			output := bytes.Repeat([]byte("x"), bench.output)
			took := make([]time.Duration, 0, b.N)
			for b.Loop() {
				started := time.Now()
				e := agentsandbox.Execution{
					ID: agentsandbox.NewID(agentsandbox.ExecutionPrefix), Tenant: "t", SessionID: agentsandbox.NewID(agentsandbox.SessionPrefix),
					Language: agentsandbox.Python, Code: "print(1 + 1)", Status: agentsandbox.StatusRunning, CreatedAt: started,
				}
				if err := db.InsertExecution(b.Context(), e, "", nil); err != nil {
					b.Fatal(err)
				}
				e.Status, e.EndedAt = agentsandbox.StatusSucceeded, time.Now()
				if _, err := db.FinishExecution(b.Context(), e, eventlog.Sealed{Size: int64(len(output)), Stdout: int64(len(output)), Inline: output}); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(started))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs-median")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "µs-p99")
			b.ReportMetric(float64(took[len(took)-1].Microseconds()), "µs-max")
		})
	}
}
