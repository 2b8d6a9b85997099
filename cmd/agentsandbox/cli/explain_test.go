package cli

import (
	"errors"
	"fmt"
	"slices"
	"testing"
)

type failedTool struct{}

func (failedTool) Error() string { return "install: exit status 1\nE: no\nTry again." }
func (failedTool) Lines() []string {
	return []string{"install: exit status 1", "  E: no", "Try again."}
}

func TestExplainShowsWhatAToolPrintedLineByLine(t *testing.T) {
	got := explain(errors.Join(fmt.Errorf("build x: %w", failedTool{}), errors.New("a\nb")))
	want := []string{"build x: install: exit status 1", "  E: no", "Try again.", "a\nb"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
