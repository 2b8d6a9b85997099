package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

// portLabel is what tokens of ports are signed for, and portPath where the server
// serves them.
const (
	portLabel = "port of a session"
	portPath  = "/p/"
)

// portToken is what the URL of a port says, and the server signs. Whether the
// port is still open stands in the session.
type portToken struct {
	Tenant  string `json:"t"`
	Session string `json:"s"`
	Port    uint16 `json:"p"`
	ID      string `json:"i"`
	Expires int64  `json:"e"` // Unix, in seconds
}

// OpenPort implements agentsandbox.Service.
func (e *Engine) OpenPort(ctx context.Context, id string, port uint16, lifeMS int64) (*agentsandbox.OpenPort, error) {
	if err := agentsandbox.ValidatePort(port, lifeMS); err != nil {
		return nil, err
	}
	if lifeMS == 0 {
		lifeMS = agentsandbox.DefaultPortLife
	}
	var opened agentsandbox.OpenPort
	err := e.changePorts(ctx, id, func(s *session, open []agentsandbox.OpenPort) ([]agentsandbox.OpenPort, error) {
		if !e.network.HasDevice(s.sandbox.ID()) {
			return nil, noDevice(s)
		}
		open = slices.DeleteFunc(open, func(p agentsandbox.OpenPort) bool { return p.Port == port })
		if len(open) >= agentsandbox.MaxOpenPorts {
			return nil, agentsandbox.Errorf(agentsandbox.CodeConflict, "The session %s has %d open ports, which is the most. Close one first.", id, len(open))
		}
		// The URL says seconds, so the life is rounded up to the next: what is
		// answered is what is kept, and a short life is one.
		expires := e.now().Add(time.Duration(lifeMS)*time.Millisecond + time.Second - 1).Truncate(time.Second)
		opened = agentsandbox.OpenPort{Port: port, ID: agentsandbox.NewID(""), ExpiresAt: expires}
		return append(open, opened), nil
	})
	if err != nil {
		return nil, err
	}
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, err
	}
	return e.withPath(p.Tenant, id, opened)
}

// withPath adds where the port is served.
func (e *Engine) withPath(tenant, session string, p agentsandbox.OpenPort) (*agentsandbox.OpenPort, error) {
	claims, err := json.Marshal(portToken{tenant, session, p.Port, p.ID, p.ExpiresAt.Unix()})
	if err != nil {
		return nil, fmt.Errorf("port %d of %s: %w", p.Port, session, err)
	}
	p.Path = portPath + e.vault.Sign(claims, portLabel) + "/"
	return &p, nil
}

// OpenPorts implements agentsandbox.Service.
func (e *Engine) OpenPorts(ctx context.Context, id string) ([]agentsandbox.OpenPort, error) {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, err
	}
	s, err := e.live(ctx, p.Tenant, id)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	open := e.validPorts(s)
	e.mu.Unlock()
	shown := make([]agentsandbox.OpenPort, len(open))
	for i, port := range open {
		with, err := e.withPath(p.Tenant, id, port)
		if err != nil {
			return nil, err
		}
		shown[i] = *with
	}
	slices.SortFunc(shown, func(a, b agentsandbox.OpenPort) int { return int(a.Port) - int(b.Port) })
	return shown, nil
}

// validPorts are those that have not expired; the engine's lock is held.
func (e *Engine) validPorts(s *session) []agentsandbox.OpenPort {
	now := e.now()
	var open []agentsandbox.OpenPort
	for _, p := range s.info.Ports {
		if now.Before(p.ExpiresAt) {
			open = append(open, p)
		}
	}
	return open
}

// ClosePort implements agentsandbox.Service.
func (e *Engine) ClosePort(ctx context.Context, id string, port uint16) error {
	return e.changePorts(ctx, id, func(_ *session, open []agentsandbox.OpenPort) ([]agentsandbox.OpenPort, error) {
		at := slices.IndexFunc(open, func(p agentsandbox.OpenPort) bool { return p.Port == port })
		if at < 0 {
			return nil, agentsandbox.Errorf(agentsandbox.CodePortNotFound, "Port %d of the session %s has no valid URL.", port, quoteID(id))
		}
		return slices.Delete(open, at, at+1), nil
	})
}

// changePorts replaces the open ports of a session, in the store first: what was
// closed must stay closed after a restart.
func (e *Engine) changePorts(ctx context.Context, id string, change func(*session, []agentsandbox.OpenPort) ([]agentsandbox.OpenPort, error)) error {
	return e.inSession(ctx, id, "changePorts", func(ctx context.Context, s *session) error {
		if e.vault == nil {
			return agentsandbox.Errorf(agentsandbox.CodeConflict, "This server opens no ports.")
		}
		s.networking.Lock()
		defer s.networking.Unlock()
		e.mu.Lock()
		open := e.validPorts(s)
		e.mu.Unlock()
		open, err := change(s, open)
		if err != nil {
			return err
		}
		if err := e.store.SetPorts(ctx, id, open); err != nil {
			return err
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		s.info.Ports = open
		return nil
	})
}

// DialPort implements agentsandbox.Service.
func (e *Engine) DialPort(ctx context.Context, id string, port uint16) (net.Conn, error) {
	if err := agentsandbox.ValidatePort(port, 0); err != nil {
		return nil, err
	}
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, err
	}
	return e.dialPort(ctx, p.Tenant, id, port)
}

// DialToken opens a connection to the port that a URL is for. Whoever has the URL
// may use it: there is no key. Codes: port_not_found, port_not_reached.
func (e *Engine) DialToken(ctx context.Context, token string) (net.Conn, error) {
	closed := agentsandbox.Errorf(agentsandbox.CodePortNotFound, "This URL is of no open port: it has expired, was closed, or is incomplete. Ask for a new one.")
	if e.vault == nil {
		return nil, closed
	}
	var claims portToken
	payload, err := e.vault.Verify(token, portLabel)
	if err != nil || json.Unmarshal(payload, &claims) != nil || e.now().Unix() >= claims.Expires {
		return nil, closed
	}
	e.mu.Lock()
	s := e.sessions[claims.Session]
	open := s != nil && s.info.Tenant == claims.Tenant && slices.ContainsFunc(e.validPorts(s), func(p agentsandbox.OpenPort) bool {
		return p.Port == claims.Port && p.ID == claims.ID
	})
	e.mu.Unlock()
	if !open {
		return nil, closed
	}
	return e.dialPort(ctx, claims.Tenant, claims.Session, claims.Port)
}

func (e *Engine) dialPort(ctx context.Context, tenant, id string, port uint16) (net.Conn, error) {
	ctx, done, err := e.begin(ctx, "dialPort")
	if err != nil {
		return nil, err
	}
	// An open connection is a use of the session, but no work to wait for.
	defer done()
	ctx, v, err := e.visit(ctx, tenant, id, "port connection")
	if err != nil {
		return nil, err
	}
	if !e.network.HasDevice(v.sandbox.ID()) {
		v.leave()
		return nil, noDevice(v.session)
	}
	inside, err := e.network.Dial(ctx, v.sandbox.ID(), port)
	if err != nil {
		cause := context.Cause(ctx)
		v.leave()
		if cause != nil {
			return nil, v.explain(cause)
		}
		return nil, &agentsandbox.Error{
			Code:    agentsandbox.CodePortNotReached,
			Message: fmt.Sprintf("Nobody listens on port %d of the session %s: start a server there, on 0.0.0.0 and not on 127.0.0.1 alone.", port, id),
			Err:     err,
		}
	}
	stop := context.AfterFunc(v.ended, func() {
		_ = inside.Close()
		v.leave() // whoever has the connection may never close it
	})
	return &portConn{Conn: inside, release: func() { stop(); v.leave() }}, nil
}

// portConn is a connection into a session, which ends with it.
type portConn struct {
	net.Conn
	release func()
}

// Close implements net.Conn.
func (c *portConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}

// CloseWrite says that nothing more will be written.
func (c *portConn) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.New("this connection cannot be closed in one direction")
	}
	return half.CloseWrite()
}
