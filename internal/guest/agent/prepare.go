package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/guest"
)

// prepare makes the sandbox ready for a snapshot: an interpreter and a
// shell wait, and no run is left. Before that it runs a little of each language. A template that
// cannot run code is found out here, and what the first run of an agent costs is
// paid once, not by every sandbox of the snapshot. The interpreter has loaded
// the modules that are named and installed, and the first that did has run code
// that uses them.
func (a *Agent) prepare(ctx context.Context, modules []string) error {
	a.mu.Lock()
	n := len(a.runs)
	a.mu.Unlock()
	if n > 0 {
		return refuse(guest.FailInvalid, "%d runs are not over or were not taken", n)
	}
	a.preparing.Store(true)
	defer a.preparing.Store(false)
	if err := a.customize(ctx); err != nil {
		return err
	}
	for _, rehearsal := range []struct {
		language agentsandbox.Language
		code     string
	}{
		{agentsandbox.Bash, "echo ready"},       // in a Bash that starts,
		{agentsandbox.Bash, "echo ready"},       // in one that has waited,
		{agentsandbox.Python, "print('ready')"}, // in an interpreter that starts,
		{agentsandbox.Python, "print('ready')"}, // and in one that has waited
	} {
		if _, err := a.rehearse(ctx, rehearsal.language, rehearsal.code); err != nil {
			return err
		}
		if err := a.shells.wait(ctx); err != nil {
			return err
		}
		if err := a.interprets.wait(ctx); err != nil {
			return err
		}
	}
	if len(modules) > 0 {
		a.interprets.load(modules)
		if err := a.interprets.wait(ctx); err != nil {
			return err
		}
		if _, err := a.rehearse(ctx, agentsandbox.Python, importAll(modules)); err != nil {
			return err
		}
		if err := a.interprets.wait(ctx); err != nil {
			return err
		}
	}
	debug.FreeOSMemory() // what is free need not be saved
	return nil
}

// importAll is code that imports what is installed of some modules, and prints
// "ready".
func importAll(modules []string) string {
	var b strings.Builder
	for _, module := range modules {
		top, _, _ := strings.Cut(module, ".")
		fmt.Fprintf(&b, "try: import %s\nexcept ModuleNotFoundError as error:\n    if error.name != %q: raise\n", module, top)
	}
	b.WriteString("print('ready')")
	return b.String()
}

// rehearse runs code that prints "ready" last, and returns all that it printed.
func (a *Agent) rehearse(ctx context.Context, language agentsandbox.Language, code string) (printed []byte, err error) {
	r, err := a.startRun(&guest.RunRequest{
		ID:          "rehearsal",
		Language:    string(language),
		CollectDirs: [][]byte{[]byte(agentsandbox.Workspace), []byte(agentsandbox.OutputDir)},
	}, []byte(code))
	if err != nil {
		return nil, err
	}
	defer func() {
		a.forget(r)
		<-r.over
	}()
	for after := uint64(0); ; after++ {
		rec, err := r.log.next(ctx, after)
		if err != nil {
			return nil, err
		}
		_, payload, err := guest.ParseSequence(rec.payload)
		if err != nil {
			return nil, err
		}
		if rec.kind != guest.KindResult {
			printed = append(printed, payload...)
			continue
		}
		var result guest.RunResult
		if err := json.Unmarshal(payload, &result); err != nil {
			return nil, err
		}
		if result.ExitCode != 0 || result.Signal != 0 || !bytes.HasSuffix(printed, []byte("ready\n")) {
			return nil, refuse(guest.FailNotStarted, "%s does not run in this template: exit code %d, signal %d: %s",
				language, result.ExitCode, result.Signal, tail(printed))
		}
		return printed, nil
	}
}

// tail is the end of what a program said, where the reason stands.
func tail(said []byte) []byte {
	const most = 300
	said = bytes.TrimSpace(said)
	return said[max(0, len(said)-most):]
}
