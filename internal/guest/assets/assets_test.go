package assets

import (
	"bytes"
	"errors"
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
	if len(files) != 3 || files[2].Path != guest.PreloadPath || files[2].Mode != 0o644 || files[0].Path != guest.AgentPath || files[0].Mode != 0o755 || files[1].Path != guest.LauncherPath || files[1].Mode != 0o644 {
		t.Fatalf("got %+v", files)
	}
	if !bytes.HasPrefix(files[0].Data, []byte("\x7fELF")) || !bytes.Contains(files[1].Data, []byte("def _wait():")) {
		t.Error("the files are not what they should be")
	}
	if !bytes.Equal(files[1].Data, Launcher()) || !bytes.Equal(files[2].Data, Preload()) {
		t.Error("there are two launchers")
	}
}
