package engine

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/cursor"
)

// DefaultTenant owns the first key and what is made with it.
const DefaultTenant = "default"

// bootstrapName is the name of the first key.
const bootstrapName = "admin"

const hintLength = len(agentsandbox.SecretPrefix) + 4

// touchEvery is how exact a key's time of last use is: it is written at most this
// often.
const touchEvery = time.Minute

// touches are times of last use that are not in the store yet.
type touches struct {
	mu      sync.Mutex
	at      map[string]time.Time
	flushed time.Time
}

// Authenticate finds who a key value stands for. A value that is unknown, revoked
// or expired is an error of code unauthorized, the same for all three.
func (e *Engine) Authenticate(ctx context.Context, value string) (agentsandbox.Principal, error) {
	// The store looks the value up by its hash: nothing is compared byte by byte
	// with a secret.
	now := e.now()
	key, err := e.known.find(sha256.Sum256([]byte(value)), now, func(hash [32]byte) (agentsandbox.Key, error) {
		return e.store.KeyByHash(ctx, hash)
	})
	switch {
	case agentsandbox.CodeOf(err) == agentsandbox.CodeKeyNotFound, err == nil && !key.Usable(now):
		return agentsandbox.Principal{}, agentsandbox.Errorf(agentsandbox.CodeUnauthorized, "The API key is not valid: it is unknown, revoked or expired.")
	case err != nil:
		return agentsandbox.Principal{}, err
	}
	e.noteKeyEnd(key)
	e.touch(ctx, key, now)
	return agentsandbox.Principal{KeyID: key.ID, Tenant: key.Tenant, Scopes: key.Scopes}, nil
}

func (e *Engine) touch(ctx context.Context, key agentsandbox.Key, now time.Time) {
	if now.Sub(key.LastUsedAt) < touchEvery {
		return
	}
	t := &e.touched
	t.mu.Lock()
	t.at[key.ID] = now
	due := now.Sub(t.flushed) >= touchEvery
	if due {
		t.flushed = now
	}
	t.mu.Unlock()
	if due {
		if err := e.flushTouches(); err != nil {
			e.log.WarnContext(ctx, "the last use of keys could not be written", "error", err)
		}
	}
}

func (e *Engine) flushTouches() error {
	t := &e.touched
	t.mu.Lock()
	used := t.at
	t.at = map[string]time.Time{}
	t.mu.Unlock()
	if len(used) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), recordTimeout)
	defer cancel()
	return e.store.TouchKeys(ctx, used)
}

// Bootstrap makes sure that there is a key to begin with. With a value, that key
// exists afterwards; without one, a key is made if the store has none. It returns
// the value of the key that it made; "" if it made none.
func (e *Engine) Bootstrap(ctx context.Context, value string) (string, error) {
	if value == "" {
		all, err := e.store.Keys(ctx, "", agentsandbox.Page{Limit: 1})
		if err != nil || all.Total > 0 {
			return "", err
		}
		value = agentsandbox.NewSecret()
	}
	hash := sha256.Sum256([]byte(value))
	switch key, err := e.store.KeyByHash(ctx, hash); {
	case err == nil && !key.Usable(e.now()):
		return "", errors.New("the bootstrap key was revoked or has expired: set another value")
	case err == nil:
		return "", nil
	case agentsandbox.CodeOf(err) != agentsandbox.CodeKeyNotFound:
		return "", err
	}
	key := agentsandbox.Key{
		ID: agentsandbox.NewID(agentsandbox.KeyPrefix), Tenant: DefaultTenant, Name: bootstrapName, Hint: hint(value),
		Scopes: []agentsandbox.Scope{agentsandbox.ScopeAdmin}, CreatedAt: e.now(),
	}
	if err := e.store.InsertKey(ctx, key, hash); err != nil {
		return "", err
	}
	_ = e.audit.Append(ctx, agentsandbox.AuditEntry{Tenant: DefaultTenant, Action: "bootstrapKey", ObjectID: key.ID, Outcome: agentsandbox.AuditOK})
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

// keyManager returns who asks if they may manage keys.
func keyManager(ctx context.Context) (agentsandbox.Principal, error) {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err == nil && !p.Has(agentsandbox.ScopeKeys) {
		err = agentsandbox.Errorf(agentsandbox.CodeForbidden, "This key may not manage keys: that needs the scope %q.", agentsandbox.ScopeKeys)
	}
	return p, err
}

// keyTenant is the tenant whose keys a principal manages; "" for all.
func keyTenant(p agentsandbox.Principal) string {
	if p.Has(agentsandbox.ScopeAdmin) {
		return ""
	}
	return p.Tenant
}

// CreateKey implements agentsandbox.Service.
func (e *Engine) CreateKey(ctx context.Context, req agentsandbox.KeyRequest) (*agentsandbox.NewKey, error) {
	p, err := keyManager(ctx)
	if err != nil {
		return nil, err
	}
	now := e.now()
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
	if err := e.store.InsertKey(ctx, key, sha256.Sum256([]byte(value))); err != nil {
		return nil, err
	}
	return &agentsandbox.NewKey{Key: key, Value: value}, nil
}

// Keys implements agentsandbox.Service.
func (e *Engine) Keys(ctx context.Context, page agentsandbox.Page) (*agentsandbox.KeyPage, error) {
	p, err := keyManager(ctx)
	if err != nil {
		return nil, err
	}
	cursors, err := cursor.ForList(e.vault, "keys", keyTenant(p))
	if err != nil {
		return nil, err
	}
	opened, err := cursors.Open(page)
	if err != nil {
		return nil, err
	}
	list, err := e.store.Keys(ctx, keyTenant(p), opened)
	list.Page, list.NextCursor = page, cursors.Seal(list.NextCursor)
	return &list, err
}

// RevokeKey implements agentsandbox.Service.
func (e *Engine) RevokeKey(ctx context.Context, id string) error {
	p, err := keyManager(ctx)
	if err != nil {
		return err
	}
	err = e.store.RevokeKey(ctx, keyTenant(p), id, e.now())
	e.known.forget()
	if err != nil {
		return err
	}
	return e.cutKey(ctx, id)
}

// noteKeyEnd remembers when a key stops being valid, if that is known.
func (e *Engine) noteKeyEnd(key agentsandbox.Key) {
	end := key.ExpiresAt
	if !key.RevokedAt.IsZero() {
		end = key.RevokedAt
	}
	if end.IsZero() {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	// Whoever read the key before it was revoked must not undo that.
	if known, ok := e.keyEnds[key.ID]; !ok || end.Before(known) {
		e.keyEnds[key.ID] = end
	}
}

// keyEnded tells whether a key is known to be valid no more; the engine's lock is
// held.
func (e *Engine) keyEnded(id string) bool {
	end, known := e.keyEnds[id]
	return known && !e.now().Before(end)
}

// cutKey takes from a key that was revoked what it still has: connections to ports,
// and URLs that it made.
func (e *Engine) cutKey(ctx context.Context, id string) error {
	var made []*session
	e.noteKeyEnd(agentsandbox.Key{ID: id, RevokedAt: e.now()})
	e.mu.Lock()
	for _, s := range e.sessions {
		if slices.ContainsFunc(s.info.Ports, func(p agentsandbox.OpenPort) bool { return p.KeyID == id }) {
			made = append(made, s)
		}
	}
	e.mu.Unlock()
	e.endConns(errKeyRevoked, func(c *portConn) bool { return c.use.key == id })
	var errs []error
	for _, s := range made {
		// Those of the key are not among the valid ones any more.
		err := e.replacePorts(ctx, s, func(_ *session, open []agentsandbox.OpenPort) ([]agentsandbox.OpenPort, error) { return open, nil })
		if agentsandbox.CodeOf(err) != agentsandbox.CodeSessionNotFound { // it ended meanwhile
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// loadKeyEnds learns when keys end: an earlier process may not have got to the URLs
// of one that it revoked.
func (e *Engine) loadKeyEnds(ctx context.Context) error {
	for page := (agentsandbox.Page{Limit: agentsandbox.MaxPageLimit}); ; page.Offset += page.Limit {
		list, err := e.store.Keys(ctx, "", page)
		if err != nil {
			return err
		}
		for _, k := range list.Keys {
			e.noteKeyEnd(k)
		}
		if len(list.Keys) < page.Limit {
			return nil
		}
	}
}
