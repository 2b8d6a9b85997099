package client

import (
	"context"
	"net/http"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

type auditAnswer struct {
	Seq       int64     `json:"seq"`
	At        time.Time `json:"at"`
	Tenant    string    `json:"tenant"`
	KeyID     string    `json:"key_id"`
	RequestID string    `json:"request_id"`
	Remote    string    `json:"remote"`
	Action    string    `json:"action"`
	ObjectID  string    `json:"object_id"`
	Outcome   string    `json:"outcome"`
	Detail    string    `json:"detail"`
	Hash      string    `json:"hash"`
}

// AuditLog lists the audit log, newest first. The entries can be checked with
// [agentsandbox.AuditEntry.Chain].
func (c *Client) AuditLog(ctx context.Context, page agentsandbox.Page) (*agentsandbox.AuditPage, error) {
	call := call{method: http.MethodGet, path: segments("audit"), query: pageQuery(page)}
	var answer struct {
		Entries []auditAnswer `json:"entries"`
		pageAnswer
	}
	if err := c.exchange(ctx, call, &answer); err != nil {
		return nil, err
	}
	result := &agentsandbox.AuditPage{Total: answer.Total, Page: answer.page(), NextCursor: answer.NextCursor}
	for _, e := range answer.Entries {
		if e.Seq == 0 {
			return nil, c.incomplete(call, errMissing("seq"))
		}
		result.Entries = append(result.Entries, agentsandbox.AuditEntry(e))
	}
	return result, nil
}
