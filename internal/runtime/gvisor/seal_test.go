package gvisor

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSealsAreSetWhenTheKernelLetsGo holds a file in memory as the kernel does when
// it is busy: sealing waits for that, and does not fail.
func TestSealsAreSetWhenTheKernelLetsGo(t *testing.T) {
	fd, err := unix.MemfdCreate("seal", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	must(t, err)
	f := os.NewFile(uintptr(fd), "seal")
	defer f.Close()
	must(t, f.Truncate(4096))
	held, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	sealed := make(chan error, 1)
	go func() { sealed <- seal(f) }()
	select {
	case err := <-sealed:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	must(t, unix.Munmap(held))
	must(t, <-sealed)
	if _, err := f.Write([]byte("x")); err == nil {
		t.Error("the file can be written to")
	}
}
