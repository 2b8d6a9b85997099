package egress

import (
	"fmt"
	"os"
	"testing"
)

// Idle links wait in Go's poller: two hundred of them hold no thread of the host.
func TestIdleLinksHoldNoThreads(t *testing.T) {
	const links = 200
	g := New(Options{Handler: func(string) Handler { return RefuseAll{} }})
	t.Cleanup(func() { must(t, g.Close()) })
	before := threads(t)
	for i := range links {
		l, err := g.Connect(fmt.Sprintf("sbx_%d", i))
		must(t, err)
		device := l.Device()
		t.Cleanup(func() { device.Close() })
		_, err = device.Write([]byte{0})
		must(t, err)
		eventually(t, "the reading of a frame", func() bool { return l.(*Link).Stats().Malformed == 1 })
	}
	if more := threads(t) - before; more > links/10 {
		t.Errorf("%d idle links hold %d threads", links, more)
	}
}

func threads(t *testing.T) int {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	must(t, err)
	return len(tasks)
}
