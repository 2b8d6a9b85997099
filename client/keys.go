package client

import (
	"context"
	"net/http"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

type keyBody struct {
	Name      string               `json:"name"`
	Tenant    string               `json:"tenant,omitempty"`
	Scopes    []agentsandbox.Scope `json:"scopes,omitempty"`
	ExpiresAt *time.Time           `json:"expires_at,omitempty"`
}

type keyAnswer struct {
	ID         string               `json:"id"`
	Tenant     string               `json:"tenant"`
	Name       string               `json:"name"`
	Hint       string               `json:"hint"`
	Scopes     []agentsandbox.Scope `json:"scopes"`
	CreatedAt  time.Time            `json:"created_at"`
	ExpiresAt  *time.Time           `json:"expires_at"`
	LastUsedAt *time.Time           `json:"last_used_at"`
	RevokedAt  *time.Time           `json:"revoked_at"`
}

func (a keyAnswer) key() agentsandbox.Key {
	return agentsandbox.Key{
		ID:         a.ID,
		Tenant:     a.Tenant,
		Name:       a.Name,
		Hint:       a.Hint,
		Scopes:     a.Scopes,
		CreatedAt:  a.CreatedAt,
		ExpiresAt:  timeOrZero(a.ExpiresAt),
		LastUsedAt: timeOrZero(a.LastUsedAt),
		RevokedAt:  timeOrZero(a.RevokedAt),
	}
}

// CreateKey makes a key and returns its value, which is shown this once.
func (c *Client) CreateKey(ctx context.Context, req agentsandbox.KeyRequest) (*agentsandbox.NewKey, error) {
	if err := validText("name", req.Name); err != nil {
		return nil, err
	}
	if err := validText("tenant", req.Tenant); err != nil {
		return nil, err
	}
	body := keyBody{Name: req.Name, Tenant: req.Tenant, Scopes: req.Scopes}
	if !req.ExpiresAt.IsZero() {
		at := req.ExpiresAt.UTC()
		body.ExpiresAt = &at
	}
	call := call{method: http.MethodPost, path: segments("api-keys"), json: body}
	var answer struct {
		keyAnswer
		Value string `json:"key_value"`
	}
	if err := c.exchange(ctx, call, &answer); err != nil {
		return nil, err
	}
	if answer.Value == "" {
		return nil, c.incomplete(call, errMissing("key_value"))
	}
	return &agentsandbox.NewKey{Key: answer.key(), Value: answer.Value}, nil
}

// Keys lists keys, newest first, without their values.
func (c *Client) Keys(ctx context.Context, page agentsandbox.Page) (*agentsandbox.KeyPage, error) {
	call := call{method: http.MethodGet, path: segments("api-keys"), query: pageQuery(page)}
	var answer struct {
		Keys []keyAnswer `json:"keys"`
		pageAnswer
	}
	if err := c.exchange(ctx, call, &answer); err != nil {
		return nil, err
	}
	result := &agentsandbox.KeyPage{Total: answer.Total, Page: answer.page(), NextCursor: answer.NextCursor}
	for _, item := range answer.Keys {
		if item.ID == "" {
			return nil, c.incomplete(call, errMissing("id"))
		}
		result.Keys = append(result.Keys, item.key())
	}
	return result, nil
}

// RevokeKey stops a key from working, at once.
func (c *Client) RevokeKey(ctx context.Context, id string) error {
	return c.exchange(ctx, call{method: http.MethodDelete, path: segments("api-keys", id)}, nil)
}
