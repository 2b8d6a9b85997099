package client

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/agentsandbox/agentsandbox"
)

// listing answers GET /v1/files with pages of names, newest first. grow is called
// before each answer, and may add to them.
func listing(t *testing.T, names []string, grow func(names []string) []string) *Client {
	return against(t, func(w http.ResponseWriter, r *http.Request) {
		names = grow(names)
		limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
		offset, _ := strconv.Atoi(r.URL.Query().Get("offset"))
		part := names[min(offset, len(names)):min(offset+limit, len(names))]
		files := []map[string]any{}
		for _, name := range part {
			files = append(files, map[string]any{"file_id": name, "filename": name})
		}
		err := json.NewEncoder(w).Encode(map[string]any{"files": files, "total": len(names), "limit": limit, "offset": offset})
		if err != nil {
			t.Error(err)
		}
	})
}

func numbered(n int) []string {
	var names []string
	for i := range n {
		names = append(names, fmt.Sprint(i))
	}
	return names
}

func TestAllGoesThroughEveryPageOnce(t *testing.T) {
	for _, n := range []int{0, 1, 99, 100, 101, 250} {
		c := listing(t, numbered(n), func(names []string) []string { return names })
		var got []string
		for f, err := range c.AllFiles(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, f.ID)
		}
		if !slices.Equal(got, numbered(n)) {
			t.Errorf("%d files: got %v", n, got)
		}
	}
}

func TestAllShowsNothingTwice(t *testing.T) {
	calls := 0
	c := listing(t, numbered(250), func(names []string) []string {
		calls++
		return append([]string{fmt.Sprintf("new %d", calls)}, names...) // and so the rest moves on
	})
	seen := map[string]bool{}
	for f, err := range c.AllFiles(t.Context()) {
		if err != nil || seen[f.ID] {
			t.Fatalf("%q again: %v; %v", f.ID, seen[f.ID], err)
		}
		seen[f.ID] = true
	}
	for _, name := range numbered(250) {
		if !seen[name] {
			t.Errorf("%s is missing", name)
		}
	}
}

func TestAllEndsWithTheError(t *testing.T) {
	c := against(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("offset") != "" {
			w.WriteHeader(http.StatusForbidden)
			answer(w, `{"error":{"code":"forbidden","message":"No."}}`)
			return
		}
		answer(w, `{"files":[{"file_id":"a"}],"total":2,"limit":1,"offset":0}`)
	})
	var ids []string
	var last error
	for f, err := range c.AllFiles(t.Context()) {
		ids, last = append(ids, f.ID), err
	}
	if !slices.Equal(ids, []string{"a", ""}) || !errors.Is(last, agentsandbox.CodeForbidden) {
		t.Errorf("got %q, then %v", ids, last)
	}
}

func TestADownloadIsWholeOrAnError(t *testing.T) {
	for name, test := range map[string]struct {
		tag, length string
		ok          bool
	}{
		"the right digest": {`"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"`, "4", true},
		"another digest":   {`"` + strings.Repeat("0", 64) + `"`, "4", false},
		"no digest":        {"", "4", true},
		"cut short":        {"", "5", false},
	} {
		c := against(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Etag", test.tag)
			w.Header().Set("Content-Length", test.length)
			answer(w, "test")
		})
		var out bytes.Buffer
		if _, err := c.DownloadFile(t.Context(), "fil_1", &out); (err == nil) != test.ok || out.String() != "test" {
			t.Errorf("%s: %q, %v", name, out.String(), err)
		}
	}
}
