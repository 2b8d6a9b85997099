package assets

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/agentsandbox/agentsandbox/internal/guest"
)

func TestFiles(t *testing.T) {
	files, err := Files()
	if errors.Is(err, ErrNoAgent) {
		// The tests may run before the agent was built; that has to be said, and
		// nothing else may be handed out.
		if files != nil {
			t.Errorf("there is no agent, and yet %d files", len(files))
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	paths := make([]string, 0, len(files))
	for _, f := range files {
		paths = append(paths, f.Path)
		if want := []byte(map[string]string{guest.AgentPath: "\x7fELF", guest.LauncherPath: "def _wait():", guest.LinesPath: "line_buffering=True", guest.PreloadPath: "def preload(", guest.ShellLauncherPath: "read -r -u 3"}[f.Path]); !bytes.Contains(f.Data, want) {
			t.Errorf("%s does not contain %q", f.Path, want)
		}
	}
	if !slices.IsSorted(paths) || len(paths) != 5 || files[0].Path != guest.AgentPath || files[0].Mode != 0o755 || files[1].Mode != 0o644 {
		t.Errorf("got %v", paths)
	}
}
