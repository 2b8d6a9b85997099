package engine_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/engine"
	"github.com/agentsandbox/agentsandbox/internal/engine/quota"
	"github.com/agentsandbox/agentsandbox/internal/engine/supply"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// wantRefusal checks the code, and that the message names the setting.
func wantRefusal(t *testing.T, err error, code agentsandbox.Code, setting string) {
	t.Helper()
	var e *agentsandbox.Error
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Message, setting) {
		t.Errorf("%v; want code %s and a message that names %s", err, code, setting)
	}
}

func (f *fixture) upload(ctx context.Context, content string) (*agentsandbox.File, error) {
	return f.UploadFile(ctx, agentsandbox.FileUpload{Filename: "f.txt"}, strings.NewReader(content))
}

func TestSessionQuota(t *testing.T) {
	f := newFixtureWithin(t, t.TempDir(), quota.Limits{Sessions: 3})
	var made, refused atomic.Int64
	var asking sync.WaitGroup
	for range 8 {
		asking.Go(func() {
			_, err := f.CreateSession(as(t, "a"), agentsandbox.SessionRequest{})
			if err == nil {
				made.Add(1)
				return
			}
			wantRefusal(t, err, agentsandbox.CodeRateLimited, "tenant_max_sessions")
			refused.Add(1)
		})
	}
	asking.Wait()
	if made.Load() != 3 || refused.Load() != 5 {
		t.Errorf("%d sessions were made and %d refused; the quota is 3", made.Load(), refused.Load())
	}
	list, err := f.Sessions(as(t, "a"), agentsandbox.SessionFilter{Page: agentsandbox.Page{Limit: 10}})
	if err != nil || list.Total != 3 {
		t.Fatalf("%+v, %v", list, err)
	}
	if err := f.DeleteSession(as(t, "a"), list.Sessions[0].ID); err != nil {
		t.Fatal(err)
	}
	for _, tenant := range []string{"a", "b"} { // room again; another tenant has its own
		if _, err := f.CreateSession(as(t, tenant), agentsandbox.SessionRequest{}); err != nil {
			t.Errorf("%s: %v", tenant, err)
		}
	}
}

func TestFileQuotas(t *testing.T) {
	f := newFixtureWithin(t, t.TempDir(), quota.Limits{Files: 4, Bytes: 100})
	ctx := as(t, "a")
	first, err := f.upload(ctx, strings.Repeat("x", 60))
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.upload(ctx, strings.Repeat("x", 41))
	wantRefusal(t, err, agentsandbox.CodeStorageFull, "tenant_max_bytes")
	if _, err := f.upload(ctx, strings.Repeat("x", 40)); err != nil {
		t.Errorf("a file that fits exactly: %v", err)
	}
	_, err = f.upload(ctx, "x")
	wantRefusal(t, err, agentsandbox.CodeStorageFull, "tenant_max_bytes")
	if _, err := f.upload(as(t, "b"), "another tenant"); err != nil {
		t.Error(err)
	}
	if err := f.DeleteFile(ctx, first.ID); err != nil {
		t.Fatal(err)
	}
	// Ten at once, for three of which there is room.
	var stored atomic.Int64
	var asking sync.WaitGroup
	for range 10 {
		asking.Go(func() {
			_, err := f.upload(ctx, "x")
			if err == nil {
				stored.Add(1)
				return
			}
			wantRefusal(t, err, agentsandbox.CodeStorageFull, "tenant_max_files")
		})
	}
	asking.Wait()
	if stored.Load() != 3 {
		t.Errorf("%d files were stored; there was room for 3", stored.Load())
	}
}

func TestFilesOfARunStayWithinTheQuota(t *testing.T) {
	dir := t.TempDir()
	f := newFixtureWithin(t, dir, quota.Limits{Files: 100, Bytes: 25})
	ctx := as(t, "a")
	x := f.bash(ctx, "", "cd /workspace 2>/dev/null || cd \"$PWD\"; for i in 1 2 3; do printf 0123456789 > f$i; done")
	if len(x.Files) != 2 || x.FilesOmitted != 1 || !strings.Contains(x.Error, "tenant_max_bytes") || x.Status != agentsandbox.StatusSucceeded {
		t.Errorf("%d files, %d omitted, %s, %q", len(x.Files), x.FilesOmitted, x.Status, x.Error)
	}
	again, err := f.Execution(ctx, x.ID)
	if err != nil || len(again.Files) != 2 || again.FilesOmitted != 1 {
		t.Errorf("the record: %+v, %v", again, err)
	}
	files, err := f.Files(ctx, agentsandbox.Page{Limit: 10})
	if err != nil || files.Total != 2 {
		t.Errorf("%+v, %v", files, err)
	}
	if got := f.bash(ctx, "", "true"); got.Error != "" {
		t.Errorf("a run that makes no files: %q", got.Error)
	}
}

// doomed are sandboxes that their supply ends because of a lack of memory.
type doomed struct {
	engine.Sandboxes
	mu   sync.Mutex
	last *doomedSandbox
}

type doomedSandbox struct {
	runtime.Sandbox
	why atomic.Pointer[string]
}

func (s *doomedSandbox) Evicted() string {
	if why := s.why.Load(); why != nil {
		return *why
	}
	return ""
}

func (d *doomed) Claim(ctx context.Context, owner supply.Owner, snapshot string, l runtime.Limits) (runtime.Sandbox, error) {
	if owner != (supply.Owner{Group: "a", Name: "key_a"}) {
		return nil, fmt.Errorf("the claim is of %v", owner)
	}
	sb, err := d.Sandboxes.Claim(ctx, owner, snapshot, l)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last = &doomedSandbox{Sandbox: sb}
	return d.last, nil
}

func (d *doomed) evict(why string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last.why.Store(&why)
	_ = d.last.Destroy(context.Background())
}

func TestAnEvictionIsTold(t *testing.T) {
	d := &doomed{}
	f := newFixtureOn(t, t.TempDir(), engine.Options{}, quota.Limits{}, func(s engine.Sandboxes) engine.Sandboxes {
		d.Sandboxes = s
		return d
	})
	ctx := as(t, "a")
	s, err := f.CreateSession(ctx, agentsandbox.SessionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan *agentsandbox.Execution)
	go func() {
		x, err := f.Execute(ctx, agentsandbox.ExecuteRequest{Code: "sleep 100", Language: agentsandbox.Bash, SessionID: s.ID})
		if err != nil {
			t.Error(err)
		}
		ended <- x
	}()
	until(t, "the run goes", func() bool { return running(t, f, ctx) == 1 })
	d.evict("Memory ran out.")
	x := <-ended
	if x.Status != agentsandbox.StatusMemoryExceeded || x.Error != "Memory ran out." || x.ReturnCode != 137 || !strings.Contains(string(x.Stderr), "Memory ran out.") {
		t.Errorf("%s, %q, %d, %q", x.Status, x.Error, x.ReturnCode, x.Stderr)
	}
	until(t, "the session says why it is lost", func() bool {
		_, err := f.Session(ctx, s.ID)
		return err != nil && strings.Contains(err.Error(), "was lost: Memory ran out. Create a new one.")
	})
}
