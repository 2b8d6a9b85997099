// Command agentsandbox-guest is the guest agent: process 1 of every sandbox. It
// stands in the image, and talks to the host on a descriptor that it was started
// with. It fails by ending, and the sandbox with it.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"os/signal"
	goruntime "runtime"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/guest/agent"
	"github.com/agentsandbox/agentsandbox/internal/posture/inside"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "agentsandbox-guest:", err)
		os.Exit(1)
	}
}

// run runs a sub-command: "probe" says what code in this sandbox can do, see
// package inside. "attach" is reserved: it will hand a new connection to
// the agent of a sandbox whose daemon was replaced.
func run(args []string) error {
	if len(args) > 0 && args[0] == "probe" {
		return inside.Main(args[1:], os.Stdout)
	}
	if len(args) > 0 {
		return fmt.Errorf("unknown sub-command %q; without one, the agent serves", args[0])
	}
	unix.Umask(0o022)
	if err := closeOnExec(); err != nil {
		return err
	}
	if err := unix.Setgroups(nil); err != nil {
		return fmt.Errorf("drop the supplementary groups: %w", err)
	}
	// What a sandbox has as standard error may be a pipe that nobody reads. With
	// somebody to notify, the Go runtime does not end the program over it; what
	// the agent starts gets the signal's default.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	a, err := agent.New(agent.Options{
		Root:        "/",
		User:        &agent.User{UID: guest.UserID, GID: guest.GroupID},
		Python:      "/usr/bin/python3",
		Bash:        "/bin/bash",
		LauncherDir: guest.LauncherDir,
		Env:         agent.BaseEnv(),
		Init:        os.Getpid() == 1,
		Logger:      log,
	})
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	for ctx.Err() == nil {
		if err := a.Serve(ctx, conversation{}); err != nil {
			log.Error("no conversation any more; what runs goes on", "error", err)
			break
		}
	}
	<-ctx.Done()
	return nil
}

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

// conversation is the connection to the host, in plain blocking system calls:
// in a sandbox, the host's socket cannot be polled.
type conversation struct{}

func (conversation) Read(b []byte) (int, error) {
	// The system call below blocks a thread with all that it holds. What the last
	// message gave others to do is done first, on this thread: to wake another
	// one for it costs far more in a sandbox.
	goruntime.Gosched()
	for {
		n, err := unix.Read(guest.ConversationFD, b)
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

func (conversation) Write(b []byte) (int, error) {
	written := 0
	for written < len(b) {
		n, err := unix.Write(guest.ConversationFD, b[written:])
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
func (conversation) Close() error {
	return unix.Shutdown(guest.ConversationFD, unix.SHUT_RDWR)
}
