package v1

import (
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
)

type auditEntry struct {
	Seq       int64     `json:"seq" doc:"The number of the row: 1 and on, without gaps."`
	At        time.Time `json:"at" doc:"When it was done (RFC 3339, UTC)."`
	Tenant    string    `json:"tenant" doc:"Whose key it was done with, or whose thing the server did it to."`
	KeyID     *string   `json:"key_id" doc:"The API key that asked; null: the server did it by itself."`
	RequestID string    `json:"request_id" doc:"The X-Request-Id of the request."`
	Remote    string    `json:"remote" doc:"Address and port that the request came from."`
	Action    string    `json:"action" doc:"The operationId of the request; expireSession, sweep, bootstrapKey, and of the network refuseEgress, useSecret and countEgress, are the server's own."`
	ObjectID  *string   `json:"object_id" doc:"What was made or acted on; null for nothing."`
	Outcome   string    `json:"outcome" doc:"ok, or the code of the error; of refuseEgress the reason."`
	Detail    string    `json:"detail" doc:"What else there is to say; may be empty."`
	Hash      string    `json:"hash" doc:"SHA-256, in hex, of this row and of the hash before it."`
}

type auditList struct {
	Entries []auditEntry `json:"entries" nullable:"false" doc:"One page of rows, newest first."`
	PageInfo
}

func (a *api) auditRoutes() []edge.Route {
	return []edge.Route{
		a.listAuditRoute(),
	}
}

func (a *api) listAuditRoute() edge.Route {
	return edge.Answer(edge.Route{
		Method: "GET", Path: "/v1/audit", ID: "listAudit", Tag: "audit", Scope: agentsandbox.ScopeAdmin,
		Summary: "List the audit log", Description: "Lists who did what, for all tenants, newest first. Rows are only ever added, each hashed with the one before.",
	}, func(c *edge.Call, in *pageInput) (*auditList, error) {
		page, err := in.page()
		if err != nil {
			return nil, err
		}
		got, err := a.service.AuditLog(c.Context(), page)
		if err != nil {
			return nil, err
		}
		out := &auditList{Entries: make([]auditEntry, len(got.Entries)), PageInfo: PageInfo{got.Total, page.Limit, page.Offset, got.NextCursor}}
		for i, e := range got.Entries {
			out.Entries[i] = auditEntry{
				Seq: e.Seq, At: wireTime(e.At), Tenant: e.Tenant, KeyID: orNull(e.KeyID), RequestID: e.RequestID, Remote: e.Remote,
				Action: e.Action, ObjectID: orNull(e.ObjectID), Outcome: e.Outcome, Detail: e.Detail, Hash: e.Hash,
			}
		}
		return out, nil
	})
}
