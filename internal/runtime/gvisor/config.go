package gvisor

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/runsc/config"
	gflag "gvisor.dev/gvisor/runsc/flag"
)

// Platforms of gVisor that can be asked for. Systrap needs nothing but Linux;
// KVM needs hardware virtualisation and a usable /dev/kvm.
const (
	PlatformSystrap = "systrap"
	PlatformKVM     = "kvm"
)

// Platforms lists what [Options.Platform] can be.
func Platforms() []string { return []string{PlatformSystrap, PlatformKVM} }

// sandboxFlags are gVisor's settings for every sandbox. What is not named here
// has gVisor's default. They are part of a snapshot's name, because a snapshot
// fits only the settings that it was made with.
func sandboxFlags(platform string) []string {
	return []string{
		// A network namespace of the host's without anything in it, of which gVisor
		// makes no use. What device a sandbox has is said when it is restored, so one
		// snapshot serves those with and without.
		"--network=none",
		// Our own package keeps the control groups: gVisor's would move the whole
		// daemon into a sandbox's group for a moment.
		"--ignore-cgroups",
		// The sandbox opens no file of the host, so it needs no rights to do so:
		// this lets it run as nobody, with an empty root.
		"--directfs=false",
		// Host-wide settings are the administrator's; doctor speaks of them.
		"--host-settings=ignore",
		// A set-user-ID bit of a file gives nothing.
		"--allow-suid=false",
		"--platform=" + platform,
	}
}

// debugFlags make a sandbox write gVisor's own log into files of a directory.
func debugFlags(dir string) []string {
	if dir == "" {
		return nil
	}
	return []string{"--debug", "--debug-log=" + dir + string(os.PathSeparator)}
}

// newConfig makes gVisor's configuration, with its state in root.
func newConfig(root, platform, debugDir string) (*config.Config, error) {
	if !slices.Contains(Platforms(), platform) {
		return nil, fmt.Errorf("platform: %q is not one of %v", platform, Platforms())
	}
	flags := gflag.NewFlagSet("gvisor", gflag.ContinueOnError)
	config.RegisterFlags(flags)
	args := append(sandboxFlags(platform), "--root="+root)
	if err := flags.Parse(append(args, debugFlags(debugDir)...)); err != nil {
		return nil, fmt.Errorf("gVisor's settings: %w", err)
	}
	conf, err := config.NewFromFlags(flags)
	if err != nil {
		return nil, fmt.Errorf("gVisor's settings: %w", err)
	}
	return conf, nil
}

// gVisor logs through one variable of the process. forwardLog points it at a
// logger, the last one that asked.
func forwardLog(logger *slog.Logger) {
	logTarget.Store(logger)
	forwardOnce.Do(func() {
		log.SetLevel(log.Warning)
		log.SetTarget(forwarder{})
	})
}

var (
	forwardOnce sync.Once
	logTarget   atomic.Pointer[slog.Logger]
)

// forwarder is a target of gVisor's log. Most of its warnings are of interest to
// gVisor's makers only (a control socket that is gone already, and the like), so
// all come out as debug messages.
type forwarder struct{}

// Emit implements log.Emitter.
func (forwarder) Emit(_ int, level log.Level, _ time.Time, format string, args ...any) {
	if l := logTarget.Load(); l != nil && l.Enabled(context.Background(), slog.LevelDebug) {
		l.Debug("gvisor: "+fmt.Sprintf(format, args...), "gvisor_level", level.String())
	}
}

// inertStdio replaces os.Stdin, os.Stdout and os.Stderr by ends of pipes that
// lead nowhere, and returns what puts them back.
//
// gVisor gives every sandbox those three files of the daemon, and hands their
// ownership to the user nobody. With the real ones a live sandbox would hold on
// to a dead daemon's terminal or pipes, and the daemon's log file would change
// its owner. The variables belong to the whole process, and sandboxes start at
// any time, so the change lasts as long as a Runtime does: whoever wants to
// print meanwhile takes the files before. Descriptors 0 to 2 stay as they are,
// so the crash of a daemon is still seen.
func inertStdio() (restore func(), err error) {
	stdioMu.Lock()
	defer stdioMu.Unlock()
	if stdioUsers == 0 {
		in, inWriter, err := os.Pipe()
		if err != nil {
			return nil, fmt.Errorf("standard streams for sandboxes: %w", err)
		}
		outReader, out, err := os.Pipe()
		if err != nil {
			in.Close()
			inWriter.Close()
			return nil, fmt.Errorf("standard streams for sandboxes: %w", err)
		}
		inWriter.Close()
		outReader.Close()
		stdioReal = [3]*os.File{os.Stdin, os.Stdout, os.Stderr}
		os.Stdin, os.Stdout, os.Stderr = in, out, out
	}
	stdioUsers++
	return sync.OnceFunc(func() {
		stdioMu.Lock()
		defer stdioMu.Unlock()
		if stdioUsers--; stdioUsers > 0 {
			return
		}
		os.Stdin.Close()
		os.Stdout.Close()
		os.Stdin, os.Stdout, os.Stderr = stdioReal[0], stdioReal[1], stdioReal[2]
	}), nil
}

var (
	stdioMu    sync.Mutex
	stdioUsers int
	stdioReal  [3]*os.File
)
