package agentsandbox

import (
	"context"
	"net"
	"time"
)

// Bounds of the ports of a session.
const (
	// MaxOpenPorts is how many URLs of one session are valid at once.
	MaxOpenPorts = 64
	// DefaultPortLife and MaxPortLife are how long a URL is valid, in milliseconds.
	DefaultPortLife = 60 * 60 * 1000
	MaxPortLife     = 30 * 24 * 60 * 60 * 1000
)

// OpenPort is a port of a session that whoever has its URL can use.
type OpenPort struct {
	Port uint16 `json:"port"`
	// ID names this opening: the URL of an earlier one stays closed.
	ID string `json:"id"`
	// KeyID is the key that opened it, and with which it ends.
	KeyID     string    `json:"key_id,omitempty"`
	ExpiresAt time.Time `json:"expires_at"`
	// Path is where the server serves it: /p/TOKEN/. It opens the port for whoever
	// has it.
	Path string `json:"-"`
	// URL is the whole address, as the server was called by who asks; empty where
	// that is not known.
	URL string `json:"-"`
}

// NetworkService is what sessions do with the network, in both directions.
type NetworkService interface {
	// SetNetwork replaces the policy of a live session, and cuts the connections
	// that it does not allow. Codes: invalid_request, session_not_found, conflict
	// (the session has no network device), storage_full.
	SetNetwork(ctx context.Context, sessionID string, policy NetworkPolicy) (*Session, error)

	// NetworkReport tells what a live session did with its network. Codes:
	// session_not_found.
	NetworkReport(ctx context.Context, sessionID string) (*NetworkReport, error)

	// OpenPort makes a URL for a port of a live session, in place of an earlier
	// one for the same port. lifeMS is how long it is valid, no longer than the key
	// of the caller; 0: DefaultPortLife.
	// Codes: invalid_request, session_not_found, conflict (the session has no
	// network device, or too many open ports), storage_full.
	OpenPort(ctx context.Context, sessionID string, port uint16, lifeMS int64) (*OpenPort, error)

	// OpenPorts lists the ports of a live session that have a valid URL, by number.
	// Codes: session_not_found.
	OpenPorts(ctx context.Context, sessionID string) ([]OpenPort, error)

	// ClosePort makes the URL of a port invalid; connections through it that are
	// open stay so. Codes: session_not_found, port_not_found.
	ClosePort(ctx context.Context, sessionID string, port uint16) error

	// DialPort opens a connection to a port of a live session, which counts as a
	// use of it until it is closed. Codes: session_not_found, conflict (no network
	// device), port_not_reached (nobody listens).
	DialPort(ctx context.Context, sessionID string, port uint16) (net.Conn, error)
}

// ValidatePort checks the number of a port and how long its URL is to be valid.
func ValidatePort(port uint16, lifeMS int64) error {
	switch {
	case port == 0:
		return Invalid("port", "must be from 1 to 65535.")
	case lifeMS < 0 || lifeMS > MaxPortLife:
		return Invalid("expires_in_ms", "must be from 1 to %d, or left out for %d.", int64(MaxPortLife), int64(DefaultPortLife))
	}
	return nil
}
