package config

// GroupLifetimes is the group of the settings that say how long things are kept.
const GroupLifetimes = "How long things are kept"

const yearMS = 365 * dayMS

func lifetimeSettings() []Setting {
	return []Setting{
		{Name: "session_idle_ms", Group: GroupLifetimes, Default: "3600000", Example: "MS",
			Help: "A session expires when nothing uses it for so long, in milliseconds, unless it asks for another time.",
			bind: func(c *Config) value { return number[int64]{&c.SessionIdleMS, 100, yearMS} }},
		{Name: "max_session_idle_ms", Group: GroupLifetimes, Default: "86400000", Example: "MS",
			Help: "Longest idle time that a session may ask for, in milliseconds.",
			bind: func(c *Config) value { return number[int64]{&c.MaxSessionIdleMS, 100, yearMS} }},
		{Name: "session_lifetime_ms", Group: GroupLifetimes, Default: "86400000", Example: "MS",
			Help: "A session expires at this age in any case, in milliseconds, unless it asks for another.",
			bind: func(c *Config) value { return number[int64]{&c.SessionLifetimeMS, 100, yearMS} }},
		{Name: "max_session_lifetime_ms", Group: GroupLifetimes, Default: "604800000", Example: "MS",
			Help: "Greatest age that a session may ask for, in milliseconds.",
			bind: func(c *Config) value { return number[int64]{&c.MaxSessionLifetimeMS, 100, yearMS} }},
		{Name: "orphan_timeout_ms", Group: GroupLifetimes, Default: "86400000", Example: "MS",
			Help: "A sandbox that no server has talked to for so long ends itself, in milliseconds: its server is gone for good. 0 keeps it for ever.",
			bind: func(c *Config) value { return number[int64]{&c.OrphanTimeoutMS, 0, yearMS} }},
		{Name: "file_retention_ms", Group: GroupLifetimes, Default: "604800000", Example: "MS",
			Help: "Uploaded and produced files are removed at this age, in milliseconds. 0 keeps them for ever.",
			bind: func(c *Config) value { return number[int64]{&c.FileRetentionMS, 0, 100 * yearMS} }},
		{Name: "record_retention_ms", Group: GroupLifetimes, Default: "2592000000", Example: "MS",
			Help: "Records of executions, and of sessions that have ended, are removed so long after the end, in milliseconds. 0 keeps them for ever.",
			bind: func(c *Config) value { return number[int64]{&c.RecordRetentionMS, 0, 100 * yearMS} }},
	}
}
