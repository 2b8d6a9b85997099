package config

import (
	"slices"
	"strings"
)

// StrangeVariables are the names in an environment, as [os.Environ] has it, that
// look like settings and are none: misspelled ones, as a rule. They are no error,
// because a Kubernetes service or a linked container named agentsandbox makes
// such variables, too; those are left out.
func StrangeVariables(environ []string) []string {
	known := map[string]bool{FileEnv: true, EnvPrefix + "BASE_URL": true, EnvPrefix + "API_KEY": true}
	for _, s := range Settings() {
		known[s.Env()] = true
	}
	var strange []string
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		rest, ours := strings.CutPrefix(name, EnvPrefix)
		if !ours || value == "" || known[name] || rest == "PORT" || strings.HasPrefix(rest, "PORT_") || strings.HasPrefix(rest, "SERVICE_") {
			continue
		}
		strange = append(strange, name)
	}
	slices.Sort(strange)
	return strange
}
