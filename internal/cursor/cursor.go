// Package cursor makes the cursors that clients get at the end of a page. A cursor
// is the store's own, sealed: it shows nobody how many rows others have, and opens
// for one list, tenant and filter only.
//
// The package knows neither what is listed nor where. A cursor that cannot be
// opened is an *agentsandbox.Error of code invalid_request.
package cursor

import (
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/agentsandbox/agentsandbox"
)

// Vault seals bytes. What was sealed under another label, or elsewhere, is an error.
type Vault interface {
	Seal(plain []byte, label string) []byte
	Unseal(sealed []byte, label string) ([]byte, error)
}

// List seals where the pages of one list end.
type List struct {
	vault Vault
	label string
}

// ForList makes the cursors of a list, of one tenant and filter. Without a vault
// none is offered, and none is taken.
func ForList(vault Vault, list, tenant string, filter ...any) (List, error) {
	scope, err := json.Marshal(append([]any{list, tenant}, filter...))
	if err != nil {
		return List{}, fmt.Errorf("the cursor of a list of %s: %w", list, err)
	}
	return List{vault, "cursor of " + string(scope)}, nil
}

// Open checks a page, and turns the cursor of a client into that of the store.
func (l List) Open(page agentsandbox.Page) (agentsandbox.Page, error) {
	if err := page.Validate(); err != nil || page.Cursor == "" {
		return page, err
	}
	refused := agentsandbox.Invalid("cursor", "must be a next_cursor that this list gave to the same tenant, "+
		"with the same filter. Begin again without a cursor.")
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(page.Cursor)
	if err != nil || l.vault == nil {
		return page, refused
	}
	plain, err := l.vault.Unseal(sealed, l.label)
	if err != nil {
		return page, refused
	}
	page.Cursor = string(plain)
	return page, nil
}

// Seal turns the cursor of the store into one for a client.
func (l List) Seal(next string) string {
	if next == "" || l.vault == nil {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(l.vault.Seal([]byte(next), l.label))
}
