package egress

import (
	"testing"

	"golang.org/x/sys/unix"
)

// A device whose reading ends by itself says so; one that is closed does not.
func TestABrokenDeviceSaysSo(t *testing.T) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil { // no socket: nothing can be received
		t.Fatal(err)
	}
	defer unix.Close(ends[1])
	d, err := newDevice(ends[0], &counters{})
	if err != nil {
		t.Fatal(err)
	}
	heard := make(chan error, 1)
	d.broken = func(err error) { heard <- err }
	go d.run()
	<-d.ended
	select {
	case <-heard:
	default:
		t.Error("nobody heard of it")
	}
	d.end()

	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[1])
	if d, err = newDevice(pair[0], &counters{}); err != nil {
		t.Fatal(err)
	}
	d.broken = func(err error) { t.Error(err) }
	go d.run()
	d.end()
}
