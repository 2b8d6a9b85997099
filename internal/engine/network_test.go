package engine_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/audit"
	"github.com/agentsandbox/agentsandbox/internal/engine"
	"github.com/agentsandbox/agentsandbox/internal/engine/quota"
	"github.com/agentsandbox/agentsandbox/internal/engine/supply"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
	"github.com/agentsandbox/agentsandbox/internal/vault"
)

// wires is a Network of a server in the mode public. Sandboxes that were claimed
// as isolated have no device.
type wires struct {
	refused  []agentsandbox.NetworkRefusal
	mu       sync.Mutex
	applied  map[string]*agentsandbox.NetworkPolicy
	secrets  map[string][]agentsandbox.BoundSecret
	isolated map[string]bool
	fail     error
	notes    audit.EgressNotes // of every sandbox
}

func newWires() *wires {
	return &wires{applied: map[string]*agentsandbox.NetworkPolicy{}, secrets: map[string][]agentsandbox.BoundSecret{}, isolated: map[string]bool{}}
}

func (w *wires) Server(string) agentsandbox.NetworkPolicy {
	return agentsandbox.NetworkPolicy{Mode: agentsandbox.NetworkPublic}
}

func (w *wires) Check(_ string, p *agentsandbox.NetworkPolicy) error {
	if p == nil {
		return nil
	}
	return p.Validate()
}

func (w *wires) Apply(id, _ string, p *agentsandbox.NetworkPolicy, secrets []agentsandbox.BoundSecret) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fail != nil {
		return w.fail
	}
	w.applied[id], w.secrets[id] = p, secrets
	return nil
}

func (w *wires) HasDevice(id string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.isolated[id]
}

func (w *wires) Report(id string) agentsandbox.NetworkReport {
	return agentsandbox.NetworkReport{Device: w.HasDevice(id), Connections: 3}
}

func (w *wires) Notes(string) func() audit.EgressNotes {
	return func() audit.EgressNotes {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.notes
	}
}

func (w *wires) see(notes audit.EgressNotes) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.notes = notes
}

func (w *wires) Refusals(string) func() ([]agentsandbox.NetworkRefusal, int64) {
	return func() ([]agentsandbox.NetworkRefusal, int64) {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.refused, 0
	}
}

// Dial reaches an echo on port 7.
func (w *wires) Dial(_ context.Context, _ string, port uint16) (net.Conn, error) {
	if port != 7 {
		return nil, errors.New("connection refused")
	}
	outside, inside := net.Pipe()
	go func() {
		_, _ = io.Copy(inside, inside)
		_ = inside.Close()
	}()
	return outside, nil
}

// noting tells the wires which sandboxes are isolated.
type noting struct {
	engine.Sandboxes
	w *wires
}

func (n noting) ClaimIsolated(ctx context.Context, owner supply.Owner, snapshot string, l runtime.Limits) (runtime.Sandbox, error) {
	sb, err := n.Sandboxes.ClaimIsolated(ctx, owner, snapshot, l)
	if err == nil {
		n.w.mu.Lock()
		n.w.isolated[sb.ID()] = true
		n.w.mu.Unlock()
	}
	return sb, err
}

// wired is an engine with a network, and a clock that can be set forward.
func wired(t *testing.T) (*fixture, *wires, func(time.Duration), context.Context) {
	t.Helper()
	return wiredWith(t, engine.Options{})
}

func wiredWith(t *testing.T, opts engine.Options) (*fixture, *wires, func(time.Duration), context.Context) {
	t.Helper()
	w := newWires()
	dir := t.TempDir()
	keys, err := vault.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var ahead time.Duration
	opts.Network, opts.Vault = w, keys
	opts.SandboxEnv = map[string]string{"OF_THE_SERVER": "1", "OF_BOTH": "server"}
	opts.Now = func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return time.Now().Add(ahead)
	}
	f := newFixtureOn(t, dir, opts, quota.Limits{}, func(s engine.Sandboxes) engine.Sandboxes { return noting{s, w} })
	ctx := agentsandbox.WithPrincipal(t.Context(), agentsandbox.Principal{KeyID: "key_a", Tenant: "a", Scopes: []agentsandbox.Scope{agentsandbox.ScopeSandbox}})
	return f, w, func(d time.Duration) { mu.Lock(); ahead += d; mu.Unlock() }, ctx
}

func (w *wires) only(t *testing.T) (id string, p *agentsandbox.NetworkPolicy) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.applied) != 1 {
		t.Fatalf("%d sandboxes have a policy", len(w.applied))
	}
	for id, p = range w.applied {
	}
	return id, p
}

func TestASessionGetsItsPolicyBeforeAnythingRuns(t *testing.T) {
	f, w, _, ctx := wired(t)
	asked := &agentsandbox.NetworkPolicy{Mode: agentsandbox.NetworkAllowlist, Allow: []string{"example.org"}}
	s, err := f.CreateSession(ctx, agentsandbox.SessionRequest{Network: asked})
	if err != nil {
		t.Fatal(err)
	}
	if _, p := w.only(t); p.Allow[0] != "example.org" || s.Network.Mode != agentsandbox.NetworkAllowlist {
		t.Errorf("in force: %+v, shown: %+v", p, s.Network)
	}
	s, err = f.SetNetwork(ctx, s.ID, agentsandbox.NetworkPolicy{Deny: []string{"10.0.0.0/8"}})
	if err != nil || s.Network.Mode != agentsandbox.NetworkPublic || len(s.Network.Deny) != 1 {
		t.Fatalf("%+v, %v", s, err)
	}
	if r, err := f.NetworkReport(ctx, s.ID); err != nil || r.Policy.Mode != agentsandbox.NetworkPublic || r.Connections != 3 {
		t.Errorf("%+v, %v", r, err)
	}
	row, err := f.Store.Session(ctx, "a", s.ID)
	if err != nil || row.Network == nil || row.Network.Mode != "" || row.Network.Deny[0] != "10.0.0.0/8" {
		t.Errorf("kept: %+v, %v", row.Network, err)
	}
	other := agentsandbox.WithPrincipal(t.Context(), agentsandbox.Principal{KeyID: "key_b", Tenant: "b"})
	if _, err := f.SetNetwork(other, s.ID, agentsandbox.NetworkPolicy{}); agentsandbox.CodeOf(err) != agentsandbox.CodeSessionNotFound {
		t.Error(err)
	}
	if _, err := f.Execute(ctx, agentsandbox.ExecuteRequest{Code: "1", SessionID: s.ID, Network: asked}); agentsandbox.CodeOf(err) != agentsandbox.CodeInvalidRequest {
		t.Error(err)
	}
}

func TestAPolicyThatCannotBeAppliedEndsTheClaim(t *testing.T) {
	f, w, _, ctx := wired(t)
	w.fail = errors.New("broken")
	if _, err := f.Execute(ctx, agentsandbox.ExecuteRequest{Code: "1"}); !errors.Is(err, w.fail) {
		t.Error(err)
	}
	if _, err := f.CreateSession(ctx, agentsandbox.SessionRequest{}); !errors.Is(err, w.fail) {
		t.Error(err)
	}
	// The fixture sees to it that no sandbox is left.
}

func TestOffIsASandboxWithoutADevice(t *testing.T) {
	f, _, _, ctx := wired(t)
	s, err := f.CreateSession(ctx, agentsandbox.SessionRequest{Network: &agentsandbox.NetworkPolicy{Mode: agentsandbox.NetworkOff}})
	if err != nil {
		t.Fatal(err)
	}
	for _, call := range []func() error{
		func() error {
			_, err := f.SetNetwork(ctx, s.ID, agentsandbox.NetworkPolicy{Mode: agentsandbox.NetworkPublic})
			return err
		},
		func() error { _, err := f.OpenPort(ctx, s.ID, 80, 0); return err },
		func() error { _, err := f.DialPort(ctx, s.ID, 80); return err },
	} {
		if err := call(); agentsandbox.CodeOf(err) != agentsandbox.CodeConflict || !strings.Contains(err.Error(), "without a network device") {
			t.Error(err)
		}
	}
	if _, err := f.SetNetwork(ctx, s.ID, agentsandbox.NetworkPolicy{Mode: agentsandbox.NetworkOff}); err != nil {
		t.Error(err)
	}
}

func TestSecretsStayOutOfEverySight(t *testing.T) {
	f, w, _, ctx := wired(t)
	s, err := f.CreateSession(ctx, agentsandbox.SessionRequest{
		Env:     map[string]string{"OF_BOTH": "session"},
		Secrets: []agentsandbox.Secret{{Name: "TOKEN", Value: agentsandbox.NewSecretValue("the value"), Hosts: []string{"api.example.org"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	id, _ := w.only(t)
	bound := w.secrets[id]
	if len(bound) != 1 || bound[0].Value.Reveal() != "the value" || !strings.HasPrefix(bound[0].Placeholder, agentsandbox.PlaceholderPrefix) {
		t.Fatalf("the network has %+v", bound)
	}
	if len(s.Secrets) != 1 || s.Secrets[0].Value.Reveal() != "" || s.Secrets[0].Hosts[0] != "api.example.org" {
		t.Errorf("shown: %+v", s.Secrets)
	}
	left, err := f.Store.LeftSessions(ctx)
	if err != nil || len(left) != 1 || len(left[0].SealedSecrets) == 0 || strings.Contains(string(left[0].SealedSecrets), "value") {
		t.Errorf("kept: %+v, %v", left, err)
	}
	x, err := f.Execute(ctx, agentsandbox.ExecuteRequest{Language: agentsandbox.Bash, Code: "echo $TOKEN $OF_THE_SERVER $OF_BOTH", SessionID: s.ID})
	if err != nil || string(x.Stdout) != bound[0].Placeholder+" 1 session\n" {
		t.Errorf("%q, %v", x.Stdout, err)
	}
}

func TestAURLOpensOnePortForAWhile(t *testing.T) {
	f, _, forward, ctx := wired(t)
	s, err := f.CreateSession(ctx, agentsandbox.SessionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	open := func(port uint16, lifeMS int64) string {
		t.Helper()
		p, err := f.OpenPort(ctx, s.ID, port, lifeMS)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSuffix(strings.TrimPrefix(p.Path, "/p/"), "/")
	}
	works := func(token string) bool {
		t.Helper()
		c, _, err := f.DialToken(t.Context(), token)
		if err != nil {
			if agentsandbox.CodeOf(err) != agentsandbox.CodePortNotFound {
				t.Error(err)
			}
			return false
		}
		return c.Close() == nil
	}
	first := open(7, 0)
	second := open(7, 0)
	if works(first) || !works(second) || works(second+"x") || works("") || works(second[1:]) {
		t.Error("the newest URL of a port is the only one, and only as it was given")
	}
	if list, err := f.OpenPorts(ctx, s.ID); err != nil || len(list) != 1 || !strings.Contains(list[0].Path, second) {
		t.Errorf("%+v, %v", list, err)
	}
	if _, _, err := f.DialToken(t.Context(), open(8, 0)); agentsandbox.CodeOf(err) != agentsandbox.CodePortNotReached {
		t.Error(err)
	}
	if err := f.ClosePort(ctx, s.ID, 7); err != nil || works(second) {
		t.Error("closed, and it works", err)
	}
	if err := f.ClosePort(ctx, s.ID, 7); agentsandbox.CodeOf(err) != agentsandbox.CodePortNotFound {
		t.Error(err)
	}
	for _, life := range []int64{1, 999, 1000} {
		if !works(open(7, life)) {
			t.Errorf("a life of %d ms is over at once", life)
		}
	}
	short := open(7, 60_000)
	forward(59 * time.Second)
	if !works(short) {
		t.Error("gone before its time")
	}
	forward(2 * time.Second)
	if works(short) {
		t.Error("it works after its time")
	}
	last := open(7, 0)
	c, _, err := f.DialToken(t.Context(), last)
	if err != nil {
		t.Fatal(err)
	}
	// The end of the session ends the connection; whoever has it closes it.
	ended := make(chan error, 1)
	go func() {
		_, err := io.ReadAll(c)
		ended <- errors.Join(err, c.Close())
	}()
	if err := f.DeleteSession(ctx, s.ID); err != nil {
		t.Error(err)
	}
	<-ended
	if works(last) {
		t.Error("it works after the session's end")
	}
}

// TestTheNetworkOfASandboxIsAudited: of a session and of a run in a sandbox of its own,
// until its end.
func TestTheNetworkOfASandboxIsAudited(t *testing.T) {
	f, w, _, ctx := wired(t)
	w.see(audit.EgressNotes{Others: map[string]int64{"denied": 1}})
	s, err := f.CreateSession(ctx, agentsandbox.SessionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.DeleteSession(ctx, s.ID); err != nil {
		t.Fatal(err)
	}
	x, err := f.Execute(ctx, agentsandbox.ExecuteRequest{Code: "1"})
	if err != nil {
		t.Fatal(err)
	}
	var rows []agentsandbox.AuditEntry
	until(t, "the end of both sandboxes is in the audit log", func() bool {
		page, err := f.AuditLog(as(t, "a", agentsandbox.ScopeAdmin), agentsandbox.Page{Limit: 10})
		if err != nil {
			t.Fatal(err)
		}
		rows = page.Entries // newest first
		return len(rows) == 2
	})
	for i, object := range []string{x.ID, s.ID} {
		if r := rows[i]; r.Action != "countEgress" || r.ObjectID != object || r.Tenant != "a" || r.KeyID != "" {
			t.Errorf("%+v, want that of %s", r, object)
		}
	}
}
