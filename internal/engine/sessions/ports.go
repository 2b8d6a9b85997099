package sessions

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

// portLabel is what tokens of ports are made for, and portPath where the server
// serves them.
const (
	portLabel = "port of a session"
	portPath  = "/p/"
)

// OpenPort implements agentsandbox.SessionService.
func (r *Registry) OpenPort(ctx context.Context, id string, port uint16, lifeMS int64) (*agentsandbox.OpenPort, error) {
	if err := agentsandbox.ValidatePort(port, lifeMS); err != nil {
		return nil, err
	}
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, err
	}
	if lifeMS == 0 {
		lifeMS = agentsandbox.DefaultPortLife
	}
	var opened agentsandbox.OpenPort
	err = r.changePorts(ctx, id, func(s *session, open []agentsandbox.OpenPort) ([]agentsandbox.OpenPort, error) {
		if err := r.checkInbound(s); err != nil {
			return nil, err
		}
		open = slices.DeleteFunc(open, func(p agentsandbox.OpenPort) bool { return p.Port == port })
		if len(open) >= agentsandbox.MaxOpenPorts {
			return nil, agentsandbox.Errorf(agentsandbox.CodeConflict, "The session %s has %d open ports, which is the most. Close one first.", id, len(open))
		}
		expires := r.now().Add(time.Duration(lifeMS) * time.Millisecond)
		if end, known := r.keys.End(p.KeyID); known && end.Before(expires) {
			expires = end // the URL ends with its key
		}
		opened = agentsandbox.OpenPort{Port: port, ID: agentsandbox.NewID(""), KeyID: p.KeyID, ExpiresAt: expires}
		opened.Path = r.pathOf(id, opened)
		return append(open, opened), nil
	})
	if err != nil {
		return nil, err
	}
	return &opened, nil
}

// pathOf is where a port is served. It tells nothing of what it is for, and cannot
// be made up without the server's key.
func (r *Registry) pathOf(session string, p agentsandbox.OpenPort) string {
	return portPath + r.vault.Token([]byte(session+"\x00"+p.ID), portLabel) + "/"
}

// setPorts makes these the ports of a session; the registry's lock is held.
func (r *Registry) setPorts(s *session, open []agentsandbox.OpenPort) {
	for _, p := range s.ports {
		delete(r.byPath, p.Path)
	}
	s.ports = open
	if r.vault == nil {
		return
	}
	for i := range open {
		if open[i].Path == "" { // from the store
			open[i].Path = r.pathOf(s.info.ID, open[i])
		}
		r.byPath[open[i].Path] = s
	}
}

// checkInbound refuses a session whose ports nobody may reach.
func (r *Registry) checkInbound(s *session) error {
	if !r.network.HasDevice(s.sandbox.ID()) {
		return noDevice(s)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.checkNetworkOn(s)
}

// checkNetworkOn is checkInbound with the registry's lock held, of a session with a
// device.
func (r *Registry) checkNetworkOn(s *session) error {
	if r.supply.Isolated(s.info.Template, s.info.Network) {
		return agentsandbox.Errorf(agentsandbox.CodeConflict, "The network of the session %s is off, for what comes in too. Set another policy first.", s.info.ID)
	}
	return nil
}

// OpenPorts implements agentsandbox.SessionService.
func (r *Registry) OpenPorts(ctx context.Context, id string) ([]agentsandbox.OpenPort, error) {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, err
	}
	s, err := r.live(ctx, p.Tenant, id)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	open := r.validPorts(s)
	r.mu.Unlock()
	slices.SortFunc(open, func(a, b agentsandbox.OpenPort) int { return int(a.Port) - int(b.Port) })
	return open, nil
}

// validPorts are those that have not expired and whose key is still valid; the
// engine's lock is held.
func (r *Registry) validPorts(s *session) []agentsandbox.OpenPort {
	now := r.now()
	var open []agentsandbox.OpenPort
	for _, p := range s.ports {
		if now.Before(p.ExpiresAt) && !r.keyEnded(p.KeyID) {
			open = append(open, p)
		}
	}
	return open
}

// keyEnded tells whether a key is known to be valid no more.
func (r *Registry) keyEnded(id string) bool {
	end, known := r.keys.End(id)
	return known && !r.now().Before(end)
}

// closeForKey closes what a key that was revoked has open: connections to ports, and
// URLs that it made.
func (r *Registry) closeForKey(ctx context.Context, id string) error {
	var made []*session
	r.mu.Lock()
	for _, s := range r.sessions {
		if slices.ContainsFunc(s.ports, func(p agentsandbox.OpenPort) bool { return p.KeyID == id }) {
			made = append(made, s)
		}
	}
	r.mu.Unlock()
	r.endConns(errKeyRevoked, func(c *portConn) bool { return c.use.key == id })
	var errs []error
	for _, s := range made {
		// Those of the key are not among the valid ones any more.
		err := r.replacePorts(ctx, s, func(_ *session, open []agentsandbox.OpenPort) ([]agentsandbox.OpenPort, error) { return open, nil })
		if agentsandbox.CodeOf(err) != agentsandbox.CodeSessionNotFound { // it ended meanwhile
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// ClosePort implements agentsandbox.SessionService.
func (r *Registry) ClosePort(ctx context.Context, id string, port uint16) error {
	return r.changePorts(ctx, id, func(_ *session, open []agentsandbox.OpenPort) ([]agentsandbox.OpenPort, error) {
		at := slices.IndexFunc(open, func(p agentsandbox.OpenPort) bool { return p.Port == port })
		if at < 0 {
			return nil, agentsandbox.Errorf(agentsandbox.CodePortNotFound, "Port %d of the session %s has no valid URL.", port, agentsandbox.QuoteID(id))
		}
		return slices.Delete(open, at, at+1), nil
	})
}

// changePorts replaces the open ports of a session.
func (r *Registry) changePorts(ctx context.Context, id string, change func(*session, []agentsandbox.OpenPort) ([]agentsandbox.OpenPort, error)) error {
	return r.inSession(ctx, id, "changePorts", func(ctx context.Context, s *session) error {
		if r.vault == nil {
			return agentsandbox.Errorf(agentsandbox.CodeConflict, "This server opens no ports.")
		}
		return r.replacePorts(ctx, s, change)
	})
}

// replacePorts changes the open ports in the store first: what was closed must
// stay closed after a restart.
func (r *Registry) replacePorts(ctx context.Context, s *session, change func(*session, []agentsandbox.OpenPort) ([]agentsandbox.OpenPort, error)) error {
	s.networking.Lock()
	defer s.networking.Unlock()
	r.mu.Lock()
	open := r.validPorts(s)
	r.mu.Unlock()
	open, err := change(s, open)
	if err != nil {
		return err
	}
	if err := r.store.SetPorts(ctx, s.info.ID, open); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.setPorts(s, open)
	return nil
}

// DialPort implements agentsandbox.SessionService.
func (r *Registry) DialPort(ctx context.Context, id string, port uint16) (net.Conn, error) {
	if err := agentsandbox.ValidatePort(port, 0); err != nil {
		return nil, err
	}
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, err
	}
	return r.dialPort(ctx, p.Tenant, id, portUse{port: port, key: p.KeyID})
}

// DialToken opens a connection to the port that a URL is for, and says which one
// that is. Whoever has the URL may use it: there is no key. Nothing that it says
// names the session. Codes: port_not_found, port_not_reached, rate_limited.
func (r *Registry) DialToken(ctx context.Context, token string) (conn net.Conn, port uint16, err error) {
	closed := agentsandbox.Errorf(agentsandbox.CodePortNotFound, "This URL is of no open port: it has expired, was closed, or is incomplete. Ask for a new one.")
	path := portPath + token + "/"
	r.mu.Lock()
	s := r.byPath[path]
	var open []agentsandbox.OpenPort
	if s != nil {
		open = slices.DeleteFunc(r.validPorts(s), func(p agentsandbox.OpenPort) bool { return p.Path != path })
	}
	r.mu.Unlock()
	if len(open) == 0 {
		return nil, 0, closed
	}
	to := open[0]
	conn, err = r.dialPort(ctx, s.info.Tenant, s.info.ID, portUse{port: to.Port, key: to.KeyID, url: to.ID})
	switch agentsandbox.CodeOf(err) {
	case agentsandbox.CodeSessionNotFound:
		return nil, 0, closed
	case agentsandbox.CodeConflict:
		return nil, 0, &agentsandbox.Error{
			Code: agentsandbox.CodePortNotReached, Err: err,
			Message: "The network of the session that this URL leads to is off, for what comes in too.",
		}
	case agentsandbox.CodePortNotReached:
		return nil, 0, &agentsandbox.Error{
			Code: agentsandbox.CodePortNotReached, Err: err,
			Message: strings.Replace(agentsandbox.MessageOf(err), " of the session "+s.info.ID, "", 1),
		}
	}
	return conn, to.Port, err
}
