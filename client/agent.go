package client

import (
	"runtime"
	"runtime/debug"
	"sync"
)

const module = "github.com/agentsandbox/agentsandbox"

// defaultUserAgent names this package, its version if the program was built with
// one, and that of Go.
var defaultUserAgent = sync.OnceValue(func() string {
	version := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range append(info.Deps, &info.Main) {
			if m.Path == module && m.Version != "" {
				version = m.Version
			}
		}
	}
	return "agentsandbox-go/" + version + " " + runtime.Version()
})
