package storetest

import (
	"testing"

	"github.com/agentsandbox/agentsandbox"
)

// hostileNames are names that sandboxes can give to files; a name on Linux is
// bytes without NUL.
var hostileNames = []string{
	"a\nb\tc.txt", `"quoted' \back`, "..", "../../etc/passwd", "\xff\xfe not UTF-8", "\u202etxt.exe",
	"'; DROP TABLE files; --", "%s%n", "dir/below/ü.csv", "",
}

func fileRoundTrip(t *testing.T, s Store) {
	for n, name := range hostileNames {
		f := newFile(ours, at(n))
		f.Filename, f.Path, f.MediaType = name, agentsandbox.Workspace+"/"+name, "text/plain; charset=\"ü\""
		f.SizeBytes, f.SessionID = 1<<50, agentsandbox.NewID(agentsandbox.SessionPrefix)
		ok(t, s.InsertFile(t.Context(), f))
		wantSame(t, must[agentsandbox.File](t)(s.File(t.Context(), ours, f.ID)), f)
		wantCode(t, s.InsertFile(t.Context(), f), agentsandbox.CodeConflict)
	}
	for _, id := range []string{agentsandbox.NewID(agentsandbox.FilePrefix), "", "fil_'", "%", "\x00"} {
		_, err := s.File(t.Context(), ours, id)
		wantCode(t, err, agentsandbox.CodeFileNotFound)
		wantEqual(t, "has "+id, must[bool](t)(s.HasFile(t.Context(), id)), false)
	}
}

func fileDeleting(t *testing.T, s Store) {
	kept, gone := newFile(ours, at(0)), newFile(ours, at(1))
	ok(t, s.InsertFile(t.Context(), kept))
	ok(t, s.InsertFile(t.Context(), gone))

	wantCode(t, s.DeleteFile(t.Context(), theirs, gone.ID), agentsandbox.CodeFileNotFound)
	wantEqual(t, "has it after another tenant's try", must[bool](t)(s.HasFile(t.Context(), gone.ID)), true)
	ok(t, s.DeleteFile(t.Context(), ours, gone.ID))
	wantCode(t, s.DeleteFile(t.Context(), ours, gone.ID), agentsandbox.CodeFileNotFound)
	_, err := s.File(t.Context(), ours, gone.ID)
	wantCode(t, err, agentsandbox.CodeFileNotFound)
	wantEqual(t, "has it after deleting", must[bool](t)(s.HasFile(t.Context(), gone.ID)), false)

	page := agentsandbox.Page{Limit: 10}
	wantSame(t, must[agentsandbox.FilePage](t)(s.Files(t.Context(), ours, page)),
		agentsandbox.FilePage{Files: []agentsandbox.File{kept}, Total: 1, Page: page})
}

func fileOneDeleter(t *testing.T, s Store) {
	f := newFile(ours, at(0))
	ok(t, s.InsertFile(t.Context(), f))
	won := winners(t, func(int) (bool, error) {
		err := s.DeleteFile(t.Context(), ours, f.ID)
		if agentsandbox.CodeOf(err) == agentsandbox.CodeFileNotFound {
			return false, nil
		}
		return err == nil, err
	})
	wantEqual(t, "deleters that won", won, 1)
}

func fileTenants(t *testing.T, s Store) {
	f := newFile(ours, at(0))
	ok(t, s.InsertFile(t.Context(), f))
	for _, tenant := range []string{theirs, "", "TENANT-A", "%"} {
		_, err := s.File(t.Context(), tenant, f.ID)
		wantCode(t, err, agentsandbox.CodeFileNotFound)
		wantCode(t, s.DeleteFile(t.Context(), tenant, f.ID), agentsandbox.CodeFileNotFound)
		page := must[agentsandbox.FilePage](t)(s.Files(t.Context(), tenant, agentsandbox.Page{Limit: 10}))
		wantEqual(t, "files seen by "+tenant, page.Total+len(page.Files), 0)
	}
	wantEqual(t, "has it, of whatever tenant", must[bool](t)(s.HasFile(t.Context(), f.ID)), true)
}
