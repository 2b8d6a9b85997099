package httpapi

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/agentsandbox/agentsandbox"
)

// tunnelProtocol is what a client upgrades to for a bare connection to a port.
const tunnelProtocol = "agentsandbox-tcp"

// portPrefix starts the paths of open ports; the token follows.
const (
	portPrefix = "/p/"
	portRoute  = "/p/{token}"
)

// tunnel joins the connection of a request to one of a port of a session.
func (a *api) tunnel(c *call, session string, port uint16) error {
	if !strings.EqualFold(c.r.Header.Get("Upgrade"), tunnelProtocol) {
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
	return c.join(http.Header{"Connection": {"Upgrade"}, "Upgrade": {tunnelProtocol}, "X-Request-Id": {c.requestID}}, inside, inside)
}

// scheme is how clients reach this server: as the operator says, as the request
// came, or as a proxy in front says that it came. Whoever sends X-Forwarded-Proto
// themselves only mislead themselves: it is in no answer to anybody else.
func (c *call) scheme() string {
	if u := c.api.publicURL; u != nil {
		return u.Scheme
	}
	if c.r.TLS != nil {
		return "https"
	}
	said, _, _ := strings.Cut(c.r.Header.Get("X-Forwarded-Proto"), ",")
	if said == "" {
		first, _, _ := strings.Cut(c.r.Header.Get("Forwarded"), ",")
		for part := range strings.SplitSeq(first, ";") {
			if name, value, _ := strings.Cut(part, "="); strings.EqualFold(strings.TrimSpace(name), "proto") {
				said = strings.Trim(strings.TrimSpace(value), `"`)
			}
		}
	}
	if strings.EqualFold(strings.TrimSpace(said), "https") {
		return "https"
	}
	return "http"
}

// publicAuthority is what the URL of a port has between scheme and path.
func (a *api) publicAuthority(r *http.Request) string {
	switch {
	case a.portsHost != "":
		return string(a.portsHost)
	case a.publicURL != nil:
		return a.publicURL.Host
	}
	return r.Host
}

// parsePublicURL reads Options.PublicURL; nil for none.
func parsePublicURL(text string) (*url.URL, error) {
	if text == "" {
		return nil, nil
	}
	return url.Parse(text)
}
