package cli

import (
	"runtime"
	"runtime/debug"
)

type versionCommand struct {
	jsonFlag
}

// Help is the text between the summary and the flags.
func (c *versionCommand) Help() string {
	return `Example:

    agentsandbox version --json`
}

const gvisorModule = "gvisor.dev/gvisor"

// Run shows versions.
func (c *versionCommand) Run(a *app) error {
	v := struct {
		Version string `json:"version"`
		GVisor  string `json:"gvisor,omitempty"`
		Go      string `json:"go"`
		OS      string `json:"os"`
	}{Version: a.local.Version, Go: runtime.Version(), OS: runtime.GOOS + "/" + runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			if dep.Path == gvisorModule {
				v.GVisor = dep.Version
			}
		}
	}
	if c.JSON {
		return a.printJSON(v)
	}
	return a.printFields([][2]string{
		{"agentsandbox", v.Version}, {"gVisor", v.GVisor}, {"Go", v.Go}, {"system", v.OS},
	})
}
