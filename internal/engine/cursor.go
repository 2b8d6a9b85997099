package engine

import (
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/agentsandbox/agentsandbox"
)

// cursors seals where the pages of one list end. The label ties a cursor to the
// list, the tenant and the filter: the cursor of another one cannot be opened.
// What is sealed is the store's, and shows nobody how many rows others have.
type cursors struct {
	vault Vault
	label string
}

// cursorsOf makes the cursors of a list. Without a vault none is offered, and
// none is taken.
func (e *Engine) cursorsOf(list, tenant string, filter ...any) (cursors, error) {
	scope, err := json.Marshal(append([]any{list, tenant}, filter...))
	if err != nil {
		return cursors{}, fmt.Errorf("the cursor of a list of %s: %w", list, err)
	}
	return cursors{e.vault, "cursor of " + string(scope)}, nil
}

// open checks a page, and turns the cursor of a client into that of the store.
func (c cursors) open(page agentsandbox.Page) (agentsandbox.Page, error) {
	if err := page.Validate(); err != nil || page.Cursor == "" {
		return page, err
	}
	refused := agentsandbox.Invalid("cursor", "must be a next_cursor that this list gave to the same tenant, with the same filter. Begin again without a cursor.")
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(page.Cursor)
	if err != nil || c.vault == nil {
		return page, refused
	}
	plain, err := c.vault.Unseal(sealed, c.label)
	if err != nil {
		return page, refused
	}
	page.Cursor = string(plain)
	return page, nil
}

// seal turns the cursor of the store into one for a client.
func (c cursors) seal(next string) string {
	if next == "" || c.vault == nil {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(c.vault.Seal([]byte(next), c.label))
}
