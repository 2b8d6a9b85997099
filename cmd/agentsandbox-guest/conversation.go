package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/guest/agent"
)

// closeOnExec keeps every descriptor of the agent from what it starts.
func closeOnExec() error {
	if err := unix.SetNonblock(guest.ConversationFD, false); err != nil {
		return fmt.Errorf("descriptor %d must be the connection to the host: %w", guest.ConversationFD, err)
	}
	if err := unix.CloseRange(guest.ConversationFD, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("keep descriptors from being inherited: %w", err)
	}
	return nil
}

// conversation is a connection to the host, in plain blocking system calls: in a
// sandbox, the host's socket cannot be polled.
type conversation struct{ fd int }

func newConversation(fd int) agent.Conversation { return conversation{fd} }

func (c conversation) Read(b []byte) (int, error) {
	// The system call below blocks a thread with all that it holds. What the last
	// message gave others to do is done first, on this thread: to wake another
	// one for it costs far more in a sandbox.
	runtime.Gosched()
	for {
		n, err := unix.Read(c.fd, b)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		case n == 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

func (c conversation) Write(b []byte) (int, error) {
	written := 0
	for written < len(b) {
		n, err := unix.Write(c.fd, b[written:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return written, os.NewSyscallError("write", err)
		}
		written += n
	}
	return written, nil
}

// Close tells the host that nothing more comes. The descriptor itself stays: a
// reader may be waiting on it.
func (c conversation) Close() error { return unix.Shutdown(c.fd, unix.SHUT_RDWR) }

// Release closes the descriptor; the one that the agent was started with stays,
// because a snapshot remembers its number.
func (c conversation) Release() {
	if c.fd != guest.ConversationFD {
		unix.Close(c.fd)
	}
}
