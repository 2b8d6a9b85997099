package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

type policyBody struct {
	Mode  agentsandbox.NetworkMode `json:"mode,omitempty"`
	Allow []string                 `json:"allow,omitempty"`
	Deny  []string                 `json:"deny,omitempty"`
}

func policyBodyOf(p *agentsandbox.NetworkPolicy) *policyBody {
	if p == nil {
		return nil
	}
	return &policyBody{p.Mode, p.Allow, p.Deny}
}

// policy is nil where the server says nothing.
func (b *policyBody) policy() *agentsandbox.NetworkPolicy {
	if b == nil || b.Mode == "" {
		return nil
	}
	return &agentsandbox.NetworkPolicy{Mode: b.Mode, Allow: b.Allow, Deny: b.Deny}
}

// secretBody is a secret on its way to the server, value included.
type secretBody struct {
	Name   string   `json:"name"`
	Value  string   `json:"value,omitempty"`
	Hosts  []string `json:"hosts"`
	Header string   `json:"header,omitempty"`
}

func secretBodies(secrets []agentsandbox.Secret) ([]secretBody, error) {
	var bodies []secretBody
	for _, s := range secrets {
		if err := validText("secrets."+s.Name+".value", s.Value.Reveal()); err != nil {
			return nil, err
		}
		bodies = append(bodies, secretBody{s.Name, s.Value.Reveal(), s.Hosts, s.Header})
	}
	return bodies, nil
}

func secretsOf(bodies []secretBody) []agentsandbox.Secret {
	var secrets []agentsandbox.Secret
	for _, b := range bodies {
		secrets = append(secrets, agentsandbox.Secret{Name: b.Name, Hosts: b.Hosts, Header: b.Header})
	}
	return secrets
}

// SetNetwork replaces the network policy of a session.
func (c *Client) SetNetwork(ctx context.Context, sessionID string, policy agentsandbox.NetworkPolicy) (*agentsandbox.Session, error) {
	return c.session(ctx, call{method: http.MethodPut, path: segments("sessions", sessionID, "network"), json: policyBodyOf(&policy)})
}

// NetworkReport tells what a session did with the network.
func (c *Client) NetworkReport(ctx context.Context, sessionID string) (*agentsandbox.NetworkReport, error) {
	var answer struct {
		Policy       *policyBody      `json:"policy"`
		Device       bool             `json:"device"`
		Connections  int64            `json:"connections"`
		Open         int64            `json:"open_connections"`
		BytesIn      int64            `json:"bytes_in"`
		BytesOut     int64            `json:"bytes_out"`
		Queries      int64            `json:"dns_queries"`
		Refusals     map[string]int64 `json:"refusals"`
		Names        map[string]int64 `json:"names"`
		NamesLeftOut int64            `json:"names_left_out"`
		Log          []struct {
			At      time.Time `json:"at"`
			Count   int       `json:"count"`
			Kind    string    `json:"kind"`
			Name    string    `json:"name"`
			Address string    `json:"address"`
			Port    uint16    `json:"port"`
			Verdict string    `json:"verdict"`
			Reason  string    `json:"reason"`
			Rule    string    `json:"rule"`
		} `json:"log"`
		LogLeftOut int64 `json:"log_left_out"`
	}
	call := call{method: http.MethodGet, path: segments("sessions", sessionID, "network")}
	if err := c.exchange(ctx, call, &answer); err != nil {
		return nil, err
	}
	policy := answer.Policy.policy()
	if policy == nil {
		return nil, c.incomplete(call, errMissing("policy"))
	}
	r := &agentsandbox.NetworkReport{
		Policy: *policy, Device: answer.Device, Connections: answer.Connections, Open: answer.Open,
		BytesIn: answer.BytesIn, BytesOut: answer.BytesOut, Queries: answer.Queries, Refusals: answer.Refusals,
		Names: answer.Names, NamesLeftOut: answer.NamesLeftOut, LogLeftOut: answer.LogLeftOut,
	}
	for _, e := range answer.Log {
		r.Log = append(r.Log, agentsandbox.NetworkEntry(e))
	}
	return r, nil
}

type portAnswer struct {
	Port      uint16    `json:"port"`
	URL       string    `json:"url"`
	ExpiresAt time.Time `json:"expires_at"`
}

func (a portAnswer) port() agentsandbox.OpenPort {
	return agentsandbox.OpenPort{Port: a.Port, URL: a.URL, ExpiresAt: a.ExpiresAt}
}

// OpenPort gives a port of a session a URL, for whoever has it.
func (c *Client) OpenPort(ctx context.Context, sessionID string, port uint16, lifeMS int64) (*agentsandbox.OpenPort, error) {
	call := call{method: http.MethodPost, path: segments("sessions", sessionID, "ports"), json: struct {
		Port        uint16 `json:"port"`
		ExpiresInMS int64  `json:"expires_in_ms,omitempty"`
	}{port, lifeMS}}
	var answer portAnswer
	if err := c.exchange(ctx, call, &answer); err != nil {
		return nil, err
	}
	if answer.URL == "" {
		return nil, c.incomplete(call, errMissing("url"))
	}
	opened := answer.port()
	return &opened, nil
}

// OpenPorts lists the ports of a session that have a URL.
func (c *Client) OpenPorts(ctx context.Context, sessionID string) ([]agentsandbox.OpenPort, error) {
	var answer struct {
		Ports []portAnswer `json:"ports"`
	}
	if err := c.exchange(ctx, call{method: http.MethodGet, path: segments("sessions", sessionID, "ports")}, &answer); err != nil {
		return nil, err
	}
	ports := make([]agentsandbox.OpenPort, len(answer.Ports))
	for i, p := range answer.Ports {
		ports[i] = p.port()
	}
	return ports, nil
}

// ClosePort makes the URL of a port invalid.
func (c *Client) ClosePort(ctx context.Context, sessionID string, port uint16) error {
	return c.exchange(ctx, call{method: http.MethodDelete, path: segments("sessions", sessionID, "ports", strconv.Itoa(int(port)))}, nil)
}

// tunnelProtocol is what a request upgrades to that becomes a connection.
const tunnelProtocol = "agentsandbox-tcp"

// DialPort opens a connection to a port of a session, through the server. It has
// CloseWrite, and no deadlines. ctx bounds the dialling alone.
func (c *Client) DialPort(ctx context.Context, sessionID string, port uint16) (net.Conn, error) {
	// A request whose context ends takes its connection with it.
	request, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	call := call{method: http.MethodGet, path: segments("sessions", sessionID, "ports", strconv.Itoa(int(port)), "tunnel"), upgrade: tunnelProtocol}
	resp, err := c.send(request, call)
	if err == nil && !stop() {
		resp.Body.Close()
		err = ctx.Err()
	}
	if err != nil {
		cancel()
		if ctx.Err() != nil {
			err = fmt.Errorf("%s %s: %w", call.method, call.path, ctx.Err())
		}
		return nil, err
	}
	stream, ok := resp.Body.(io.ReadWriteCloser)
	if resp.StatusCode != http.StatusSwitchingProtocols || !strings.EqualFold(resp.Header.Get("Upgrade"), tunnelProtocol) || !ok {
		resp.Body.Close()
		cancel()
		return nil, c.incomplete(call, errors.New("it does not become a connection"))
	}
	return &tunnel{ReadWriteCloser: stream, cancel: cancel, port: port}, nil
}

// tunnel is a connection to a port, inside one to the server.
type tunnel struct {
	io.ReadWriteCloser
	cancel context.CancelFunc
	port   uint16
}

// Close implements net.Conn.
func (t *tunnel) Close() error {
	defer t.cancel()
	return t.ReadWriteCloser.Close()
}

// CloseWrite says that nothing more will be written.
func (t *tunnel) CloseWrite() error {
	half, ok := t.ReadWriteCloser.(interface{ CloseWrite() error })
	if !ok {
		return errors.New("this connection cannot be closed in one direction")
	}
	return half.CloseWrite()
}

// tunnelAddr is an end of a tunnel, which has no address of its own.
type tunnelAddr string

func (tunnelAddr) Network() string  { return "tunnel" }
func (a tunnelAddr) String() string { return string(a) }

// LocalAddr implements net.Conn.
func (t *tunnel) LocalAddr() net.Addr { return tunnelAddr("client") }

// RemoteAddr implements net.Conn.
func (t *tunnel) RemoteAddr() net.Addr { return tunnelAddr("port " + strconv.Itoa(int(t.port))) }

// SetDeadline implements net.Conn: there are none.
func (t *tunnel) SetDeadline(time.Time) error { return os.ErrNoDeadline }

// SetReadDeadline implements net.Conn: there are none.
func (t *tunnel) SetReadDeadline(time.Time) error { return os.ErrNoDeadline }

// SetWriteDeadline implements net.Conn: there are none.
func (t *tunnel) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }
