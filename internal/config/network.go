package config

// GroupNetwork is what sandboxes may reach.
const GroupNetwork = "Network of sandboxes"

// Modes of EgressMode.
const (
	// EgressOff gives sandboxes no network device and no resolver.
	EgressOff = "off"
	// EgressPublic lets them reach every public address.
	EgressPublic = "public"
	// EgressAllowlist lets them reach what is named.
	EgressAllowlist = "allowlist"
)

func networkSettings() []Setting {
	return []Setting{
		{Name: "egress_mode", Group: GroupNetwork, Default: EgressPublic, Example: "MODE",
			Help: "What sandboxes may reach: nothing, without even a network device (off), public addresses (public), or what is allowed by name (allowlist).",
			bind: func(c *Config) value {
				return choice{&c.EgressMode, []string{EgressOff, EgressPublic, EgressAllowlist}}
			}},
	}
}
