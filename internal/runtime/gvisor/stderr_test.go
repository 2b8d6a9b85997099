package gvisor

import (
	"errors"
	"testing"
)

func TestFirstWords(t *testing.T) {
	failed := errors.New("EOF")
	for said, want := range map[string]string{
		"": "EOF",
		"creating loader: no\n\ngoroutine 1 [running]:\n": `EOF: it said "creating loader: no"`,
		"\x1b[2J\xff": `EOF: it said "\x1b[2J\xff"`,
	} {
		f, err := newStderr()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(said); err != nil {
			t.Fatal(err)
		}
		if got := firstWords(failed, f); got.Error() != want || !errors.Is(got, failed) {
			t.Errorf("%q: %v", said, got)
		}
		if _, err := f.WriteAt([]byte{'x'}, stderrBytes); err == nil {
			t.Error("the file grows")
		}
		f.Close()
	}
}
