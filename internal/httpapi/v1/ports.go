package v1

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
)

// tunnelProtocol is what a client upgrades to for a bare connection to a port.
const tunnelProtocol = "agentsandbox-tcp"

// PortInfo is an open port.
type PortInfo struct {
	Port      uint16    `json:"port" doc:"The port in the sandbox."`
	URL       string    `json:"url" doc:"Where it is served: whoever has this URL can use the port." example:"http://127.0.0.1:8000/p/TOKEN/"`
	ExpiresAt time.Time `json:"expires_at" doc:"Until when (RFC 3339, UTC)."`

	session string
}

// ObjectID names the port in the audit log and for a repeated request.
func (p PortInfo) ObjectID() string { return fmt.Sprintf("%s:%d", p.session, p.Port) }

func (a *api) portInfo(c *edge.Call, session string, p agentsandbox.OpenPort) PortInfo {
	return PortInfo{Port: p.Port, URL: a.portURL(c.Request(), p.Path), ExpiresAt: wireTime(p.ExpiresAt), session: session}
}

type portList struct {
	Ports []PortInfo `json:"ports" nullable:"false" doc:"The ports that have a valid URL, by number."`
}

type portInput struct {
	sessionInput
	Port int `path:"port" minimum:"1" maximum:"65535" doc:"The port in the sandbox."`
}

func (a *api) portRoutes() []edge.Route {
	return []edge.Route{
		a.openPortRoute(),
		a.listPortsRoute(),
		a.closePortRoute(),
		a.tunnelPortRoute(),
	}
}

func (a *api) openPortRoute() edge.Route {
	type openInput struct {
		sessionInput
		Body struct {
			Port        uint16 `json:"port" minimum:"1" maximum:"65535" doc:"The port on which a server in the sandbox listens, on any of its addresses or on 127.0.0.1 alone."`
			ExpiresInMS int64  `json:"expires_in_ms,omitempty" minimum:"0" maximum:"2592000000" doc:"How long the URL is valid, in milliseconds: no longer than the key that asks for it. 0 or left out: an hour."`
		} `nameHint:"PortRequest"`
	}
	return edge.Answer(edge.Route{
		Method: "POST", Path: "/v1/sessions/{session_id}/ports", ID: "openPort", Tag: "network", Scope: agentsandbox.ScopeSandbox,
		Summary: "Give a port of a session a URL", Description: "Makes a URL on this server that expires and tells nothing of what it leads to, for HTTP and WebSockets, in place of an earlier one of the same port. Whoever has the URL can use it without a key.",
		Codes:  []agentsandbox.Code{agentsandbox.CodeSessionNotFound, agentsandbox.CodeConflict, agentsandbox.CodeStorageFull},
		Resume: func(c *edge.Call, object, _ string) (any, error) { return a.resumePort(c, object) },
	}, func(c *edge.Call, in *openInput) (*PortInfo, error) {
		p, err := a.service.OpenPort(c.Context(), in.ID, in.Body.Port, in.Body.ExpiresInMS)
		if err != nil {
			return nil, err
		}
		info := a.portInfo(c, in.ID, *p)
		return &info, nil
	})
}

func (a *api) listPortsRoute() edge.Route {
	return edge.Answer(edge.Route{
		// Who may only read must not get what opens a door.
		Method: "GET", Path: "/v1/sessions/{session_id}/ports", ID: "listPorts", Tag: "network", Scope: agentsandbox.ScopeSandbox,
		Summary: "List the ports of a session that have a URL", Description: "Lists open ports with their URLs, by number.",
		Codes: []agentsandbox.Code{agentsandbox.CodeSessionNotFound},
	}, func(c *edge.Call, in *sessionInput) (*portList, error) {
		open, err := a.service.OpenPorts(c.Context(), in.ID)
		if err != nil {
			return nil, err
		}
		list := &portList{Ports: make([]PortInfo, len(open))}
		for i, p := range open {
			list.Ports[i] = a.portInfo(c, in.ID, p)
		}
		return list, nil
	})
}

func (a *api) closePortRoute() edge.Route {
	return edge.Answer(edge.Route{
		Method: "DELETE", Path: "/v1/sessions/{session_id}/ports/{port}", ID: "closePort", Tag: "network", Scope: agentsandbox.ScopeSandbox,
		Summary: "Close a port of a session", Description: "Makes its URL invalid, for good. Connections that are open stay so.",
		Codes: []agentsandbox.Code{agentsandbox.CodeSessionNotFound, agentsandbox.CodePortNotFound, agentsandbox.CodeStorageFull},
	}, func(c *edge.Call, in *portInput) (*edge.Nothing, error) {
		port, err := portNumber(in.Port)
		if err != nil {
			return nil, err
		}
		return &edge.Nothing{}, a.service.ClosePort(c.Context(), in.ID, port)
	})
}

func (a *api) tunnelPortRoute() edge.Route {
	return edge.Stream(edge.Route{
		Method: "GET", Path: "/v1/sessions/{session_id}/ports/{port}/tunnel", ID: "tunnelPort", Tag: "network", Scope: agentsandbox.ScopeSandbox,
		Summary:     "Connect to a port of a session",
		Description: "With the headers Connection: Upgrade and Upgrade: " + tunnelProtocol + " the answer is 101, and from then on the connection is one to the port, in both directions.",
		Status:      101, Codes: []agentsandbox.Code{agentsandbox.CodeSessionNotFound, agentsandbox.CodeConflict, agentsandbox.CodePortNotReached},
	}, func(c *edge.Call, in *portInput) error {
		port, err := portNumber(in.Port)
		if err != nil {
			return err
		}
		return a.tunnel(c, in.ID, port)
	})
}

// resumePort answers a repeated request with the URL that the port has now.
func (a *api) resumePort(c *edge.Call, object string) (*PortInfo, error) {
	session, number, _ := strings.Cut(object, ":")
	open, err := a.service.OpenPorts(c.Context(), session)
	if err != nil {
		return nil, err
	}
	for _, p := range open {
		if fmt.Sprint(p.Port) == number {
			info := a.portInfo(c, session, p)
			return &info, nil
		}
	}
	return nil, agentsandbox.Errorf(agentsandbox.CodePortNotFound, "Port %s of the session %s was opened, and has no valid URL any more.", number, session)
}

func portNumber(n int) (uint16, error) {
	if n < 1 || n > 65535 {
		return 0, agentsandbox.Invalid("port", "must be from 1 to 65535, not %d.", n)
	}
	return uint16(n), nil
}

// tunnel joins the connection of a request to one of a port of a session.
func (a *api) tunnel(c *edge.Call, session string, port uint16) error {
	if !strings.EqualFold(c.Request().Header.Get("Upgrade"), tunnelProtocol) {
		if _, err := a.service.Session(c.Context(), session); err != nil {
			return err
		}
		return agentsandbox.Invalid("Upgrade", "must be %s, with Connection: Upgrade.", tunnelProtocol)
	}
	inside, err := a.service.DialPort(c.Context(), session, port)
	if err != nil {
		return err
	}
	defer inside.Close()
	return c.Join(http.Header{"Connection": {"Upgrade"}, "Upgrade": {tunnelProtocol}, "X-Request-Id": {c.RequestID()}}, inside, inside)
}
