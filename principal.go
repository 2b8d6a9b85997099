package agentsandbox

import (
	"context"
	"slices"
)

// Scope is a right that a key carries.
type Scope string

const (
	// ScopeSandbox allows everything about executions, sessions and files.
	ScopeSandbox Scope = "sandbox"
	// ScopeRead allows only to look at executions, sessions and files.
	ScopeRead Scope = "read"
	// ScopeKeys allows to manage the keys of one's own tenant.
	ScopeKeys Scope = "keys"
	// ScopeAdmin allows everything, and to manage every tenant's keys.
	ScopeAdmin Scope = "admin"
)

// Scopes lists every scope.
var Scopes = []Scope{ScopeSandbox, ScopeRead, ScopeKeys, ScopeAdmin}

// Principal is who asks: the key that a request carried.
type Principal struct {
	KeyID  string
	Tenant string
	Scopes []Scope
}

// Has tells whether the principal may do what a scope allows.
func (p Principal) Has(s Scope) bool {
	if slices.Contains(p.Scopes, ScopeAdmin) || slices.Contains(p.Scopes, s) {
		return true
	}
	return s == ScopeRead && slices.Contains(p.Scopes, ScopeSandbox)
}

type principalKey struct{}

// WithPrincipal returns a context that acts for p.
func WithPrincipal(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// PrincipalFrom returns who a context acts for. Without one it is an error of
// code unauthorized.
func PrincipalFrom(ctx context.Context) (Principal, error) {
	p, ok := ctx.Value(principalKey{}).(Principal)
	if !ok {
		return Principal{}, Errorf(CodeUnauthorized, "An API key is needed: send it as Authorization: Bearer KEY.")
	}
	return p, nil
}
