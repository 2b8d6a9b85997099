package config

import (
	"fmt"
	"strings"
)

//go:generate go test -run ^TestReference$ -update .

// Reference returns the reference page of the configuration, in Markdown.
func Reference() string {
	var b strings.Builder
	b.WriteString(referenceIntro)
	group := ""
	for _, s := range Settings() {
		if s.Group != group {
			group = s.Group
			fmt.Fprintf(&b, "\n## %s\n\n| setting | default | values | what it does |\n|---|---|---|---|\n", group)
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", s.Name, s.defaultCell(), s.Values(), s.Help+s.envOnlyNote())
	}
	return b.String()
}

func (s Setting) defaultCell() string {
	switch {
	case s.Default != "":
		return "`" + s.Default + "`"
	case s.DefaultNote != "":
		return s.DefaultNote
	}
	return "none"
}

func (s Setting) envOnlyNote() string {
	if !s.EnvOnly {
		return ""
	}
	return " Only in the environment, as `" + s.Env() + "`."
}

const referenceIntro = `# Configuration

<!-- Generated from internal/config: run "make generate" after a change there. -->

Each setting can be given in three ways. The first that names it wins, and what nobody sets has its default:

1. a flag of ` + "`agentsandbox serve`" + `: ` + "`--pool-size=8`" + `
2. the environment: ` + "`AGENTSANDBOX_POOL_SIZE=8`" + ` (an empty variable counts as not set; one with the name of no setting is told of in the log)
3. a YAML file, named by ` + "`--config FILE`" + ` or ` + "`AGENTSANDBOX_CONFIG`" + `: ` + "`pool_size: 8`" + ` (an unknown name is an error)

` + "`agentsandbox serve --print-config`" + ` shows every value that would be used, and where it came from, in the form of such a file; secrets are not shown. Units stand last in a name: ` + "`_ms`" + ` milliseconds, ` + "`_mb`" + ` MiB, ` + "`_bytes`" + ` bytes.
`
