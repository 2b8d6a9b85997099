package config

import (
	"math"
	"runtime"
	"strconv"
	"strings"
)

// EnvPrefix starts the name of every environment variable of the program.
const EnvPrefix = "AGENTSANDBOX_"

// Setting is one row of the table of what can be set.
type Setting struct {
	Name  string // as in a file, such as pool_size
	Group string
	// Help says what it does, with its unit, for people.
	Help string
	// Example stands for the value in help texts, such as HOST:PORT.
	Example string
	// Default is the text of the default; DefaultNote says it in words where it
	// depends on the machine, and Default is empty then.
	Default, DefaultNote string
	// EnvOnly settings are secrets: flags show in process lists, and files get
	// copied.
	EnvOnly bool

	bind func(*Config) value
}

// Flag is the name of the setting's flag, without dashes in front.
func (s Setting) Flag() string { return strings.ReplaceAll(s.Name, "_", "-") }

// Env is the name of the setting's environment variable.
func (s Setting) Env() string { return EnvPrefix + strings.ToUpper(s.Name) }

// Values says which values are allowed, for people; empty if any text is.
func (s Setting) Values() string { return s.bind(new(Config)).allowed() }

// Groups of settings, in the order of help texts and the reference.
const (
	GroupServer    = "Server"
	GroupSandboxes = "Sandboxes"
	GroupAdmission = "Admission of work"
	GroupLimits    = "Limits of a sandbox and an execution"
	GroupRequests  = "Limits of requests and answers"
)

// Bounds that keep a slip of the finger from becoming a server that cannot work.
const (
	mib          = 1 << 20
	gib          = 1 << 30
	tib          = 1 << 40
	dayMS        = 24 * 60 * 60 * 1000
	maxCPUs      = 1024
	maxMemoryMB  = 16 << 20
	maxSandboxes = 100_000
)

// Values of a setting that is on or off.
const (
	On  = "true"
	Off = "false"
)

// Values of on_shutdown.
const (
	OnShutdownKeep    = "keep"
	OnShutdownDestroy = "destroy"
)

// Settings returns the table, in the order of help texts and the reference.
func Settings() []Setting {
	var all []Setting
	for _, rows := range [][]Setting{
		serverSettings(), sandboxSettings(), admissionSettings(), networkSettings(), limitSettings(), gentleLimitSettings(), lifetimeSettings(), requestSettings(), runawaySettings(),
	} {
		all = append(all, rows...)
	}
	return all
}

func serverSettings() []Setting {
	return []Setting{
		{Name: "listen", Group: GroupServer, Default: "127.0.0.1:8000", Example: "HOST:PORT",
			Help: "Address to listen on. Port 0 picks a free one. The default is reachable from this machine only.",
			bind: func(c *Config) value { return text{&c.Listen} }},
		{Name: "data_dir", Group: GroupServer, Example: "DIR", DefaultNote: "`/var/lib/agentsandbox` for root, else `$XDG_DATA_HOME/agentsandbox` (`~/.local/share/agentsandbox`)",
			Help: "Directory of what must not be lost: database, file contents, records of sandboxes, the admin key.",
			bind: func(c *Config) value { return text{&c.DataDir} }},
		{Name: "cache_dir", Group: GroupServer, Example: "DIR", DefaultNote: "`$XDG_CACHE_HOME/agentsandbox` (`~/.cache/agentsandbox`)",
			Help: "Directory of templates and their snapshots: safe to delete, shared by the servers of a machine.",
			bind: func(c *Config) value { return text{&c.CacheDir} }},
		{Name: "tls_cert", Group: GroupServer, Example: "FILE",
			Help: "PEM file of the certificate chain; with tls_key, the server speaks HTTPS.",
			bind: func(c *Config) value { return text{&c.TLSCert} }},
		{Name: "tls_key", Group: GroupServer, Example: "FILE",
			Help: "PEM file of the certificate's private key.",
			bind: func(c *Config) value { return text{&c.TLSKey} }},
		{Name: "bootstrap_key", Group: GroupServer, Example: "KEY", EnvOnly: true, DefaultNote: "a random key, made at the first start",
			Help: "Value of the admin key. It is never shown or logged.",
			bind: func(c *Config) value { return secret{&c.BootstrapKey} }},
		{Name: "shutdown_grace_ms", Group: GroupServer, Default: "30000", Example: "MS",
			Help: "How long running executions may go on after SIGTERM before they are ended, in milliseconds.",
			bind: func(c *Config) value { return number[int64]{&c.ShutdownGraceMS, 0, dayMS} }},
		{Name: "on_shutdown", Group: GroupServer, Default: OnShutdownKeep, Example: "WHAT",
			Help: "What becomes of sessions at SIGTERM: they stay alive for the next start (keep), or end (destroy).",
			bind: func(c *Config) value { return choice{&c.OnShutdown, []string{OnShutdownKeep, OnShutdownDestroy}} }},
		{Name: "log_level", Group: GroupServer, Default: "info", Example: "LEVEL",
			Help: "Least severe messages that are logged.",
			bind: func(c *Config) value { return choice{&c.LogLevel, []string{"debug", "info", "warn", "error"}} }},
		{Name: "log_format", Group: GroupServer, Default: "text", Example: "FORMAT",
			Help: "Form of the log lines on standard error.",
			bind: func(c *Config) value { return choice{&c.LogFormat, []string{"text", "json"}} }},
	}
}

func sandboxSettings() []Setting {
	return []Setting{
		{Name: "platform", Group: GroupSandboxes, Default: "systrap", Example: "NAME",
			Help: "How gVisor catches system calls: systrap works everywhere, kvm needs /dev/kvm.",
			bind: func(c *Config) value { return choice{&c.Platform, []string{"systrap", "kvm"}} }},
		{Name: "ca_bundle", Group: GroupSandboxes, Example: "FILE", DefaultNote: "the machine's own bundle",
			Help: "PEM file of the certificate authorities that code in sandboxes trusts.",
			bind: func(c *Config) value { return text{&c.CABundle} }},
		{Name: "pool_size", Group: GroupSandboxes, Default: "4", Example: "N",
			Help: "Warm sandboxes kept ready for each template. 0 starts each sandbox when it is asked for.",
			bind: func(c *Config) value { return number[int]{&c.PoolSize, 0, 1000} }},
		{Name: "pool_data_size", Group: GroupSandboxes, Default: "2", Example: "N",
			Help: "Warm sandboxes kept with numpy, pandas and matplotlib loaded, for code that imports them.",
			bind: func(c *Config) value { return number[int]{&c.PoolDataSize, 0, 1000} }},
		{Name: "preload", Group: GroupSandboxes, Default: "data", Example: "WHAT",
			Help: "What sandboxes have loaded for code that imports it: the data libraries (data), or nothing (none).",
			bind: func(c *Config) value { return choice{&c.Preload, []string{"data", "none"}} }},
		{Name: "max_sandboxes", Group: GroupSandboxes, Default: "64", Example: "N",
			Help: "Sandboxes that may exist at once, warm ones included; further requests wait, then get 503 with Retry-After.",
			bind: func(c *Config) value { return number[int]{&c.MaxSandboxes, 1, maxSandboxes} }},
		{Name: "sandbox_env", Group: GroupSandboxes, Example: "NAME=VALUE",
			Help: "Environment variable of every execution that does not set it itself, such as PIP_INDEX_URL. A list, one on each line.",
			bind: func(c *Config) value { return list{&c.SandboxEnv} }},
	}
}

func limitSettings() []Setting {
	return []Setting{
		{Name: "default_timeout_ms", Group: GroupLimits, Default: "100000", Example: "MS",
			Help: "Time limit of an execution that asks for none, in milliseconds.",
			bind: func(c *Config) value { return number[int64]{&c.DefaultTimeoutMS, 1, 7 * dayMS} }},
		{Name: "max_timeout_ms", Group: GroupLimits, Default: "3600000", Example: "MS",
			Help: "Longest time limit that a request may ask for, in milliseconds.",
			bind: func(c *Config) value { return number[int64]{&c.MaxTimeoutMS, 1, 7 * dayMS} }},
		{Name: "default_memory_mb", Group: GroupLimits, Default: "2048", Example: "MB",
			Help: "Memory of a sandbox when a request asks for none, in MiB.",
			bind: func(c *Config) value { return number[int64]{&c.DefaultMemoryMB, 64, maxMemoryMB} }},
		{Name: "max_memory_mb", Group: GroupLimits, Default: "8192", Example: "MB",
			Help: "Most memory that a request may ask for, in MiB.",
			bind: func(c *Config) value { return number[int64]{&c.MaxMemoryMB, 64, maxMemoryMB} }},
		{Name: "default_cpus", Group: GroupLimits, Default: "1", Example: "N",
			Help: "CPUs of a sandbox when a request asks for none; fractions are allowed.",
			bind: func(c *Config) value { return fraction{&c.DefaultCPUs, 0.05, maxCPUs} }},
		{Name: "max_cpus", Group: GroupLimits, Example: "N", DefaultNote: "the machine's CPUs",
			Help: "Most CPUs that a request may ask for; fractions are allowed.",
			bind: func(c *Config) value { return fraction{&c.MaxCPUs, 0.05, maxCPUs} }},
		{Name: "max_tasks", Group: GroupLimits, Default: "1024", Example: "N",
			Help: "Processes and threads of one sandbox on the host, those of its own kernel included.",
			bind: func(c *Config) value { return number[int64]{&c.MaxTasks, 128, 1 << 20} }},
		{Name: "disk_mb", Group: GroupLimits, Default: "1024", Example: "MB",
			Help: "Room for files that a sandbox writes when a request asks for none, in MiB. Files are held in memory and count against the memory limit.",
			bind: func(c *Config) value { return number[int64]{&c.DiskMB, 16, 16 << 20} }},
	}
}

func requestSettings() []Setting {
	return []Setting{
		{Name: "max_output_bytes", Group: GroupRequests, Default: strconv.Itoa(10 * mib), Example: "BYTES",
			Help: "Bytes kept of each of stdout and stderr of an execution; the rest is counted and dropped.",
			bind: func(c *Config) value { return number[int64]{&c.MaxOutputBytes, 1024, gib} }},
		{Name: "max_code_bytes", Group: GroupRequests, Default: strconv.Itoa(mib), Example: "BYTES",
			Help: "Largest code of an execution, in bytes.",
			bind: func(c *Config) value { return number[int64]{&c.MaxCodeBytes, 1, gib} }},
		{Name: "max_body_bytes", Group: GroupRequests, Default: strconv.Itoa(10 * mib), Example: "BYTES",
			Help: "Largest body of a request, in bytes, uploads aside.",
			bind: func(c *Config) value { return number[int64]{&c.MaxBodyBytes, 1024, gib} }},
		{Name: "max_upload_bytes", Group: GroupRequests, Default: strconv.Itoa(5 * gib), Example: "BYTES",
			Help: "Largest uploaded file, in bytes.",
			bind: func(c *Config) value { return number[int64]{&c.MaxUploadBytes, 1, 16 * tib} }},
		{Name: "max_collect_files", Group: GroupRequests, Default: "1000", Example: "N",
			Help: "Files kept of what one execution made or changed; the answer counts those left out.",
			bind: func(c *Config) value { return number[int]{&c.MaxCollectFiles, 0, 100_000} }},
		{Name: "max_collect_bytes", Group: GroupRequests, Default: strconv.Itoa(gib), Example: "BYTES",
			Help: "Bytes kept of what one execution made or changed, added up.",
			bind: func(c *Config) value { return number[int64]{&c.MaxCollectBytes, 0, 16 * tib} }},
		{Name: "max_collect_depth", Group: GroupRequests, Default: "64", Example: "N",
			Help: "Directories below each other in which files that an execution made are looked for.",
			bind: func(c *Config) value { return number[int]{&c.MaxCollectDepth, 1, 1024} }},
		{Name: "collect_ignored", Group: GroupRequests, Default: Off, Example: "BOOL",
			Help: "Whether the files of tools below /workspace are kept, too, where a session or run does not say: version control, virtual environments, caches.",
			bind: func(c *Config) value { return choice{&c.CollectIgnored, []string{Off, On}} }},
	}
}

// machineDefault returns the default of a setting that depends on the machine.
func machineDefault(name string, env func(string) string, uid int) (string, error) {
	switch name {
	case "data_dir":
		return DefaultDataDir(env, uid)
	case "cache_dir":
		return defaultCacheDir(env, uid)
	case "host_memory_mb":
		return defaultHostMemory("/")
	case "max_cpus":
		return strconv.Itoa(runtime.NumCPU()), nil
	}
	return "", nil
}

// value is one field of a Config, seen as text.
type value interface {
	// set parses text; the error says what the text must be.
	set(s string) error
	// check tells whether the value is within bounds.
	check() error
	text() string
	allowed() string
}

type text struct{ p *string }

func (v text) set(s string) error { *v.p = s; return nil }
func (v text) check() error       { return nil }
func (v text) text() string       { return *v.p }
func (v text) allowed() string    { return "" }

type secret struct{ p *Secret }

func (v secret) set(s string) error { *v.p = Secret(s); return nil }
func (v secret) check() error       { return checkKey(v.p.Reveal()) }
func (v secret) text() string       { return v.p.String() }
func (v secret) allowed() string    { return "" }

type choice struct {
	p      *string
	values []string
}

func (v choice) set(s string) error { *v.p = s; return nil }
func (v choice) text() string       { return *v.p }
func (v choice) allowed() string    { return strings.Join(v.values, ", ") }
func (v choice) check() error {
	for _, allowed := range v.values {
		if *v.p == allowed {
			return nil
		}
	}
	return problemf("must be one of %s, not %q", v.allowed(), *v.p)
}

type number[T int | int64] struct {
	p        *T
	min, max T
}

func (v number[T]) text() string { return strconv.FormatInt(int64(*v.p), 10) }
func (v number[T]) allowed() string {
	return strconv.FormatInt(int64(v.min), 10) + " to " + strconv.FormatInt(int64(v.max), 10)
}
func (v number[T]) set(s string) error {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || int64(T(n)) != n {
		return problemf("must be a whole number from %s, not %q", v.allowed(), s)
	}
	*v.p = T(n)
	return nil
}
func (v number[T]) check() error {
	if *v.p < v.min || *v.p > v.max {
		return problemf("must be from %s, not %d", v.allowed(), *v.p)
	}
	return nil
}

type fraction struct {
	p        *float64
	min, max float64
}

func (v fraction) text() string { return strconv.FormatFloat(*v.p, 'f', -1, 64) }
func (v fraction) allowed() string {
	return strconv.FormatFloat(v.min, 'f', -1, 64) + " to " + strconv.FormatFloat(v.max, 'f', -1, 64)
}
func (v fraction) set(s string) error {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
		return problemf("must be a number from %s, not %q", v.allowed(), s)
	}
	*v.p = f
	return nil
}
func (v fraction) check() error {
	if !(*v.p >= v.min && *v.p <= v.max) {
		return problemf("must be from %s, not %s", v.allowed(), v.text())
	}
	return nil
}
