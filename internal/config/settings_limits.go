package config

import "strconv"

// gentleLimitSettings are limits that a program meets as an error that it can
// deal with.
func gentleLimitSettings() []Setting {
	return []Setting{
		{Name: "max_disk_mb", Group: GroupLimits, Default: "4096", Example: "MB",
			Help: "Most room for files that a request may ask for, in MiB.",
			bind: func(c *Config) value { return number[int64]{&c.MaxDiskMB, 16, 16 << 20} }},
		{Name: "default_inodes", Group: GroupLimits, Default: "262144", Example: "N",
			Help: "Files, directories and links of a sandbox when a request asks for none; a run that makes more is ended.",
			bind: func(c *Config) value { return number[int64]{&c.DefaultInodes, 1024, 1 << 24} }},
		{Name: "max_inodes", Group: GroupLimits, Default: "1048576", Example: "N",
			Help: "Most files, directories and links that a request may ask for.",
			bind: func(c *Config) value { return number[int64]{&c.MaxInodes, 1024, 1 << 24} }},
		{Name: "default_processes", Group: GroupLimits, Default: "256", Example: "N",
			Help: "Processes and threads of the code in a sandbox when a request asks for none; more fail with EAGAIN.",
			bind: func(c *Config) value { return number[int64]{&c.DefaultProcesses, 16, 1 << 18} }},
		{Name: "max_processes", Group: GroupLimits, Default: "384", Example: "N",
			Help: "Most processes and threads that a request may ask for. Each is up to two tasks of max_tasks, of which the sandbox itself needs 256.",
			bind: func(c *Config) value { return number[int64]{&c.MaxProcesses, 16, 1 << 18} }},
		{Name: "default_open_files", Group: GroupLimits, Default: "16384", Example: "N",
			Help: "Open files of each process when a request asks for none; more fail with EMFILE.",
			bind: func(c *Config) value { return number[int64]{&c.DefaultOpenFiles, 32, 1 << 20} }},
		{Name: "max_open_files", Group: GroupLimits, Default: "16384", Example: "N",
			Help: "Most open files of each process that a request may ask for.",
			bind: func(c *Config) value { return number[int64]{&c.MaxOpenFiles, 32, 1 << 20} }},
		{Name: "default_cpu_time_ms", Group: GroupLimits, Default: "0", Example: "MS",
			Help: "CPU time of an execution, all its processes together, when a request asks for none, in milliseconds; 0: only the time limit bounds it.",
			bind: func(c *Config) value { return number[int64]{&c.DefaultCPUTimeMS, 0, 7 * dayMS} }},
	}
}

// runawaySettings bound what an execution may cost the server.
func runawaySettings() []Setting {
	return []Setting{
		{Name: "max_collect_ms", Group: GroupRequests, Default: "30000", Example: "MS",
			Help: "How long the files that one execution made or changed may take to be fetched, in milliseconds; the answer counts those left out.",
			bind: func(c *Config) value { return number[int64]{&c.MaxCollectMS, 1, dayMS} }},
		{Name: "max_stream_bytes", Group: GroupRequests, Default: strconv.Itoa(gib), Example: "BYTES",
			Help: "Bytes that an execution may write to one of stdout and stderr, kept or not; then it is ended, as output_limit.",
			bind: func(c *Config) value { return number[int64]{&c.MaxStreamBytes, 1024, tib} }},
	}
}
