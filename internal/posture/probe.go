package posture

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

const (
	// probeTimeout bounds the probe in the sandbox.
	probeTimeout = 60 * time.Second
	// maxProbeBytes bounds what is read of it.
	maxProbeBytes = 1 << 20
	// maxFacts bounds how many facts it may state.
	maxFacts = 1000
)

// Look runs the probe in a sandbox that nothing else uses, as its user, started
// both by Bash and by Python, and returns its facts.
func Look(ctx context.Context, sb runtime.Sandbox) ([]Fact, error) {
	canary, err := openCanary()
	if err != nil {
		return nil, err
	}
	defer canary.close()
	port := strconv.Itoa(canary.port())
	facts, err := look(ctx, sb, runtime.Command{
		ID: "probe-bash", Language: agentsandbox.Bash, Code: "exec " + guest.AgentPath + " " + guest.ProbeCommand + " " + port,
	})
	if err != nil {
		return nil, err
	}
	again, err := look(ctx, sb, runtime.Command{
		ID: "probe-python", Language: agentsandbox.Python,
		Code: fmt.Sprintf("import os\nos.execv(%q, [%q, %q, %q])", guest.AgentPath, guest.AgentPath, guest.ProbeCommand, port),
	})
	if err != nil {
		return nil, err
	}
	host, err := readHost()
	if err != nil {
		return nil, err
	}
	facts = append(facts, Fact{"seen by Python", difference(facts, again)})
	facts = append(facts, Fact{"host loopback", canary.verdict()})
	return host.compare(facts), nil
}

func look(ctx context.Context, sb runtime.Sandbox, cmd runtime.Command) ([]Fact, error) {
	cmd.Timeout = probeTimeout
	cmd.OutputLimit = maxProbeBytes
	run, err := sb.Run(ctx, cmd)
	if err != nil {
		return nil, fmt.Errorf("the probe could not be started: %w", err)
	}
	defer run.Close()
	var stdout, stderr bytes.Buffer
	for {
		event, err := run.Next(ctx)
		switch {
		case errors.Is(err, io.EOF):
			return nil, errors.New("the probe's run ended without a result")
		case err != nil:
			return nil, fmt.Errorf("the probe: %w", err)
		case event.Result != nil:
			if r := event.Result; r.ExitCode != 0 || r.Signal != 0 || r.TimedOut {
				return nil, fmt.Errorf("the probe ended with exit status %d, signal %d: %q", r.ExitCode, r.Signal, stderr.String())
			}
			return decode(stdout.Bytes())
		case event.Stream == runtime.Stderr:
			stderr.Write(event.Data)
		default:
			stdout.Write(event.Data)
		}
	}
}

// decode reads the facts of a probe: a JSON object on each line.
func decode(output []byte) ([]Fact, error) {
	var facts []Fact
	dec := json.NewDecoder(bytes.NewReader(output))
	dec.DisallowUnknownFields()
	for {
		var f Fact
		err := dec.Decode(&f)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("the probe states something that is no fact: %w", err)
		}
		if f.Name == "" || strings.ContainsAny(f.Name, "\n=") || strings.Contains(f.Value, "\n") {
			return nil, fmt.Errorf("the probe states something that is no fact: %q", f.Name)
		}
		if facts = append(facts, f); len(facts) > maxFacts {
			return nil, fmt.Errorf("the probe states more than %d facts", maxFacts)
		}
	}
	if len(facts) == 0 {
		return nil, errors.New("the probe states nothing")
	}
	return facts, nil
}

// difference tells what two looks did not see alike.
func difference(a, b []Fact) string {
	seen := map[string]string{}
	for _, f := range a {
		seen[f.Name] = f.Value
	}
	var differ []string
	for _, f := range b {
		if value, ok := seen[f.Name]; !ok || value != f.Value && !perProcess[f.Name] {
			differ = append(differ, f.Name+": "+f.Value)
		}
		delete(seen, f.Name)
	}
	for name := range seen {
		differ = append(differ, name+": missing")
	}
	if len(differ) == 0 {
		return "the same"
	}
	return strings.Join(differ, "; ")
}

// perProcess are facts that depend on which program started the probe.
var perProcess = map[string]bool{"environment": true}

// canary listens on the host's loopback interface, where no sandbox must arrive.
type canary struct {
	listener net.Listener
	done     chan struct{}
	visits   int // valid when done is closed
}

func openCanary() (*canary, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("a listener that no sandbox may reach: %w", err)
	}
	c := &canary{listener: l, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c.visits++
			conn.Close()
		}
	}()
	return c, nil
}

func (c *canary) port() int {
	if a, ok := c.listener.Addr().(*net.TCPAddr); ok {
		return a.Port
	}
	return 0
}

func (c *canary) close() {
	c.listener.Close()
	<-c.done
}

func (c *canary) verdict() string {
	c.close()
	if c.visits > 0 {
		return "REACHED"
	}
	return "not reached"
}

// thisHost is what a sandbox must not know.
type thisHost map[string]string

func readHost() (thisHost, error) {
	name, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("the host's name: %w", err)
	}
	h := thisHost{"hostname": name}
	for fact, path := range map[string]string{
		"boot id":        "/proc/sys/kernel/random/boot_id",
		"machine id":     "/etc/machine-id",
		"kernel version": "/proc/version",
		"kernel command": "/proc/cmdline",
	} {
		// A host without such a file has nothing to hide.
		if b, err := os.ReadFile(path); err == nil {
			h[fact] = strings.TrimSpace(string(b))
		}
	}
	return h, nil
}

// compare replaces what differs from one sandbox to the next by whether it is
// the host's.
func (h thisHost) compare(facts []Fact) []Fact {
	for i, f := range facts {
		own, ok := h[f.Name]
		switch {
		case ok && own == f.Value:
			facts[i].Value = "THE HOST'S"
		case perSandbox[f.Name] && f.Value != "none":
			facts[i].Value = "not the host's"
		}
	}
	return facts
}

// perSandbox are facts that every sandbox has a value of its own for.
var perSandbox = map[string]bool{"hostname": true, "machine id": true, "boot id": true}
