package v1

import (
	"net/http"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/input"
)

type keyRequest struct {
	Name      string   `json:"name" minLength:"1" maxLength:"128" doc:"What people know the key by." example:"ci"`
	Tenant    string   `json:"tenant,omitempty" doc:"Who owns what the key makes; left out: the caller's tenant. Another one needs the scope admin."`
	Scopes    []string `json:"scopes,omitempty" nullable:"false" enum:"sandbox,read,keys,admin" doc:"What the key may do; left out: sandbox. Only scopes that the caller has can be given."`
	ExpiresAt string   `json:"expires_at,omitempty" format:"date-time" doc:"When the key stops working (RFC 3339); left out: never."`
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

func (k newKey) ObjectID() string { return k.ID }

type keyList struct {
	Keys []KeyInfo `json:"keys" nullable:"false" doc:"One page of keys, newest first, without their values."`
	PageInfo
}

func (a *api) keyRoutes() []edge.Route {
	return []edge.Route{
		a.createKeyRoute(),
		a.listKeysRoute(),
		a.revokeKeyRoute(),
	}
}

func (a *api) createKeyRoute() edge.Route {
	type createInput struct{ Body keyRequest }
	return edge.Answer(edge.Route{
		Method: "POST", Path: "/v1/api-keys", ID: "createKey", Tag: "keys", Scope: agentsandbox.ScopeKeys,
		Status: http.StatusCreated, Summary: "Make an API key", Description: "Makes a key and shows its value, this once: a repeated request with the same Idempotency-Key is a conflict.",
		Secret: true,
	}, func(c *edge.Call, in *createInput) (*newKey, error) {
		req := agentsandbox.KeyRequest{Name: in.Body.Name, Tenant: in.Body.Tenant}
		for _, s := range in.Body.Scopes {
			req.Scopes = append(req.Scopes, agentsandbox.Scope(s))
		}
		if in.Body.ExpiresAt != "" {
			at, err := time.Parse(time.RFC3339, in.Body.ExpiresAt)
			if err != nil {
				return nil, agentsandbox.Invalid("expires_at", "must be a time of RFC 3339, such as 2030-01-31T12:00:00Z, not %q.", input.Clip(in.Body.ExpiresAt))
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
}

func (a *api) listKeysRoute() edge.Route {
	return edge.Answer(edge.Route{
		Method: "GET", Path: "/v1/api-keys", ID: "listKeys", Tag: "keys", Scope: agentsandbox.ScopeKeys,
		Summary: "List API keys", Description: "Lists keys, newest first, without their values.",
	}, func(c *edge.Call, in *pageInput) (*keyList, error) {
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
}

func (a *api) revokeKeyRoute() edge.Route {
	type keyInput struct {
		ID string `path:"key_id" doc:"The key's id."`
	}
	return edge.Answer(edge.Route{
		Method: "DELETE", Path: "/v1/api-keys/{key_id}", ID: "revokeKey", Tag: "keys", Scope: agentsandbox.ScopeKeys,
		Summary: "Revoke an API key", Description: "Stops a key from working, at once.",
		Codes: []agentsandbox.Code{agentsandbox.CodeKeyNotFound},
	}, func(c *edge.Call, in *keyInput) (*edge.Nothing, error) {
		return &edge.Nothing{}, a.service.RevokeKey(c.Context(), in.ID)
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
