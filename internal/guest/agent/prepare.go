package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"runtime/debug"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/guest"
)

// prepare makes the sandbox ready for a snapshot: a process of each language waits,
// and no run is left. Before that it runs a little of each language. A template that
// cannot run code is found out here, and what the first run of an agent costs is
// paid once, not by every sandbox of the snapshot. What waits has loaded the modules
// that are named and installed, and the first that did has run code that uses them.
func (a *Agent) prepare(ctx context.Context, modules []string) error {
	a.mu.Lock()
	n := len(a.runs)
	a.mu.Unlock()
	if n > 0 {
		return refuse(guest.FailInvalid, "%d runs are not over or were not taken", n)
	}
	for _, l := range a.languages {
		if l.customize == nil {
			continue
		}
		if err := l.customize(ctx); err != nil {
			return err
		}
	}
	for _, l := range a.languages {
		for range 2 { // in a process that starts, and in one that has waited
			if _, err := a.rehearse(ctx, l, l.rehearsal); err != nil {
				return err
			}
			if err := a.awaitAll(ctx); err != nil {
				return err
			}
		}
	}
	if len(modules) > 0 {
		for _, l := range a.languages {
			if err := a.preload(ctx, l, modules); err != nil {
				return err
			}
		}
	}
	debug.FreeOSMemory() // what is free need not be saved
	return nil
}

// awaitAll makes sure that a process of each language waits.
func (a *Agent) awaitAll(ctx context.Context) error {
	for _, l := range a.languages {
		if err := l.starter.Await(ctx); err != nil {
			return err
		}
	}
	return nil
}

// preload has a process wait that has loaded modules ahead.
func (a *Agent) preload(ctx context.Context, l *language, modules []string) error {
	if l.preload == nil {
		return nil
	}
	use, stop := l.preload(modules)
	defer stop() // a session forks those of its own
	if err := l.starter.Await(ctx); err != nil {
		return err
	}
	if _, err := a.rehearse(ctx, l, use); err != nil {
		return err
	}
	return l.starter.Await(ctx)
}

// rehearse runs code that prints "ready" last, and returns all that it printed.
func (a *Agent) rehearse(ctx context.Context, l *language, code string) (printed []byte, err error) {
	r, err := a.startRun(&guest.RunRequest{
		ID:          "rehearsal",
		Language:    string(l.name),
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
				l.name, result.ExitCode, result.Signal, guest.Tail(printed))
		}
		return printed, nil
	}
}
