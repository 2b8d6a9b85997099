// Package config owns the settings of the daemon and of the verbs that act on
// this machine: one struct, [Config], one table of what can be set (settings.go),
// and one precedence, which is flag, then environment, then file, then default.
// Flags, the reference page and --print-config are all made from that table.
//
// It knows no flag parser, no HTTP and nothing of what the settings are for. It
// fails with a [*ValueError] that names the setting, where its value came from,
// and what to write instead; several mistakes are reported together.
package config

import (
	"log/slog"
	"path/filepath"
)

// Config is every setting, resolved. Units stand last in a name.
type Config struct {
	// Server.
	Listen          string // HOST:PORT
	TLSCert, TLSKey string // paths of PEM files; both or none
	DataDir         string // absolute: what must not be lost
	CacheDir        string // absolute: what can be made again
	BootstrapKey    Secret // value of the admin key; empty: a random one
	ShutdownGraceMS int64
	OnShutdown      string
	LogLevel        string // debug, info, warn, error
	LogFormat       string // text, json

	// Sandboxes.
	Platform     string // systrap, kvm
	CABundle     string // path of a PEM file; empty: the machine's
	PoolSize     int
	PoolDataSize int
	Preload      string // data, none
	MaxSandboxes int

	// Admission.
	HostMemoryMB         int64 // for all sandboxes together
	ReservePercent       int
	ReserveMinMB         int64
	PoolMemoryPercent    int
	MaxQueue             int
	QueueTimeoutMS       int64
	RatePerSecond        int // of requests of one key; 0: no limit
	RateBurst            int
	MaxRequestsPerKey    int   // 0: no limit
	MaxConnections       int   // 0: a share of the open files
	RequestMemoryMB      int64 // of bodies and answers
	MaxExecutionsPerKey  int
	TenantMaxSessions    int64 // 0: no limit, as the next three
	TenantMaxFiles       int64
	TenantMaxBytes       int64
	TenantMaxOutputBytes int64
	// Network of sandboxes.
	EgressMode                          string   // off, public, allowlist
	EgressAllow, EgressOpen, EgressDeny []string // targets
	EgressTemplate                      []string // NAME=RULE
	PortsHost                           string
	PublicURL                           string // scheme and authority; "": that of each request
	PortMaxConnections                  int    // to the ports of one session, as the next of a key and of a URL
	PortMaxConnectionsPerKey            int
	PortMaxConnectionsPerURL            int
	PortIdleMS                          int64
	EgressDNS                           []string // ADDRESS or ADDRESS:PORT
	EgressMaxConnections                int      // of one sandbox, as the next three
	EgressMaxBytes                      int64    // 0: no limit
	EgressBytesPerSecond                int64    // 0: no limit
	EgressMaxQueries                    int64
	EgressCACert, EgressCAKey           string // paths of PEM files; both or none
	// SandboxEnv are NAME=VALUE for every execution.
	SandboxEnv []string

	// Limits of one sandbox or execution.
	DefaultTimeoutMS, MaxTimeoutMS int64
	DefaultMemoryMB, MaxMemoryMB   int64
	DefaultCPUs, MaxCPUs           float64
	MaxTasks                       int64
	DiskMB, MaxDiskMB              int64
	DefaultInodes, MaxInodes       int64
	DefaultProcesses, MaxProcesses int64
	DefaultOpenFiles, MaxOpenFiles int64
	DefaultCPUTimeMS               int64 // 0: none

	// How long things are kept; 0 for ever where it is allowed.
	SessionIdleMS, MaxSessionIdleMS         int64
	OrphanTimeoutMS                         int64
	SessionLifetimeMS, MaxSessionLifetimeMS int64
	FileRetentionMS, RecordRetentionMS      int64

	// Limits of one request or answer.
	MaxOutputBytes  int64 // of each of stdout and stderr
	MaxCodeBytes    int64
	MaxBodyBytes    int64
	MaxUploadBytes  int64
	MaxCollectFiles int
	MaxCollectBytes int64
	MaxCollectDepth int
	MaxCollectMS    int64
	// CollectIgnored is On or Off: whether the files of tools are kept, too.
	CollectIgnored string
	MaxStreamBytes int64
}

// AdminKeyPath is where the daemon leaves the admin key, readable by its owner
// only, for the command line on the same machine.
func (c Config) AdminKeyPath() string { return filepath.Join(c.DataDir, AdminKeyFile) }

// SlogLevel returns LogLevel as slog has it; info for one that is not valid.
func (c Config) SlogLevel() slog.Level {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return slog.LevelInfo
	}
	return level
}

// Secret is a value that no log, error or listing shows.
type Secret string

const redacted = "(set, not shown)"

// Reveal returns the value itself.
func (s Secret) Reveal() string { return string(s) }

// String says only whether there is a value; so do the other methods, which
// stand between the value and every common way of printing one.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

func (s Secret) GoString() string             { return s.String() }
func (s Secret) LogValue() slog.Value         { return slog.StringValue(s.String()) }
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
