package edge

import (
	"net/http"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/httpserver"
)

// MaxKeyBytes bounds a key value, so that nobody has us hash megabytes.
const MaxKeyBytes = 512

// admit finds out who asks and whether they may.
func (c *Call) admit(rt *Route) error {
	if rt.Scope == "" {
		return nil
	}
	value, err := c.surface.Key(c.r)
	if err != nil {
		return err
	}
	if len(value) > MaxKeyBytes {
		return agentsandbox.Errorf(agentsandbox.CodeUnauthorized, "The API key is longer than any key is.")
	}
	p, err := c.edge.authenticate(c.Context(), value)
	if err != nil {
		return err
	}
	c.keyID, c.tenant = p.KeyID, p.Tenant
	httpserver.MarkKnown(c.Context())
	if err := c.edge.limiter.request(p.KeyID, c.w.Header()); err != nil {
		return err
	}
	if !p.Has(rt.Scope) {
		return agentsandbox.Errorf(agentsandbox.CodeForbidden,
			"This key lacks the scope %q; use a key that has it.", rt.Scope)
	}
	if rt.Status != http.StatusSwitchingProtocols { // whose connections are counted elsewhere
		if c.leave, err = c.edge.limiter.enter(p.KeyID); err != nil {
			return err
		}
	}
	c.r = c.r.WithContext(agentsandbox.WithPrincipal(c.Context(), p))
	if c.action != "" && c.edge.auditReady != nil {
		return c.edge.auditReady(c.Context())
	}
	return nil
}
