// Package assets holds what every image of a sandbox needs from this program:
// the guest agent, built for the sandbox, and the launcher of its interpreters
// with what loads modules ahead.
//
// The agent is built before the program that embeds it:
//
//	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -buildid=" \
//	    -o internal/guest/assets/bin/agent ./cmd/agentsandbox-guest
//
// The same source and toolchain give the same bytes, so that an image built
// from them keeps its name. Without the agent the package still compiles, and
// [Files] says what is missing.
package assets

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/agentsandbox/agentsandbox/internal/guest"
)

//go:generate env CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -buildid=" -o bin/agent ../../../cmd/agentsandbox-guest

//go:embed bin
var binaries embed.FS

//go:embed launch/sitecustomize.py
var launcher []byte

//go:embed launch/preload.py
var preload []byte

//go:embed launch/lines.py
var lines []byte

//go:embed launch/wait.sh
var shellLauncher []byte

// File is one file for an image, owned by root.
type File struct {
	Path string // absolute
	Mode fs.FileMode
	Data []byte
}

// ErrNoAgent says that the guest agent is not part of this program.
var ErrNoAgent = errors.New("the guest agent was not built into this program: build it with make build")

// Files returns what goes into an image, in the order of the paths.
func Files() ([]File, error) {
	agent, err := binaries.ReadFile("bin/agent")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, ErrNoAgent
	case err != nil:
		return nil, fmt.Errorf("read the embedded guest agent: %w", err)
	case !bytes.HasPrefix(agent, []byte("\x7fELF")):
		return nil, fmt.Errorf("the embedded guest agent is not a program (%d bytes): remove internal/guest/assets/bin/agent and build again", len(agent))
	}
	return append([]File{
		{Path: guest.AgentPath, Mode: 0o755, Data: agent},
	}, Launchers()...), nil
}

// Launchers returns the files of it that let interpreters wait, for tests that run
// them without an image.
func Launchers() []File {
	return []File{
		{Path: guest.LinesPath, Mode: 0o644, Data: bytes.Clone(lines)},
		{Path: guest.PreloadPath, Mode: 0o644, Data: bytes.Clone(preload)},
		{Path: guest.LauncherPath, Mode: 0o644, Data: bytes.Clone(launcher)},
		{Path: guest.ShellLauncherPath, Mode: 0o644, Data: bytes.Clone(shellLauncher)},
	}
}
