package config

import (
	"slices"
	"testing"
)

func TestStrangeVariables(t *testing.T) {
	environ := []string{
		"AGENTSANDBOX_POOL_SIZ=3", "AGENTSANDBOX_EGRESS_MOD=off", "AGENTSANDBOX_pool_size=3", // misspelled
		"AGENTSANDBOX_CONFIG=x", "AGENTSANDBOX_BASE_URL=x", "AGENTSANDBOX_API_KEY=x", // not settings, and known
		"AGENTSANDBOX_PORT=tcp://10.0.0.1:80", "AGENTSANDBOX_PORT_80_TCP=x", "AGENTSANDBOX_SERVICE_HOST=x", // of an orchestrator
		"AGENTSANDBOX_UNSET=", "PATH=/bin", "POOL_SIZE=3",
	}
	for _, s := range Settings() {
		environ = append(environ, s.Env()+"=x")
	}
	want := []string{"AGENTSANDBOX_EGRESS_MOD", "AGENTSANDBOX_POOL_SIZ", "AGENTSANDBOX_pool_size"}
	if got := StrangeVariables(environ); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
