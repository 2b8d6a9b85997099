package store_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/eventlog"
)

// TestPagesOfRecordsEndEarly: a page whose records have long lists of files with
// long names does not hold them all, and the pages after it have the rest.
func TestPagesOfRecordsEndEarly(t *testing.T) {
	db := open(t, t.TempDir())
	long := strings.Repeat(strings.Repeat("d", 250)+"/", 15)
	var made []string
	for n := range 6 {
		e := agentsandbox.Execution{
			ID: agentsandbox.NewID(agentsandbox.ExecutionPrefix), Tenant: "t", SessionID: agentsandbox.NewID(agentsandbox.SessionPrefix),
			Language: agentsandbox.Python, Code: "1", Status: agentsandbox.StatusRunning, CreatedAt: time.Unix(int64(n+1), 0).UTC(),
		}
		if err := db.InsertExecution(t.Context(), e, "", nil); err != nil {
			t.Fatal(err)
		}
		e.Status, e.EndedAt = agentsandbox.StatusSucceeded, time.Unix(100, 0).UTC()
		for i := range 1000 {
			name := fmt.Sprintf("%s%d", long, i)
			e.Files = append(e.Files, agentsandbox.File{
				ID: agentsandbox.NewID(agentsandbox.FilePrefix), Tenant: "t", Filename: name, Path: agentsandbox.Workspace + "/" + name,
				MediaType: "text/plain", SHA256: strings.Repeat("0", 64), SessionID: e.SessionID, ExecutionID: e.ID, CreatedAt: e.CreatedAt,
			})
		}
		if _, err := db.FinishExecution(t.Context(), e, eventlog.Sealed{}); err != nil {
			t.Fatal(err)
		}
		made = append(made, e.ID)
	}
	slices.Reverse(made)
	var got []string
	pages := 0
	for page := (agentsandbox.Page{Limit: 100}); ; pages++ {
		p, err := db.Executions(t.Context(), "t", agentsandbox.ExecutionFilter{Page: page})
		if err != nil {
			t.Fatal(err)
		}
		bytes := 0
		for _, e := range p.Executions {
			got = append(got, e.ID)
			if len(e.Files) != 1000 {
				t.Fatalf("a record has %d of its files", len(e.Files))
			}
			for _, f := range e.Files {
				bytes += len(f.Filename) + len(f.Path)
			}
		}
		if bytes > 32<<20 || p.Total != len(made) {
			t.Fatalf("a page of %d bytes of names, of %d records", bytes, p.Total)
		}
		if page.Cursor = p.NextCursor; page.Cursor == "" {
			break
		}
	}
	if !slices.Equal(got, made) || pages == 0 {
		t.Errorf("%d more pages have %v, not %v", pages, got, made)
	}
}
