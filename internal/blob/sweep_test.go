package blob_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// age makes all files below a directory look as if an earlier process had
// written them.
func age(t *testing.T, dir string) {
	t.Helper()
	past := time.Now().Add(-time.Hour)
	for _, path := range files(t, dir) {
		if err := os.Chtimes(path, past, past); err != nil {
			t.Fatal(err)
		}
	}
}

func keepNone(string) (bool, error) { return false, nil }

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	earlier := open(t, dir)
	kept := map[string]bool{}
	const orphans = 600 // more than one page in all, and some in one directory
	for n := range orphans + 40 {
		id := newID()
		if n < orphans {
			id = "fil_aa" + id[len("fil_aa"):]
		} else {
			kept[id] = true
		}
		put(t, earlier, id, "x")
	}
	age(t, dir)
	// What a process leaves that dies in the middle of Put.
	if err := os.WriteFile(filepath.Join(dir, "temp", "EARLIER-RUN"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	// What is not ours stays, and stops nothing.
	strange := []string{
		filepath.Join(dir, "contents", "README"), filepath.Join(dir, "contents", "a", "note"),
		filepath.Join(dir, "contents", "a", "a", "fil_short"), filepath.Join(dir, "contents", "a", "a", newIDAt("bb")),
	}
	for _, path := range strange {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	age(t, dir)

	d := open(t, dir)
	fresh := newID()
	put(t, d, fresh, "its row is not written yet")
	asked := 0
	removed, err := d.Sweep(t.Context(), func(id string) (bool, error) { asked++; return kept[id], nil })
	if err != nil || removed != orphans+1 {
		t.Errorf("%d removed, want %d; %v", removed, orphans+1, err)
	}
	if asked != orphans+len(kept) {
		t.Errorf("asked for %d ids, want %d", asked, orphans+len(kept))
	}
	for id := range kept {
		if _, err := read(t, d, id, infoOf("x")); err != nil {
			t.Errorf("kept contents: %v", err)
		}
	}
	if _, err := read(t, d, fresh, infoOf("its row is not written yet")); err != nil {
		t.Errorf("contents of this process: %v", err)
	}
	wantFiles(t, dir, len(kept)+1+len(strange))
	if removed, err := d.Sweep(t.Context(), func(id string) (bool, error) { return kept[id], nil }); err != nil || removed != 0 {
		t.Errorf("a second sweep: %d removed, %v", removed, err)
	}
}

// newIDAt is an id that belongs in other directories than those of "aa".
func newIDAt(start string) string {
	id := newID()
	return "fil_" + start + id[len("fil_")+len(start):]
}

// TestSweepBesidePut sweeps while a body is being written.
func TestSweepBesidePut(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	id := newID()
	swept := readerFunc(func([]byte) (int, error) {
		removed, err := d.Sweep(t.Context(), keepNone)
		if err != nil || removed != 0 {
			t.Errorf("%d removed, %v", removed, err)
		}
		return 0, io.EOF
	})
	if _, err := d.Put(t.Context(), id, io.MultiReader(strings.NewReader("abc"), swept), 0); err != nil {
		t.Fatal(err)
	}
	if got, err := read(t, d, id, infoOf("abc")); err != nil || string(got) != "abc" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestSweepStops(t *testing.T) {
	dir := t.TempDir()
	earlier := open(t, dir)
	for range 10 {
		put(t, earlier, newID(), "x")
	}
	age(t, dir)
	d := open(t, dir)
	broken := errors.New("the store is closed")
	if removed, err := d.Sweep(t.Context(), func(string) (bool, error) { return false, broken }); !errors.Is(err, broken) || removed != 0 {
		t.Errorf("%d removed, %v", removed, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	removed, err := d.Sweep(ctx, func(string) (bool, error) { cancel(); return false, nil })
	if !errors.Is(err, context.Canceled) || removed != 1 {
		t.Errorf("cancelled in the first: %d removed, %v", removed, err)
	}
	wantFiles(t, dir, 9)
}
