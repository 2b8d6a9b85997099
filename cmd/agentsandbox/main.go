// Command agentsandbox is the server and its command line. This package only
// wires: the verbs are in cli, the parts of the server under internal.
package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/cmd/agentsandbox/cli"
	"github.com/agentsandbox/agentsandbox/internal/config"
	"github.com/agentsandbox/agentsandbox/internal/runtime/gvisor"
	"github.com/agentsandbox/agentsandbox/internal/store"
)

// version is set by the linker.
var version = "unknown"

func main() {
	gvisor.Main() // does not return in a process that gVisor started
	// Whoever started the program may have left descriptors open. They are not
	// for the tools and sandboxes that it starts.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		fmt.Fprintln(os.Stderr, "agentsandbox: inherited descriptors cannot be closed, which needs Linux 5.11:", err)
		os.Exit(1)
	}
	os.Exit(run())
}

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal asks for an orderly end; a second one ends the program
	// as if nobody listened.
	context.AfterFunc(ctx, stop)
	return cli.Main(ctx, os.Args[1:], cli.Process(), cli.Local{
		Version:   version,
		Serve:     serve,
		Templates: localTemplatesOf,
		Check:     check,
		AuditVerify: func(ctx context.Context, cfg config.Config, head string) (agentsandbox.AuditReport, error) {
			return store.VerifyAudit(ctx, cfg.DataDir, head)
		},
		Probe: probe,
		Left:  left,
	})
}
