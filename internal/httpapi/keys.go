package httpapi

import (
	"net/http"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

type keyRequest struct {
	Name      string     `json:"name" minLength:"1" maxLength:"128" doc:"What people know the key by." example:"ci"`
	Tenant    string     `json:"tenant,omitempty" doc:"Who owns what the key makes; left out: the caller's tenant. Another one needs the scope admin."`
	Scopes    stringList `json:"scopes,omitempty" nullable:"false" enum:"sandbox,read,keys,admin" doc:"What the key may do; left out: sandbox. Only scopes that the caller has can be given."`
	ExpiresAt string     `json:"expires_at,omitempty" format:"date-time" doc:"When the key stops working (RFC 3339); left out: never."`
}

// KeyInfo is a key without its value.
type KeyInfo struct {
	ID         string               `json:"id" doc:"The key's id."`
	Name       string               `json:"name" doc:"What people know the key by."`
	Tenant     string               `json:"tenant" doc:"Who owns what the key makes."`
	Hint       string               `json:"hint" doc:"The start of the key's value, enough to recognise it by."`
	Scopes     []agentsandbox.Scope `json:"scopes" nullable:"false" enum:"sandbox,read,keys,admin" doc:"What the key may do."`
	CreatedAt  time.Time            `json:"created_at" doc:"When the key was made (RFC 3339, UTC)."`
	ExpiresAt  *time.Time           `json:"expires_at" doc:"When the key stops working (RFC 3339, UTC); null: never."`
	LastUsedAt *time.Time           `json:"last_used_at" doc:"When the key was last used, to a minute (RFC 3339, UTC); null: never."`
	RevokedAt  *time.Time           `json:"revoked_at" doc:"When the key was revoked (RFC 3339, UTC); null: it was not."`
}

type newKey struct {
	KeyValue string `json:"key_value" doc:"The key itself. It is shown this once and cannot be had again."`
	KeyInfo
}

func (k newKey) objectID() string { return k.ID }

type keyList struct {
	Keys []KeyInfo `json:"keys" nullable:"false" doc:"One page of keys, newest first, without their values."`
	PageInfo
}

func (a *api) keyRoutes() {
	type createInput struct{ Body keyRequest }
	answer(a, route{
		method: "POST", path: "/v1/api-keys", id: "createKey", tag: "keys", scope: agentsandbox.ScopeKeys,
		status: http.StatusCreated, summary: "Make an API key", description: "Makes a key and shows its value, this once: a repeated request with the same Idempotency-Key is a conflict.",
		secret: true,
	}, func(c *call, in *createInput) (*newKey, error) {
		req := agentsandbox.KeyRequest{Name: in.Body.Name, Tenant: in.Body.Tenant}
		for _, s := range in.Body.Scopes {
			req.Scopes = append(req.Scopes, agentsandbox.Scope(s))
		}
		if in.Body.ExpiresAt != "" {
			at, err := time.Parse(time.RFC3339, in.Body.ExpiresAt)
			if err != nil {
				return nil, agentsandbox.Invalid("expires_at", "must be a time of RFC 3339, such as 2030-01-31T12:00:00Z, not %q.", clip(in.Body.ExpiresAt))
			}
			req.ExpiresAt = at.UTC()
		}
		if err := req.Validate(time.Now()); err != nil {
			return nil, err
		}
		k, err := a.service.CreateKey(c.Context(), req)
		if err != nil {
			return nil, err
		}
		return &newKey{KeyValue: k.Value, KeyInfo: keyInfoOf(&k.Key)}, nil
	})

	answer(a, route{
		method: "GET", path: "/v1/api-keys", id: "listKeys", tag: "keys", scope: agentsandbox.ScopeKeys,
		summary: "List API keys", description: "Lists keys, newest first, without their values.",
	}, func(c *call, in *pageInput) (*keyList, error) {
		page, err := in.page()
		if err != nil {
			return nil, err
		}
		got, err := a.service.Keys(c.Context(), page)
		if err != nil {
			return nil, err
		}
		out := &keyList{Keys: make([]KeyInfo, len(got.Keys)), PageInfo: PageInfo{got.Total, page.Limit, page.Offset, got.NextCursor}}
		for i := range got.Keys {
			out.Keys[i] = keyInfoOf(&got.Keys[i])
		}
		return out, nil
	})

	type keyInput struct {
		ID string `path:"key_id" doc:"The key's id."`
	}
	answer(a, route{
		method: "DELETE", path: "/v1/api-keys/{key_id}", id: "revokeKey", tag: "keys", scope: agentsandbox.ScopeKeys,
		summary: "Revoke an API key", description: "Stops a key from working, at once.",
		codes: []agentsandbox.Code{agentsandbox.CodeKeyNotFound},
	}, func(c *call, in *keyInput) (*nothing, error) {
		return &nothing{}, a.service.RevokeKey(c.Context(), in.ID)
	})
}

func keyInfoOf(k *agentsandbox.Key) KeyInfo {
	info := KeyInfo{
		ID: k.ID, Name: k.Name, Tenant: k.Tenant, Hint: k.Hint, Scopes: k.Scopes, CreatedAt: wireTime(k.CreatedAt),
		ExpiresAt: timeOrNull(k.ExpiresAt), LastUsedAt: timeOrNull(k.LastUsedAt), RevokedAt: timeOrNull(k.RevokedAt),
	}
	if info.Scopes == nil {
		info.Scopes = []agentsandbox.Scope{}
	}
	return info
}
