package cursor_test

import (
	"testing"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/cursor"
	"github.com/agentsandbox/agentsandbox/internal/vault"
)

func list(t *testing.T, v cursor.Vault, name, tenant string, filter ...any) cursor.List {
	t.Helper()
	l, err := cursor.ForList(v, name, tenant, filter...)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestACursorOpensForItsOwnListOnly: another list, tenant, filter or vault refuses it.
func TestACursorOpensForItsOwnListOnly(t *testing.T) {
	v, err := vault.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	other, err := vault.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	page := agentsandbox.Page{Limit: 1, Cursor: list(t, v, "files", "a", "x").Seal("17.4")}
	opened, err := list(t, v, "files", "a", "x").Open(page)
	if err != nil || opened.Cursor != "17.4" || opened.Limit != 1 {
		t.Errorf("%+v, %v", opened, err)
	}
	for name, l := range map[string]cursor.List{
		"another list": list(t, v, "keys", "a", "x"), "another tenant": list(t, v, "files", "b", "x"), "another filter": list(t, v, "files", "a", "y"),
		"no filter": list(t, v, "files", "a"), "another vault": list(t, other, "files", "a", "x"), "no vault": list(t, nil, "files", "a", "x"),
	} {
		if _, err := l.Open(page); agentsandbox.CodeOf(err) != agentsandbox.CodeInvalidRequest {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheLastPageHasNoCursor(t *testing.T) {
	v, err := vault.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if next := list(t, v, "files", "a").Seal(""); next != "" {
		t.Errorf("a cursor after the end: %q", next)
	}
	if next := list(t, nil, "files", "a").Seal("17.4"); next != "" {
		t.Errorf("a cursor without a vault: %q", next)
	}
}
