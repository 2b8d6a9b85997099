package engine

import (
	"context"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/engine/files"
	"github.com/agentsandbox/agentsandbox/internal/engine/run"
	"github.com/agentsandbox/agentsandbox/internal/engine/sessions"
	"github.com/agentsandbox/agentsandbox/internal/engine/supply"
)

// Store keeps what must not be lost. Methods that take a tenant see that
// tenant's rows only. A row that is not there is an *agentsandbox.Error with the
// not-found code of its kind; a full disk is one of code storage_full.
type Store interface {
	sessions.Store
	run.Store
	files.Store
	// DeleteSessions forgets at most limit sessions that ended before a time.
	DeleteSessions(ctx context.Context, before time.Time, limit int) (int, error)
}

// Sandboxes hands out sandboxes that nobody used before.
type Sandboxes interface {
	supply.Pool
	// Ready tells whether a sandbox of the default template can be claimed now;
	// nil if so, otherwise why not.
	Ready() error
}

// Network decides what sandboxes may reach, and tells what they did.
type Network interface {
	sessions.Network
	// Refusals begins to add up what a sandbox is refused, see run.Network.
	Refusals(sandbox string) (end func() ([]agentsandbox.NetworkRefusal, int64))
}

// Audit takes rows about what the server does by itself.
type Audit = sessions.Audit
