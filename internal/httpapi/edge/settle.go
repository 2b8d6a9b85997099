package edge

import (
	"cmp"
	"net/http"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/input"
)

// settle does, before an answer leaves, what must not be lost when the server
// dies after it: the answer is kept for a repeated request, and the audit log
// gets its row. It fails for a success whose row cannot be written: what was done
// stands, and whoever asked must hear that nobody wrote it down.
func (c *Call) settle(status int, body []byte) error {
	if c.settled {
		return nil
	}
	c.settled = true
	if claim := c.claim; claim != nil {
		err := error(nil)
		if c.worthKeeping(status) {
			err = c.edge.idempotency.KeepAnswer(c.Context(), claim, c.digest, c.keptAnswer(status, body))
		} else {
			err = c.edge.idempotency.DropRequest(c.Context(), claim)
		}
		if err != nil {
			c.edge.log.WarnContext(c.Context(), "the answer to a request with an Idempotency-Key could not be kept",
				"request_id", c.requestID, "error", err)
		}
	}
	err := c.audit(status)
	if err == nil || status >= http.StatusBadRequest {
		return nil
	}
	return agentsandbox.Internal(err, "The request was carried out, but its row in the audit log could not be written. Until that works again, nothing more is changed. Look at what it did before you repeat it.")
}

// audit writes a row about a request that was to change something, whoever has a
// key and sends it. One that was refused for its rate is not worth a row.
func (c *Call) audit(status int) error {
	if c.edge.audit == nil || c.keyID == "" || c.action == "" || status == http.StatusTooManyRequests {
		return nil
	}
	entry := agentsandbox.AuditEntry{
		Tenant: c.tenant, KeyID: c.keyID, RequestID: c.requestID, Remote: c.r.RemoteAddr,
		Action: c.action, ObjectID: c.object, Outcome: agentsandbox.AuditOK,
	}
	if entry.ObjectID == "" && c.objectParam != "" {
		entry.ObjectID = input.Shown(c.r.PathValue(c.objectParam))
	}
	if status >= http.StatusBadRequest {
		entry.Outcome = cmp.Or(string(c.code), "cancelled")
	}
	if c.replayed {
		entry.Detail = "replayed"
	}
	return c.edge.audit(c.Context(), entry)
}
