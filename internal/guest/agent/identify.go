package agent

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/guest"
)

// identify makes this sandbox another one than its snapshot. What waits needs nothing:
// it renews the random numbers that it has drawn when it is given a run (see the
// launchers), and the kernel's come from the host. What stays the snapshot's is the
// interpreter's hash secret and the layout of its memory.
func (a *Agent) identify(id *guest.Identity) error {
	if id == nil {
		return refuse(guest.FailInvalid, "an identity is needed")
	}
	if err := id.Validate(); err != nil {
		return refuse(guest.FailInvalid, "%v", err)
	}
	a.memory.Store(id.MemoryBytes)
	a.alone.Store(id.AloneMS)
	hosts := "127.0.0.1\tlocalhost\n" +
		"::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"127.0.1.1\t" + id.Hostname + "\n"
	resolver := "" // programs then ask a server on loopback, which refuses at once
	if id.Resolver != "" {
		resolver = "nameserver " + id.Resolver + "\n"
	}
	for _, file := range []struct{ name, content string }{
		{"/etc/hostname", id.Hostname + "\n"},
		{"/etc/machine-id", id.MachineID + "\n"},
		{"/etc/hosts", hosts},
		{"/etc/resolv.conf", resolver},
	} {
		if err := os.WriteFile(a.path(file.name), []byte(file.content), 0o644); err != nil {
			return fmt.Errorf("write the identity: %w", err)
		}
	}
	for _, l := range a.languages {
		l.starter.Rehearse()
	}
	if !a.opts.Init {
		return nil
	}
	if err := a.growSharedMemory(); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(id.Hostname)); err != nil {
		return fmt.Errorf("set the host name (this needs CAP_SYS_ADMIN): %w", err)
	}
	if len(id.Entropy) > 0 {
		if err := os.WriteFile("/dev/urandom", id.Entropy, 0); err != nil {
			return fmt.Errorf("mix in entropy: %w", err)
		}
	}
	return nil
}
