package gvisor

import (
	"bytes"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// stderrBytes is how much a sandbox's process can say on its standard error.
const stderrBytes = 8 << 10

// newStderr makes a file in memory for the standard error of a sandbox's process.
// It cannot grow, so that the process has no use for it but a few words.
func newStderr() (*os.File, error) {
	fd, err := unix.MemfdCreate("agentsandbox-stderr", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("standard error of a new sandbox: %w", err)
	}
	f := os.NewFile(uintptr(fd), "agentsandbox-stderr")
	err = f.Truncate(stderrBytes)
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("standard error of a new sandbox: %w", err)
	}
	return f, nil
}

// firstWords adds to an error what a process said before it ended: the first line,
// for what follows is stacks of goroutines.
func firstWords(err error, stderr *os.File) error {
	said := make([]byte, 200)
	n, _ := stderr.ReadAt(said, 0)
	said, _, _ = bytes.Cut(said[:n], []byte{0})
	if line, _, _ := bytes.Cut(bytes.TrimSpace(said), []byte{'\n'}); len(line) > 0 {
		return fmt.Errorf("%w: it said %q", err, line)
	}
	return err
}
