package gvisor

import (
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

func TestTheWallStandsAboveTheLimit(t *testing.T) {
	const mib = 1 << 20
	for limit, want := range map[int64]int64{0: 0, 64 * mib: 128 * mib, 256 * mib: 512 * mib, 2048 * mib: 2560 * mib, 8192 * mib: 9216 * mib} {
		if got := walled(runtime.Limits{MemoryBytes: limit}).MemoryBytes; got != want {
			t.Errorf("a limit of %d MiB has its wall at %d MiB, want %d", limit/mib, got/mib, want/mib)
		}
	}
}

func TestLooksComeBeforeTheLimit(t *testing.T) {
	for left, want := range map[int64]time.Duration{-1: leastLook, 0: leastLook, 1 << 20: leastLook, fillRate / 10: 100 * time.Millisecond, 8 << 30: mostLook} {
		if got := nextLook(left, false).Round(time.Microsecond); got != want {
			t.Errorf("with %d bytes left, the next look is after %v, want %v", left, got, want)
		}
	}
	if got := nextLook(1<<40, true); got != mostIdle {
		t.Errorf("an idle sandbox is looked at after %v, want %v", got, mostIdle)
	}
}
