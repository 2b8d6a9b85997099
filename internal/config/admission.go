package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

func admissionSettings() []Setting {
	return []Setting{
		{Name: "host_memory_mb", Group: GroupAdmission, Example: "MB", DefaultNote: "three quarters of the machine's memory, or of the memory limit that the server itself runs under",
			Help: "Memory for all sandboxes together, in MiB. What they reserve never exceeds it, and a control group over them keeps what they use within a tenth more (256 MiB at least).",
			bind: func(c *Config) value { return number[int64]{&c.HostMemoryMB, 64, maxMemoryMB} }},
		{Name: "reserve_percent", Group: GroupAdmission, Default: "10", Example: "N",
			Help: "Part of its memory limit that a sandbox reserves, in percent. 100 promises every sandbox all of its limit.",
			bind: func(c *Config) value { return number[int]{&c.ReservePercent, 0, 100} }},
		{Name: "reserve_min_mb", Group: GroupAdmission, Default: "32", Example: "MB",
			Help: "Least that a sandbox reserves, in MiB: about what an idle one takes. With the data libraries loaded it is at least 128.",
			bind: func(c *Config) value { return number[int64]{&c.ReserveMinMB, 1, maxMemoryMB} }},
		{Name: "pool_memory_percent", Group: GroupAdmission, Default: "20", Example: "N",
			Help: "Part of host_memory_mb that warm sandboxes beyond pool_size and pool_data_size may reserve, kept of what is asked for lately, in percent. 0, or a pool_size of 0, keeps none.",
			bind: func(c *Config) value { return number[int]{&c.PoolMemoryPercent, 0, 100} }},
		{Name: "max_queue", Group: GroupAdmission, Default: "1000", Example: "N",
			Help: "Requests that wait for a sandbox at once; one more gets 503 with Retry-After, from the tenant with most of them waiting, and of its keys the one with most.",
			bind: func(c *Config) value { return number[int]{&c.MaxQueue, 1, 1_000_000} }},
		{Name: "queue_timeout_ms", Group: GroupAdmission, Default: "60000", Example: "MS",
			Help: "How long a request waits for a sandbox before it gets 503 with Retry-After, in milliseconds.",
			bind: func(c *Config) value { return number[int64]{&c.QueueTimeoutMS, 1, dayMS} }},
		{Name: "rate_per_second", Group: GroupAdmission, Default: "500", Example: "N",
			Help: "Requests that one key may send each second in the long run; more get 429 with Retry-After. 0: no limit.",
			bind: func(c *Config) value { return number[int]{&c.RatePerSecond, 0, 1_000_000} }},
		{Name: "rate_burst", Group: GroupAdmission, Default: "1000", Example: "N",
			Help: "Requests that one key may send at once, after it has been quiet.",
			bind: func(c *Config) value { return number[int]{&c.RateBurst, 1, 1_000_000} }},
		{Name: "max_requests_per_key", Group: GroupAdmission, Default: "1024", Example: "N",
			Help: "Requests that one key may have under way, executions included; more get 429 with Retry-After. Never more than half of the connections. 0: no other limit.",
			bind: func(c *Config) value { return number[int]{&c.MaxRequestsPerKey, 0, 1_000_000} }},
		{Name: "max_connections", Group: GroupAdmission, Default: "0", Example: "N",
			Help: "Connections of clients at once. When there are more, the one that has been idle longest is closed, and one is refused when none is idle. An address other than loopback may have a quarter of them idle. 0: a quarter of the open files that the server may have.",
			bind: func(c *Config) value { return number[int]{&c.MaxConnections, 0, 1_000_000} }},
		{Name: "request_memory_mb", Group: GroupAdmission, Default: "512", Example: "MIB",
			Help: "Memory that bodies which arrive, records which are read and answers which nobody takes yet may hold in all; a tenant may have half of it and a key a quarter; more get 503 with Retry-After.",
			bind: func(c *Config) value { return number[int64]{&c.RequestMemoryMB, 16, 1 << 20} }},
		{Name: "max_executions_per_key", Group: GroupAdmission, Default: "256", Example: "N",
			Help: "Executions that one key may have under way, waiting ones included; more get 429 with Retry-After. 0: no limit.",
			bind: func(c *Config) value { return number[int]{&c.MaxExecutionsPerKey, 0, 1_000_000} }},
		{Name: "tenant_max_sessions", Group: GroupAdmission, Default: "1000", Example: "N",
			Help: "Live sessions of one tenant; one more gets 429. 0: no limit.",
			bind: func(c *Config) value { return number[int64]{&c.TenantMaxSessions, 0, tib} }},
		{Name: "tenant_max_files", Group: GroupAdmission, Default: "1000000", Example: "N",
			Help: "Stored files of one tenant; uploading one more gets 507, and files that a run makes are counted as omitted. 0: no limit.",
			bind: func(c *Config) value { return number[int64]{&c.TenantMaxFiles, 0, tib} }},
		{Name: "tenant_max_bytes", Group: GroupAdmission, Default: "0", Example: "BYTES",
			Help: "Bytes of the stored files of one tenant, added up; as tenant_max_files. Code and output of its runs take what the files leave. 0: no limit.",
			bind: func(c *Config) value { return number[int64]{&c.TenantMaxBytes, 0, 1 << 60} }},
		{Name: "tenant_max_output_bytes", Group: GroupAdmission, Default: "4294967296", Example: "BYTES",
			Help: "Bytes of code, output and kept answers of the runs of one tenant, added up. Beyond it the oldest are dropped, and their records say so. 0: no limit.",
			bind: func(c *Config) value { return number[int64]{&c.TenantMaxOutputBytes, 0, 1 << 60} }},
	}
}

// Reservation is how much memory a sandbox reserves that has the default limit,
// in MiB.
func (c Config) Reservation() int64 {
	return min(max(c.DefaultMemoryMB*int64(c.ReservePercent)/100, c.ReserveMinMB), c.DefaultMemoryMB)
}

// checkAdmission refuses a server on which nothing would ever be admitted.
func (r Resolved) checkAdmission() error {
	if need := r.Reservation(); need > r.HostMemoryMB {
		return r.wrong("host_memory_mb", "must be at least %d, what one sandbox of default_memory_mb reserves; raise it, or lower default_memory_mb or reserve_percent", need)
	}
	return nil
}

// defaultHostMemory is three quarters of the memory that this process and the
// sandboxes can have, in MiB: the rest is for the daemon, the kernel and all else
// on the machine. root is the directory that stands for /.
func defaultHostMemory(root string) (string, error) {
	total, err := memTotal(filepath.Join(root, "proc/meminfo"))
	if err != nil {
		return "", fmt.Errorf("cannot be told from the machine (%w); set it", err)
	}
	for _, limit := range ownMemoryLimits(root) {
		total = min(total, limit)
	}
	return strconv.FormatInt(min(max(total/mib*3/4, 64), maxMemoryMB), 10), nil
}

// memTotal reads the machine's memory, in bytes.
func memTotal(path string) (int64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("%s has no MemTotal", path)
}

// ownMemoryLimits lists the memory limits of this process's control group and of
// those above it, in bytes, in whichever version of control groups there is.
// What cannot be read limits nothing.
func ownMemoryLimits(root string) []int64 {
	groups, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return nil
	}
	mounts, err := os.ReadFile(filepath.Join(root, "proc/self/mountinfo"))
	if err != nil {
		return nil
	}
	var limits []int64
	for line := range strings.Lines(string(groups)) {
		id, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, group, ok := strings.Cut(rest, ":")
		switch {
		case !ok:
		case id == "0" && controllers == "":
			limits = append(limits, limitsUp(root, string(mounts), group, "cgroup2", "", "memory.max")...)
		case strings.Contains(","+controllers+",", ",memory,"):
			limits = append(limits, limitsUp(root, string(mounts), group, "cgroup", "memory", "memory.limit_in_bytes")...)
		}
	}
	return limits
}

// limitsUp reads a file of a group, and of each above it, in the hierarchy of a
// file system type and mount option.
func limitsUp(root, mounts, group, fsType, option, file string) []int64 {
	var limits []int64
	for line := range strings.Lines(mounts) {
		before, after, _ := strings.Cut(line, " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if len(left) < 5 || len(right) < 3 || right[0] != fsType ||
			option != "" && !strings.Contains(","+right[2]+",", ","+option+",") {
			continue
		}
		// The fourth field is which group the mount shows as its top.
		below, err := filepath.Rel(left[3], group)
		if err != nil || strings.HasPrefix(below, "..") {
			below = "."
		}
		for {
			b, err := os.ReadFile(filepath.Join(root, left[4], below, file))
			if n, convErr := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil && convErr == nil && n > 0 {
				limits = append(limits, n)
			}
			if below == "." {
				break
			}
			below = filepath.Dir(below)
		}
	}
	return limits
}
