package engine_test

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/audit"
	"github.com/agentsandbox/agentsandbox/internal/blob"
	"github.com/agentsandbox/agentsandbox/internal/engine"
	"github.com/agentsandbox/agentsandbox/internal/engine/limits"
	"github.com/agentsandbox/agentsandbox/internal/engine/quota"
	"github.com/agentsandbox/agentsandbox/internal/engine/templates"
	"github.com/agentsandbox/agentsandbox/internal/eventlog"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
	"github.com/agentsandbox/agentsandbox/internal/idempotency"
	"github.com/agentsandbox/agentsandbox/internal/keys"
	"github.com/agentsandbox/agentsandbox/internal/pool"
	"github.com/agentsandbox/agentsandbox/internal/preload"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
	"github.com/agentsandbox/agentsandbox/internal/runtime/fake"
	"github.com/agentsandbox/agentsandbox/internal/store"
	"github.com/agentsandbox/agentsandbox/internal/vault"
)

// fixture is an engine on the real store and blobs, with sandboxes that are
// directories of this machine.
type fixture struct {
	*engine.Engine
	agentsandbox.KeyService
	agentsandbox.AuditService
	keys     *keys.Registry
	requests *idempotency.Requests
	audit    *audit.Log
	t        *testing.T
	pool     *pool.Pool
	Store    *store.DB
	dir      string
	// sandboxes are those that are alive.
	mu        sync.Mutex
	sandboxes map[string]runtime.Sandbox
	started   runtime.Spec    // of the latest sandbox
	ran       runtime.Command // the latest
	// runError, if set, is what starting a run fails with; noRoom fails the
	// writing of outcomes that have output.
	runError error
	mute     bool // runs never report
	insane   bool // what runs report makes the server panic
	noRoom   atomic.Bool
}

// service is all that the fixture serves.
func (f *fixture) service() agentsandbox.Service { return service{f.Engine, f.keys, f.audit} }

type service struct {
	*engine.Engine
	agentsandbox.KeyService
	agentsandbox.AuditService
}

// fullStore has no room for output when the fixture says so.
type fullStore struct {
	engine.Store
	f *fixture
}

func (s fullStore) FinishExecution(ctx context.Context, e agentsandbox.Execution, log eventlog.Sealed) (bool, error) {
	if s.f.noRoom.Load() && log.Stdout > 0 {
		return false, agentsandbox.Errorf(agentsandbox.CodeStorageFull, "The disk is full.")
	}
	return s.Store.FinishExecution(ctx, e, log)
}

var serverTemplates = templates.Map{"default": {Snapshot: "default", Preloads: []templates.Preload{
	{Set: preload.Set{Modules: []string{"numpy"}, Packages: []string{"numpy"}}, Snapshot: "loaded"},
}}}

var serverLimits = limits.Limits{
	DefaultTimeout: 20 * time.Second, MaxTimeout: time.Minute,
	DefaultMemoryMB: 256, MaxMemoryMB: 1024, DefaultCPUs: 1, MaxCPUs: 2, Tasks: 100,
	OutputBytes: 1000, CodeBytes: 10_000, UploadBytes: 1 << 20,
	Collect: runtime.CollectLimits{Files: 3, Bytes: 1000, Depth: 4},
}

func newFixture(t *testing.T, dir string) *fixture {
	t.Helper()
	return newFixtureWith(t, dir, engine.Options{})
}

func newFixtureWithin(t *testing.T, dir string, quotas quota.Limits) *fixture {
	t.Helper()
	return newFixtureOn(t, dir, engine.Options{}, quotas, func(s engine.Sandboxes) engine.Sandboxes { return s })
}

// newFixtureWith takes the lifetimes and the clock of opts.
func newFixtureWith(t *testing.T, dir string, opts engine.Options) *fixture {
	t.Helper()
	return newFixtureOn(t, dir, opts, quota.Limits{}, func(s engine.Sandboxes) engine.Sandboxes { return s })
}

func newFixtureOn(t *testing.T, dir string, opts engine.Options, quotas quota.Limits, supply func(engine.Sandboxes) engine.Sandboxes) *fixture {
	t.Helper()
	if opts.Vault == nil {
		v, err := vault.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		opts.Vault = v
	}
	log := slog.New(nothingOverdue{slog.DiscardHandler, t})
	db, err := store.Open(t.Context(), dir, store.Options{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := blob.Open(filepath.Join(dir, "blobs"), log)
	if err != nil {
		t.Fatal(err)
	}
	logs, err := eventlog.Open(filepath.Join(dir, "logs"), eventlog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{t: t, Store: db, dir: dir, sandboxes: map[string]runtime.Sandbox{}}
	f.pool = pool.New(pool.Options{
		Runtime: tracked{fake.New(fake.Options{Dir: t.TempDir()}), f}, NewID: func() string { return agentsandbox.NewID("sbx_") },
		Stocks: []pool.Stock{{Snapshot: "default"}}, Builders: 2, Limits: serverLimits.Default(), Logger: log,
	})
	f.pool.Start()
	opts.Store, opts.Blobs, opts.Sandboxes, opts.Logs, opts.Template, opts.Templates, opts.Limits, opts.Logger = fullStore{db, f}, blobs, supply(f.pool), logs, "default", serverTemplates, serverLimits, log
	f.audit = audit.New(audit.Options{Store: db, Vault: opts.Vault, Logger: log, Now: opts.Now})
	f.AuditService, opts.Audit = f.audit, f.audit
	network, _ := opts.Network.(audit.Network)
	opts.EgressAudit = audit.NewEgress(f.audit, network)
	opts.AnswerStatus, opts.Quotas = edge.Status, quota.New(quotas, db, logs, log)
	f.requests = idempotency.New(idempotency.Options{Store: db, Quotas: opts.Quotas, Logger: log, Now: opts.Now})
	f.keys = keys.New(keys.Options{Store: db, Audit: f.audit, Vault: opts.Vault, Logger: log, Now: opts.Now})
	f.KeyService, opts.Keys = f.keys, f.keys
	f.Engine = engine.New(opts)
	if err := f.Recover(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	f.Resume()
	t.Cleanup(func() {
		f.Close(context.Background())
		if err := errors.Join(f.keys.Close(), f.audit.Close()); err != nil {
			t.Error(err)
		}
		f.pool.Close()
		if n := f.alive(); n != 0 {
			t.Errorf("%d sandboxes are left after Close", n)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// nothingOverdue is a log in which no wait of the engine has come to its bound.
type nothingOverdue struct {
	slog.Handler
	t *testing.T
}

func (nothingOverdue) Enabled(context.Context, slog.Level) bool { return true }

func (h nothingOverdue) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "not waited for") {
		h.t.Error(r.Message)
	}
	return nil
}

// tracked tells the fixture which sandboxes live.
type tracked struct {
	runtime.Runtime
	f *fixture
}

type trackedSandbox struct {
	runtime.Sandbox
	f *fixture
}

func (r tracked) Start(ctx context.Context, spec runtime.Spec) (runtime.Sandbox, error) {
	sb, err := r.Runtime.Start(ctx, spec)
	if err != nil {
		return nil, err
	}
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	r.f.sandboxes[sb.ID()], r.f.started = sb, spec
	return trackedSandbox{sb, r.f}, nil
}

func (s trackedSandbox) Run(ctx context.Context, cmd runtime.Command) (runtime.Run, error) {
	s.f.mu.Lock()
	s.f.ran = cmd
	s.f.mu.Unlock()
	if s.f.runError != nil {
		return nil, s.f.runError
	}
	run, err := s.Sandbox.Run(ctx, cmd)
	if err == nil && s.f.insane {
		run = insaneRun{run}
	}
	if err == nil && s.f.mute {
		run = muteRun{run}
	}
	return run, err
}

// insaneRun is a run whose report nobody expected.
type insaneRun struct{ runtime.Run }

func (insaneRun) Next(context.Context) (runtime.Event, error) { panic("nobody expected this") }

// muteRun is a run of an agent that does not come to report.
type muteRun struct{ runtime.Run }

func (muteRun) Next(ctx context.Context) (runtime.Event, error) {
	<-ctx.Done()
	return runtime.Event{}, ctx.Err()
}

func (s trackedSandbox) Destroy(ctx context.Context) error {
	err := s.Sandbox.Destroy(ctx)
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	if err == nil {
		delete(s.f.sandboxes, s.ID())
	}
	return err
}

func (f *fixture) alive() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.sandboxes)
}

// blobs is how many files have contents.
func (f *fixture) blobs() int {
	n := 0
	_ = filepath.WalkDir(filepath.Join(f.dir, "blobs"), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return nil
	})
	return n
}

// killAll makes every sandbox die, as a crash would.
func (f *fixture) killAll() {
	f.mu.Lock()
	all := make([]runtime.Sandbox, 0, len(f.sandboxes))
	for _, sb := range f.sandboxes {
		all = append(all, sb)
	}
	f.mu.Unlock()
	for _, sb := range all {
		_ = sb.Destroy(context.Background())
	}
}

// as acts for a tenant.
func as(t *testing.T, tenant string, scopes ...agentsandbox.Scope) context.Context {
	return agentsandbox.WithPrincipal(t.Context(), agentsandbox.Principal{KeyID: "key_" + tenant, Tenant: tenant, Scopes: scopes})
}

func (f *fixture) bash(ctx context.Context, session, code string) *agentsandbox.Execution {
	f.t.Helper()
	x, err := f.Execute(ctx, agentsandbox.ExecuteRequest{Code: code, Language: agentsandbox.Bash, SessionID: session})
	if err != nil {
		f.t.Fatal(err)
	}
	return x
}

func wantCode(t *testing.T, err error, want agentsandbox.Code) {
	t.Helper()
	if got := agentsandbox.CodeOf(err); got != want {
		t.Errorf("code %q (%v); want %q", got, err, want)
	}
}

func until(t *testing.T, what string, check func() bool) {
	t.Helper()
	deadline := time.After(5 * time.Minute)
	for !check() {
		select {
		case <-deadline:
			t.Fatalf("not in time: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
