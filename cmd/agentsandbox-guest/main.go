// Command agentsandbox-guest is the guest agent: process 1 of every sandbox. It
// stands in the image, and talks to the host on a descriptor that it was started
// with. It fails by ending, and the sandbox with it.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/guest/agent"
	"github.com/agentsandbox/agentsandbox/internal/guest/proc"
	"github.com/agentsandbox/agentsandbox/internal/posture/inside"
)

// The main thread stays that of the main goroutine. What /proc says of the agent
// is said of that thread, and it must not be one that takes on the user's rights
// for file operations.
func init() { runtime.LockOSThread() }

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "agentsandbox-guest:", err)
		os.Exit(1)
	}
}

// run serves, without arguments. "attach" hands the conversation that it was
// started with to the agent that serves in this sandbox; "probe" says what code in
// this sandbox can do, see package inside.
func run(args []string) error {
	switch {
	case len(args) == 0:
		return serve()
	case args[0] == guest.AttachCommand:
		return agent.Knock(guest.DoorDir, guest.ConversationFD)
	case args[0] == guest.ProbeCommand:
		return inside.Main(args[1:], os.Stdout)
	}
	return fmt.Errorf("unknown sub-command %q: it can be %s or %s; without one, the agent serves", args[0], guest.AttachCommand, guest.ProbeCommand)
}

func serve() error {
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
		User:        &proc.User{UID: guest.UserID, GID: guest.GroupID},
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
	door, err := agent.OpenDoor(guest.DoorDir, newConversation, func(err error) {
		log.Warn("somebody was sent away at the door", "error", err)
	})
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	a.Converse(ctx, newConversation(guest.ConversationFD), door)
	return nil
}
