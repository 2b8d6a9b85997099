package runtimetest

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// lifeTests are about the sandbox itself.
var lifeTests = map[string]func(*testing.T, *box){
	"Life/destroyed means lost": func(t *testing.T, b *box) {
		if b.ID() == "" {
			t.Error("the sandbox has no id")
		}
		running := b.begin(bash("echo ready; sleep 1000"))
		b.await(running, "ready\n")
		_, reading, err := b.ReadFile(b.ctx(), b.put("/workspace/file", strings.Repeat("x", 1<<20)).Path)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if err := b.Destroy(context.Background()); err != nil {
					t.Errorf("Destroy: %v", err)
				}
			})
		}
		wg.Wait()
		select {
		case <-b.Done():
		case <-b.ctx().Done():
			t.Fatal("Done is not closed after Destroy")
		}
		buf := make([]byte, 4<<20)
		for err == nil {
			_, err = reading.Read(buf)
		}
		_, nextErr := running.Next(b.ctx())
		runErr := firstError(b, python("print(1)"))
		_, _, readErr := b.ReadFile(b.ctx(), "/workspace/file")
		_, writeErr := b.WriteFile(b.ctx(), "/workspace/file", strings.NewReader(""))
		_, statErr := b.Stat(b.ctx(), "/workspace/file")
		_, listErr := b.List(b.ctx(), "/workspace", "", 10)
		_, usageErr := b.Usage()
		_, workingErr := b.WorkingSet()
		for method, err := range map[string]error{
			"reading": err, "Next": nextErr, "Kill": running.Kill(b.ctx()), "Run": runErr, "ReadFile": readErr, "WriteFile": writeErr,
			"Stat": statErr, "List": listErr, "Remove": b.Remove(b.ctx(), "/workspace/file"), "Usage": usageErr, "WorkingSet": workingErr,
			"SetLimits": b.SetLimits(b.ctx(), runtime.Limits{}),
		} {
			if !errors.Is(err, runtime.ErrSandboxLost) {
				t.Errorf("%s: %v, want ErrSandboxLost", method, err)
			}
		}
		if err := running.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := b.Destroy(context.Background()); err != nil {
			t.Errorf("Destroy again: %v", err)
		}
	},
	"Life/limits can be changed": func(t *testing.T, b *box) {
		if err := b.SetLimits(b.ctx(), runtime.Limits{MemoryBytes: 512 << 20, MilliCPUs: 1500, Tasks: 4096}); err != nil {
			t.Fatal(err)
		}
		if out := b.must(python("print('alive')")); out != "alive\n" {
			t.Errorf("got %q", out)
		}
		if _, err := b.Usage(); err != nil {
			t.Errorf("Usage: %v", err)
		}
	},
	"Life/a cancelled request does nothing": func(t *testing.T, b *box) {
		ctx, cancel := context.WithCancel(b.ctx())
		cancel()
		if _, err := b.Stat(ctx, "/workspace"); !errors.Is(err, context.Canceled) {
			t.Errorf("Stat: %v", err)
		}
		if _, err := b.List(ctx, "/workspace", "", 10); !errors.Is(err, context.Canceled) {
			t.Errorf("List: %v", err)
		}
		if _, err := b.Stat(b.ctx(), "/workspace"); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	},
	"Life/many requests at once": func(t *testing.T, b *box) {
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() {
				path := "/workspace/" + string(rune('a'+i%26)) + "/file"
				if _, err := b.WriteFile(b.ctx(), path, strings.NewReader("x")); err != nil {
					t.Errorf("WriteFile: %v", err)
				}
				if _, err := b.Stat(b.ctx(), path); err != nil {
					t.Errorf("Stat: %v", err)
				}
			})
		}
		wg.Wait()
	},
}
