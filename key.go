package agentsandbox

import (
	"slices"
	"strings"
	"time"
)

// KeyRequest asks for a key.
type KeyRequest struct {
	Name string
	// Tenant owns what the key makes; empty: the caller's. Another one than
	// the caller's needs ScopeAdmin.
	Tenant string
	// Scopes of the key; empty: ScopeSandbox.
	Scopes []Scope
	// ExpiresAt is when the key stops working; zero: never.
	ExpiresAt time.Time
}

// Key is an API key, without its value.
type Key struct {
	ID     string
	Tenant string
	Name   string
	// Hint is the start of the value, enough to recognise it by.
	Hint       string
	Scopes     []Scope
	CreatedAt  time.Time
	ExpiresAt  time.Time // zero: never
	LastUsedAt time.Time // zero: never used; exact to a minute
	RevokedAt  time.Time // zero: not revoked
}

// Usable tells whether the key works at a time.
func (k Key) Usable(now time.Time) bool {
	return k.RevokedAt.IsZero() && (k.ExpiresAt.IsZero() || now.Before(k.ExpiresAt))
}

// NewKey is a key with its value, which is shown only once.
type NewKey struct {
	Key
	Value string
}

// KeyPage is one page of keys.
type KeyPage struct {
	Keys  []Key
	Total int
	Page
	// NextCursor is the Cursor of the page after this one; empty at the end.
	NextCursor string
}

// MaxNameBytes bounds the names of keys and tenants.
const MaxNameBytes = 128

// Validate checks the request and fills in the default scope.
func (r *KeyRequest) Validate(now time.Time) error {
	if strings.TrimSpace(r.Name) == "" {
		return Invalid("name", "must not be empty.")
	}
	if len(r.Name) > MaxNameBytes {
		return Invalid("name", "must be at most %d bytes.", MaxNameBytes)
	}
	if len(r.Tenant) > MaxNameBytes {
		return Invalid("tenant", "must be at most %d bytes.", MaxNameBytes)
	}
	if len(r.Scopes) == 0 {
		r.Scopes = []Scope{ScopeSandbox}
	}
	for _, s := range r.Scopes {
		if !slices.Contains(Scopes, s) {
			return Invalid("scopes", "must be of sandbox, read, keys and admin, not %q.", s)
		}
	}
	if !r.ExpiresAt.IsZero() && !r.ExpiresAt.After(now) {
		return Invalid("expires_at", "must be in the future.")
	}
	return nil
}
