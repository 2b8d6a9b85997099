package engine_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/engine"
	"github.com/agentsandbox/agentsandbox/internal/engine/sessions"
)

// portFixture is an engine with a session, and bounds for connections to its ports.
type portFixture struct {
	*fixture
	ctx     context.Context
	id      string
	forward func(time.Duration)
}

func newPortFixture(t *testing.T, bounds sessions.PortLimits) *portFixture {
	t.Helper()
	f, _, forward, ctx := wiredWith(t, engine.Options{Ports: bounds})
	s, err := f.CreateSession(ctx, agentsandbox.SessionRequest{IdleTimeoutMS: time.Hour.Milliseconds()})
	if err != nil {
		t.Fatal(err)
	}
	return &portFixture{f, ctx, s.ID, forward}
}

// url opens port 7 with a key and returns the token.
func (f *portFixture) url(ctx context.Context) string {
	f.t.Helper()
	p, err := f.OpenPort(ctx, f.id, 7, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	return strings.Trim(strings.TrimPrefix(p.Path, "/p"), "/")
}

// echoed tells whether a connection works.
func echoed(c net.Conn) bool {
	got := make([]byte, 1)
	_, err := io.WriteString(c, "x")
	if err == nil {
		_, err = io.ReadFull(c, got)
	}
	return err == nil && got[0] == 'x'
}

func (f *portFixture) tunnel(ctx context.Context) net.Conn {
	f.t.Helper()
	c, err := f.DialPort(ctx, f.id, 7)
	if err != nil {
		f.t.Fatal(err)
	}
	if !echoed(c) {
		f.t.Fatal("it is no echo")
	}
	return c
}

func (f *portFixture) through(token string) (net.Conn, error) {
	c, _, err := f.DialToken(f.t.Context(), token)
	return c, err
}

// ends waits for the end of a connection that its holder never closes, and says why
// it ended.
func ends(t *testing.T, c net.Conn, why string) {
	t.Helper()
	select {
	case <-c.(interface{ Done() <-chan struct{} }).Done():
	case <-time.After(5 * time.Minute):
		t.Fatal("it goes on")
	}
	if _, err := c.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("%v, and not because %s", err, why)
	}
}

// messageOf is what the caller is told.
func messageOf(err error) string {
	var told *agentsandbox.Error
	if !errors.As(err, &told) {
		return ""
	}
	return told.Message
}

func keyOf(t *testing.T, id string) context.Context {
	return agentsandbox.WithPrincipal(t.Context(), agentsandbox.Principal{KeyID: id, Tenant: "a", Scopes: []agentsandbox.Scope{agentsandbox.ScopeSandbox}})
}

func TestConnectionsToPortsAreBounded(t *testing.T) {
	for name, c := range map[string]struct {
		bounds sessions.PortLimits
		dial   func(f *portFixture, token string) (net.Conn, error)
		says   string
	}{
		"of a session": {sessions.PortLimits{PerSession: 2}, func(f *portFixture, _ string) (net.Conn, error) {
			return f.DialPort(keyOf(f.t, agentsandbox.NewID("key_")), f.id, 7)
		}, "to ports of this session, which is the most (port_max_connections)"},
		"of a key": {sessions.PortLimits{PerKey: 2}, func(f *portFixture, _ string) (net.Conn, error) {
			return f.DialPort(f.ctx, f.id, 7)
		}, "to ports with this key and its URLs, which is the most (port_max_connections_per_key)"},
		"of a URL": {sessions.PortLimits{PerURL: 2, PerKey: 3}, func(f *portFixture, token string) (net.Conn, error) {
			return f.through(token)
		}, "through this URL, which is the most (port_max_connections_per_url)"},
		"of a key, through its URL": {sessions.PortLimits{PerURL: 3, PerKey: 2}, func(f *portFixture, token string) (net.Conn, error) {
			return f.through(token)
		}, "to ports with this key and its URLs"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newPortFixture(t, c.bounds)
			token := f.url(f.ctx)
			dial := func() net.Conn {
				conn, err := c.dial(f, token)
				if err != nil {
					t.Fatal(err)
				}
				return conn
			}
			first, second := dial(), dial()
			_, err := c.dial(f, token)
			wantCode(t, err, agentsandbox.CodeRateLimited)
			if err != nil && !strings.Contains(err.Error(), "There are 2 connections "+c.says) {
				t.Error(err)
			}
			first.Close()
			third := dial() // there is room again
			f.forward(time.Minute)
			if !echoed(third) {
				t.Error("it is no echo")
			}
			dial() // in place of the one that has been idle
			ends(t, second, "another connection needed its place")
			if !echoed(third) {
				t.Error("one that is in use gave way")
			}
		})
	}
}

func TestADialThatFailsIsNotCounted(t *testing.T) {
	f := newPortFixture(t, sessions.PortLimits{PerSession: 1})
	for range 3 {
		_, err := f.DialPort(f.ctx, f.id, 8)
		wantCode(t, err, agentsandbox.CodePortNotReached)
	}
	f.tunnel(f.ctx)
}

func TestAnIdleConnectionEndsAndDoesNotKeepItsSession(t *testing.T) {
	f := newPortFixture(t, sessions.PortLimits{Idle: time.Minute})
	quiet, busy := f.tunnel(f.ctx), f.tunnel(f.ctx)
	f.forward(59 * time.Second)
	if !echoed(busy) {
		t.Fatal("it is no echo")
	}
	f.Tidy()
	f.forward(2 * time.Second)
	f.Tidy()
	ends(t, quiet, "no byte passed for too long")
	if !echoed(busy) {
		t.Error("one that is in use was ended")
	}
	f.forward(2 * time.Hour)
	f.Tidy()
	if _, err := f.Session(f.ctx, f.id); err != nil {
		t.Errorf("it has a connection: %v", err)
	}
	f.Tidy()
	ends(t, busy, "no byte passed for too long")
	f.forward(2 * time.Hour)
	f.Tidy()
	if _, err := f.Session(f.ctx, f.id); agentsandbox.CodeOf(err) != agentsandbox.CodeSessionNotFound {
		t.Errorf("nobody uses it: %v", err)
	}
}

// TestNobodyWhoHoldsAConnectionHoldsItsSession: connections that are never closed.
func TestNobodyWhoHoldsAConnectionHoldsItsSession(t *testing.T) {
	f := newPortFixture(t, sessions.PortLimits{})
	token := f.url(f.ctx)
	outer, err := f.through(token)
	if err != nil {
		t.Fatal(err)
	}
	inner := f.tunnel(f.ctx)
	if err := f.DeleteSession(f.ctx, f.id); err != nil {
		t.Fatal(err)
	}
	ends(t, outer, "the session was deleted")
	ends(t, inner, "the session was deleted")
	_, err = f.through(token)
	wantCode(t, err, agentsandbox.CodePortNotFound)
}

func TestNetworkOffClosesTheWayInToo(t *testing.T) {
	f := newPortFixture(t, sessions.PortLimits{})
	token, tunnel := f.url(f.ctx), f.tunnel(f.ctx)
	outer, err := f.through(token)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.SetNetwork(f.ctx, f.id, agentsandbox.NetworkPolicy{Mode: agentsandbox.NetworkOff}); err != nil {
		t.Fatal(err)
	}
	ends(t, tunnel, "switched off")
	ends(t, outer, "switched off")
	_, err = f.DialPort(f.ctx, f.id, 7)
	wantCode(t, err, agentsandbox.CodeConflict)
	_, err = f.OpenPort(f.ctx, f.id, 9, 0)
	wantCode(t, err, agentsandbox.CodeConflict)
	_, err = f.through(token)
	wantCode(t, err, agentsandbox.CodePortNotReached)
	if said := messageOf(err); strings.Contains(said, f.id) {
		t.Errorf("whoever has the URL is told the session: %s", said)
	}
	if _, err := f.SetNetwork(f.ctx, f.id, agentsandbox.NetworkPolicy{Mode: agentsandbox.NetworkAllowlist}); err != nil {
		t.Fatal(err)
	}
	f.tunnel(f.ctx)
	if _, err := f.through(token); err != nil {
		t.Errorf("the URL is valid again: %v", err)
	}
}

func TestARevokedKeyLosesWhatItOpened(t *testing.T) {
	f := newPortFixture(t, sessions.PortLimits{})
	manager := as(t, "a", agentsandbox.ScopeAdmin)
	key, err := f.CreateKey(manager, agentsandbox.KeyRequest{Name: "k", Tenant: "a"})
	if err != nil {
		t.Fatal(err)
	}
	revoked := keyOf(t, key.ID)
	its, others := f.tunnel(revoked), f.tunnel(f.ctx)
	token := f.url(revoked)
	outer, err := f.through(token)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := f.OpenPort(f.ctx, f.id, 8, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.RevokeKey(manager, key.ID); err != nil {
		t.Fatal(err)
	}
	ends(t, its, "the key was revoked")
	ends(t, outer, "the key was revoked")
	if !echoed(others) {
		t.Error("the tunnel of another key was cut")
	}
	_, err = f.through(token)
	wantCode(t, err, agentsandbox.CodePortNotFound)
	_, err = f.DialPort(revoked, f.id, 7) // a request that was admitted a moment before
	wantCode(t, err, agentsandbox.CodeUnauthorized)
	left, err := f.Store.LeftSessions(f.ctx)
	if err != nil || len(left) != 1 || len(left[0].Ports) != 1 || left[0].Ports[0].ID != kept.ID {
		t.Errorf("kept: %+v, %v", left, err)
	}
}

// TestAKeyThatWasRevokedBeforeACrash: the server died before it got to the URLs.
func TestAKeyThatWasRevokedBeforeACrash(t *testing.T) {
	f := newPortFixture(t, sessions.PortLimits{})
	manager := as(t, "a", agentsandbox.ScopeAdmin)
	key, err := f.CreateKey(manager, agentsandbox.KeyRequest{Name: "k", Tenant: "a"})
	if err != nil {
		t.Fatal(err)
	}
	token := f.url(keyOf(t, key.ID))
	if err := errors.Join(f.Store.RevokeKey(t.Context(), "a", key.ID, time.Now()), f.keys.LoadEnds(t.Context())); err != nil {
		t.Fatal(err)
	}
	_, err = f.through(token)
	wantCode(t, err, agentsandbox.CodePortNotFound)
	if open, err := f.OpenPorts(f.ctx, f.id); err != nil || len(open) != 0 {
		t.Errorf("%+v, %v", open, err)
	}
}

// TestAKeyThatExpiresLosesWhatItOpened: what holds for a key that is revoked.
func TestAKeyThatExpiresLosesWhatItOpened(t *testing.T) {
	f := newPortFixture(t, sessions.PortLimits{})
	manager := as(t, "a", agentsandbox.ScopeAdmin)
	end := time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
	key, err := f.CreateKey(manager, agentsandbox.KeyRequest{Name: "k", Tenant: "a", ExpiresAt: end})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.keys.Authenticate(t.Context(), key.Value); err != nil {
		t.Fatal(err)
	}
	holder := keyOf(t, key.ID)
	its, others := f.tunnel(holder), f.tunnel(f.ctx)
	p, err := f.OpenPort(holder, f.id, 7, (2 * time.Hour).Milliseconds())
	if err != nil || !p.ExpiresAt.Equal(end) {
		t.Fatalf("a URL until %v, and not until %v, %v", p.ExpiresAt, end, err)
	}
	token := strings.Trim(strings.TrimPrefix(p.Path, "/p"), "/")
	outer, err := f.through(token)
	if err != nil {
		t.Fatal(err)
	}
	f.Tidy()
	if !echoed(its) {
		t.Fatal("a connection was cut before its key expired")
	}
	f.forward(time.Hour + time.Second)
	f.Tidy()
	ends(t, its, "the key has expired")
	ends(t, outer, "the key has expired")
	if !echoed(others) {
		t.Error("the tunnel of another key was cut")
	}
	_, err = f.through(token)
	wantCode(t, err, agentsandbox.CodePortNotFound)
	_, err = f.DialPort(holder, f.id, 7)
	wantCode(t, err, agentsandbox.CodeUnauthorized)
}

func TestAURLTellsNothing(t *testing.T) {
	f := newPortFixture(t, sessions.PortLimits{})
	token := f.url(f.ctx)
	if len(token) != 43 || strings.Contains(token, ".") {
		t.Errorf("%q", token)
	}
	_, err := f.OpenPort(f.ctx, f.id, 8, 0)
	if err != nil {
		t.Fatal(err)
	}
	again, err := f.OpenPorts(f.ctx, f.id)
	if err != nil || len(again) != 2 || again[0].Path != "/p/"+token+"/" {
		t.Errorf("the list has %+v, %v", again, err)
	}
	_, err = f.through(strings.Trim(strings.TrimPrefix(again[1].Path, "/p"), "/"))
	wantCode(t, err, agentsandbox.CodePortNotReached)
	if said := messageOf(err); strings.Contains(said, "ses_") || !strings.HasPrefix(said, "Nobody listens on port 8: ") {
		t.Error(said)
	}
}

func TestALifeOfLessThanASecond(t *testing.T) {
	f := newPortFixture(t, sessions.PortLimits{})
	p, err := f.OpenPort(f.ctx, f.id, 7, 900)
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(p.ExpiresAt); left < -10*time.Second || p.ExpiresAt.IsZero() {
		t.Errorf("it was born %s ago", -left)
	}
}
