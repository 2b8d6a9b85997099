package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

type keysCommand struct {
	List   keysList   `cmd:"" help:"List keys, newest first, without their values."`
	Create keysCreate `cmd:"" help:"Make a key."`
	Revoke keysRevoke `cmd:"" help:"Stop keys from working, at once."`
}

// Help is the text between the summary and the flags.
func (c *keysCommand) Help() string {
	return `Whoever has a key can use the server as the key's owner. The key that is used for these verbs needs the scope keys, or admin for the keys of other owners.

Examples:

    agentsandbox keys create my-agent
    agentsandbox keys list
    agentsandbox keys revoke key_…`
}

type keysList struct {
	pageFlags
	jsonFlag
	connection
}

// Help is the text between the summary and the flags.
func (c *keysList) Help() string {
	return `Example:

    agentsandbox keys list --json`
}

// Run lists keys.
func (c *keysList) Run(a *app) error {
	page, err := c.page()
	if err != nil {
		return err
	}
	service, err := c.service(a)
	if err != nil {
		return err
	}
	list, err := service.Keys(a.ctx, page)
	if err != nil {
		return err
	}
	if c.JSON {
		views := make([]keyView, len(list.Keys))
		for i, k := range list.Keys {
			views[i] = viewOfKey(k)
		}
		return a.printJSON(struct {
			Keys []keyView `json:"keys"`
			pageView
		}{views, viewOfPage(list.Total, page, list.NextCursor)})
	}
	now := a.Now()
	rows := make([][]string, len(list.Keys))
	for i, k := range list.Keys {
		rows[i] = []string{k.ID, k.Name, k.Tenant, k.Hint + "…", scopesText(k.Scopes), keyState(k, now), timeText(k.CreatedAt), timeText(k.LastUsedAt)}
	}
	if err := a.printTable([]string{"ID", "NAME", "TENANT", "KEY", "SCOPES", "STATE", "CREATED", "LAST USED"}, rows); err != nil {
		return err
	}
	a.noteMore(len(rows), list.Total, list.NextCursor)
	return nil
}

func scopesText(scopes []agentsandbox.Scope) string {
	words := make([]string, len(scopes))
	for i, s := range scopes {
		words[i] = string(s)
	}
	return strings.Join(words, ",")
}

func keyState(k agentsandbox.Key, now time.Time) string {
	switch {
	case !k.RevokedAt.IsZero():
		return "revoked"
	case !k.Usable(now):
		return "expired"
	case !k.ExpiresAt.IsZero():
		return "until " + timeText(k.ExpiresAt)
	}
	return "usable"
}

type keysCreate struct {
	Name      string        `arg:"" help:"What the key is for."`
	Tenant    string        `placeholder:"NAME" help:"Owner of what the key makes; yours otherwise. Another one needs the scope admin."`
	Scope     []string      `placeholder:"SCOPE" help:"sandbox (default), read, keys or admin. Can be repeated."`
	ExpiresIn time.Duration `placeholder:"DURATION" help:"Stop the key after this long, such as 720h; never otherwise."`
	jsonFlag
	connection
}

// Help is the text between the summary and the flags.
func (c *keysCreate) Help() string {
	return `Prints the value of the key, which nobody can see again: the server keeps only a hash of it.

Examples:

    export AGENTSANDBOX_API_KEY=$(agentsandbox keys create my-agent)
    agentsandbox keys create dashboard --scope read --expires-in 720h --json`
}

// Run makes a key.
func (c *keysCreate) Run(a *app) error {
	req := agentsandbox.KeyRequest{Name: c.Name, Tenant: c.Tenant}
	for _, s := range c.Scope {
		req.Scopes = append(req.Scopes, agentsandbox.Scope(s))
	}
	if c.ExpiresIn < 0 {
		return fmt.Errorf("--expires-in %s: must not be negative", c.ExpiresIn)
	}
	if c.ExpiresIn > 0 {
		req.ExpiresAt = a.Now().Add(c.ExpiresIn)
	}
	service, err := c.service(a)
	if err != nil {
		return err
	}
	key, err := service.CreateKey(a.ctx, req)
	if err != nil {
		return err
	}
	if c.JSON {
		view := viewOfKey(key.Key)
		view.Value = key.Value
		return a.printJSON(view)
	}
	a.note("%s (%s) of %s. The value below is shown this once.", key.Name, key.ID, key.Tenant)
	return a.print(neutral(key.Value) + "\n")
}

type keysRevoke struct {
	IDs []string `arg:"" name:"id" sep:"none" help:"The keys, by id."`
	connection
}

// Help is the text between the summary and the flags.
func (c *keysRevoke) Help() string {
	return `Example:

    agentsandbox keys revoke key_…`
}

// Run revokes keys.
func (c *keysRevoke) Run(a *app) error {
	service, err := c.service(a)
	if err != nil {
		return err
	}
	return eachOf(c.IDs, func(id string) error { return service.RevokeKey(a.ctx, id) })
}
