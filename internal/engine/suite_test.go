package engine_test

import (
	"log/slog"
	"net/http/httptest"
	"testing"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/client"
	"github.com/agentsandbox/agentsandbox/client/clienttest"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
	v1 "github.com/agentsandbox/agentsandbox/internal/httpapi/v1"
)

// TestService holds the engine, and a client in front of it, against one suite.
func TestService(t *testing.T) {
	t.Run("engine", func(t *testing.T) {
		clienttest.Suite(t, as(t, "a", agentsandbox.Scopes...), newFixture(t, t.TempDir()).service())
	})
	t.Run("client", func(t *testing.T) {
		f := newFixture(t, t.TempDir())
		key, err := f.keys.Bootstrap(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		api, err := v1.New(v1.Options{Service: f.service(), Ready: func() error { return nil }})
		if err != nil {
			t.Fatal(err)
		}
		handler, err := edge.New(edge.Options{Authenticate: f.keys.Authenticate, Idempotency: f.requests, Audit: f.audit.Append, Logger: slog.New(slog.DiscardHandler)}, api)
		if err != nil {
			t.Fatal(err)
		}
		server := httptest.NewServer(handler)
		defer server.Close()
		c, err := client.New(server.URL, key)
		if err != nil {
			t.Fatal(err)
		}
		clienttest.Suite(t, t.Context(), c)
	})
}
