// Package keys is the API keys: who a key value stands for, when a key was last
// used, and when it stops being valid. It makes, lists and revokes keys, and tells
// those who hold something for a key that it was revoked.
//
// It knows neither requests nor what is done with a key. The value of a key is
// nowhere but in the answer that makes it: the store has its hash. A value that is
// not valid is an error of code unauthorized, whatever the reason; a time of last use
// that cannot be written is logged, and lost.
package keys

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/cursor"
)

// DefaultTenant owns the first key and what is made with it.
const DefaultTenant = "default"

// bootstrapName is the name of the first key.
const bootstrapName = "admin"

const hintLength = len(agentsandbox.SecretPrefix) + 4

// Store keeps keys by the SHA-256 of their values. A key that is not there is an
// *agentsandbox.Error of code key_not_found.
type Store interface {
	InsertKey(ctx context.Context, key agentsandbox.Key, hash [32]byte) error
	// KeyByHash finds a key, revoked and expired ones included.
	KeyByHash(ctx context.Context, hash [32]byte) (agentsandbox.Key, error)
	// Keys lists the keys of a tenant, or of all when tenant is empty.
	Keys(ctx context.Context, tenant string, page agentsandbox.Page) (agentsandbox.KeyPage, error)
	// RevokeKey is repeatable: the first time stays. Tenant may be empty: any.
	RevokeKey(ctx context.Context, tenant, id string, at time.Time) error
	// TouchKeys records when keys were last used.
	TouchKeys(ctx context.Context, used map[string]time.Time) error
}

// Audit takes rows about what the server does by itself.
type Audit interface {
	Append(ctx context.Context, entry agentsandbox.AuditEntry) error
}

// Options configure a Registry.
type Options struct {
	Store Store
	Audit Audit
	// Vault seals the cursors of lists; nil: there are none.
	Vault  cursor.Vault
	Logger *slog.Logger
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Registry has the keys of all tenants. Make one with New, and Close it at the end.
type Registry struct {
	store Store
	audit Audit
	vault cursor.Vault
	log   *slog.Logger
	clock func() time.Time

	known   knownKeys
	uses    uses
	ends    ends
	watches []func(ctx context.Context, id string) error
}

var _ agentsandbox.KeyService = (*Registry)(nil)

// New makes a registry.
func New(opts Options) *Registry {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	return &Registry{
		store: opts.Store, audit: opts.Audit, vault: opts.Vault, log: opts.Logger, clock: opts.Now,
		known: knownKeys{byHash: map[[32]byte]agentsandbox.Key{}}, uses: uses{at: map[string]time.Time{}}, ends: ends{at: map[string]time.Time{}},
	}
}

// OnRevoke has f called with the id of each key that is revoked, before RevokeKey
// returns: its error is that of RevokeKey. All calls of OnRevoke come before the first
// of RevokeKey.
func (r *Registry) OnRevoke(f func(ctx context.Context, id string) error) {
	r.watches = append(r.watches, f)
}

// now is the time that rows carry: UTC, to the microsecond that stores keep.
func (r *Registry) now() time.Time { return r.clock().UTC().Truncate(time.Microsecond) }

// Close writes the times of last use that are not written yet. It can be called
// again.
func (r *Registry) Close() error { return r.flushUses() }

// Authenticate finds who a key value stands for. A value that is unknown, revoked
// or expired is an error of code unauthorized, the same for all three.
func (r *Registry) Authenticate(ctx context.Context, value string) (agentsandbox.Principal, error) {
	// The store looks the value up by its hash: nothing is compared byte by byte
	// with a secret.
	now := r.now()
	key, err := r.known.find(sha256.Sum256([]byte(value)), now, func(hash [32]byte) (agentsandbox.Key, error) {
		return r.store.KeyByHash(ctx, hash)
	})
	switch {
	case agentsandbox.CodeOf(err) == agentsandbox.CodeKeyNotFound, err == nil && !key.Usable(now):
		return agentsandbox.Principal{}, agentsandbox.Errorf(agentsandbox.CodeUnauthorized,
			"The API key is not valid: it is unknown, revoked or expired.")
	case err != nil:
		return agentsandbox.Principal{}, err
	}
	r.ends.note(key)
	r.use(ctx, key, now)
	return agentsandbox.Principal{KeyID: key.ID, Tenant: key.Tenant, Scopes: key.Scopes}, nil
}

// Bootstrap makes sure that there is a key to begin with. With a value, that key
// exists afterwards; without one, a key is made if the store has none. It returns
// the value of the key that it made; "" if it made none.
func (r *Registry) Bootstrap(ctx context.Context, value string) (string, error) {
	if value == "" {
		all, err := r.store.Keys(ctx, "", agentsandbox.Page{Limit: 1})
		if err != nil || all.Total > 0 {
			return "", err
		}
		value = agentsandbox.NewSecret()
	}
	hash := sha256.Sum256([]byte(value))
	switch key, err := r.store.KeyByHash(ctx, hash); {
	case err == nil && !key.Usable(r.now()):
		return "", errors.New("the bootstrap key was revoked or has expired: set another value")
	case err == nil:
		return "", nil
	case agentsandbox.CodeOf(err) != agentsandbox.CodeKeyNotFound:
		return "", err
	}
	key := agentsandbox.Key{
		ID: agentsandbox.NewID(agentsandbox.KeyPrefix), Tenant: DefaultTenant, Name: bootstrapName, Hint: hint(value),
		Scopes: []agentsandbox.Scope{agentsandbox.ScopeAdmin}, CreatedAt: r.now(),
	}
	if err := r.store.InsertKey(ctx, key, hash); err != nil {
		return "", err
	}
	_ = r.audit.Append(ctx, agentsandbox.AuditEntry{ // logged there
		Tenant: DefaultTenant, Action: "bootstrapKey", ObjectID: key.ID, Outcome: agentsandbox.AuditOK,
	})
	return value, nil
}

// hint shows the start of a value that the service made; one that somebody chose
// may be short or guessable, so nothing of it is shown.
func hint(value string) string {
	if len(value) < 2*hintLength || value[:len(agentsandbox.SecretPrefix)] != agentsandbox.SecretPrefix {
		return ""
	}
	return value[:hintLength]
}

// manager returns who asks, if they may manage keys.
func manager(ctx context.Context) (agentsandbox.Principal, error) {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err == nil && !p.Has(agentsandbox.ScopeKeys) {
		err = agentsandbox.Errorf(agentsandbox.CodeForbidden, "This key may not manage keys: that needs the scope %q.", agentsandbox.ScopeKeys)
	}
	return p, err
}

// managedTenant is the tenant whose keys a principal manages; "" for all.
func managedTenant(p agentsandbox.Principal) string {
	if p.Has(agentsandbox.ScopeAdmin) {
		return ""
	}
	return p.Tenant
}

// CreateKey implements agentsandbox.KeyService.
func (r *Registry) CreateKey(ctx context.Context, req agentsandbox.KeyRequest) (*agentsandbox.NewKey, error) {
	p, err := manager(ctx)
	if err != nil {
		return nil, err
	}
	now := r.now()
	if err := req.Validate(now); err != nil {
		return nil, err
	}
	if req.Tenant == "" {
		req.Tenant = p.Tenant
	}
	if req.Tenant != p.Tenant && !p.Has(agentsandbox.ScopeAdmin) {
		return nil, agentsandbox.Errorf(agentsandbox.CodeForbidden, "A key for another tenant needs the scope %q.", agentsandbox.ScopeAdmin)
	}
	for _, s := range req.Scopes {
		if !p.Has(s) {
			return nil, agentsandbox.Errorf(agentsandbox.CodeForbidden, "This key cannot give the scope %q, which it does not have.", s)
		}
	}
	value := agentsandbox.NewSecret()
	key := agentsandbox.Key{
		ID: agentsandbox.NewID(agentsandbox.KeyPrefix), Tenant: req.Tenant, Name: req.Name, Hint: hint(value),
		Scopes: req.Scopes, CreatedAt: now, ExpiresAt: req.ExpiresAt,
	}
	if err := r.store.InsertKey(ctx, key, sha256.Sum256([]byte(value))); err != nil {
		return nil, err
	}
	return &agentsandbox.NewKey{Key: key, Value: value}, nil
}

// Keys implements agentsandbox.KeyService.
func (r *Registry) Keys(ctx context.Context, page agentsandbox.Page) (*agentsandbox.KeyPage, error) {
	p, err := manager(ctx)
	if err != nil {
		return nil, err
	}
	cursors, err := cursor.ForList(r.vault, "keys", managedTenant(p))
	if err != nil {
		return nil, err
	}
	opened, err := cursors.Open(page)
	if err != nil {
		return nil, err
	}
	list, err := r.store.Keys(ctx, managedTenant(p), opened)
	list.Page, list.NextCursor = page, cursors.Seal(list.NextCursor)
	return &list, err
}

// RevokeKey implements agentsandbox.KeyService.
func (r *Registry) RevokeKey(ctx context.Context, id string) error {
	p, err := manager(ctx)
	if err != nil {
		return err
	}
	now := r.now()
	err = r.store.RevokeKey(ctx, managedTenant(p), id, now)
	r.known.forget()
	if err != nil {
		return err
	}
	r.ends.note(agentsandbox.Key{ID: id, RevokedAt: now})
	var errs []error
	for _, watch := range r.watches {
		errs = append(errs, watch(ctx, id))
	}
	return errors.Join(errs...)
}
