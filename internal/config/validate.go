package config

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
)

// Validate checks each value against its bounds and the values against each
// other. The error joins one [*ValueError] for each thing that is wrong.
func (r Resolved) Validate() error {
	var errs []error
	for _, s := range Settings() {
		if err := s.bind(&r.Config).check(); err != nil {
			errs = append(errs, r.wrong(s.Name, "%s", err))
		}
	}
	errs = append(errs, r.checkListen(), r.checkDirs(), r.checkTLS(), r.checkDefaults(), r.checkAdmission(), r.checkNetwork())
	return errors.Join(errs...)
}

func (r Resolved) wrong(name, format string, args ...any) error {
	origin, ok := r.Origins[name]
	if !ok {
		origin = OriginDefault
	}
	return &ValueError{name, origin, fmt.Sprintf(format, args...)}
}

func (r Resolved) checkListen() error {
	_, port, err := net.SplitHostPort(r.Listen)
	if err != nil {
		return r.wrong("listen", "must be HOST:PORT, such as 127.0.0.1:8000 or [::1]:8000, not %q", r.Listen)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return r.wrong("listen", "must have a port from 0 to 65535, not %q", port)
	}
	return nil
}

func (r Resolved) checkDirs() error {
	switch {
	case r.DataDir == "":
		return r.wrong("data_dir", "must not be empty; name a directory")
	case r.CacheDir == "":
		return r.wrong("cache_dir", "must not be empty; name a directory")
	case r.DataDir == r.CacheDir:
		return r.wrong("cache_dir", "must be another directory than data_dir: the cache can be deleted, the data must not be")
	}
	return nil
}

func (r Resolved) checkTLS() error {
	switch {
	case r.TLSCert != "" && r.TLSKey == "":
		return r.wrong("tls_key", "is needed with tls_cert; name the file of the private key")
	case r.TLSCert == "" && r.TLSKey != "":
		return r.wrong("tls_cert", "is needed with tls_key; name the file of the certificate chain")
	}
	var errs []error
	for name, path := range map[string]string{"tls_cert": r.TLSCert, "tls_key": r.TLSKey, "ca_bundle": r.CABundle} {
		if path == "" {
			continue
		}
		if info, err := os.Stat(path); err != nil {
			errs = append(errs, r.wrong(name, "cannot be used: %v", err))
		} else if !info.Mode().IsRegular() {
			errs = append(errs, r.wrong(name, "must be a file, and %s is not", path))
		}
	}
	return errors.Join(errs...)
}

// checkDefaults holds each default against the most that a request may ask for.
func (r Resolved) checkDefaults() error {
	var errs []error
	for _, pair := range []struct {
		name, limit string
		over        bool
	}{
		{"default_timeout_ms", "max_timeout_ms", r.DefaultTimeoutMS > r.MaxTimeoutMS},
		{"default_memory_mb", "max_memory_mb", r.DefaultMemoryMB > r.MaxMemoryMB},
		{"default_cpus", "max_cpus", r.DefaultCPUs > r.MaxCPUs},
		{"disk_mb", "max_disk_mb", r.DiskMB > r.MaxDiskMB},
		{"default_inodes", "max_inodes", r.DefaultInodes > r.MaxInodes},
		{"default_processes", "max_processes", r.DefaultProcesses > r.MaxProcesses},
		{"default_open_files", "max_open_files", r.DefaultOpenFiles > r.MaxOpenFiles},
		{"max_output_bytes", "max_stream_bytes", r.MaxOutputBytes > r.MaxStreamBytes},
		{"session_idle_ms", "max_session_idle_ms", r.SessionIdleMS > r.MaxSessionIdleMS},
		{"session_lifetime_ms", "max_session_lifetime_ms", r.SessionLifetimeMS > r.MaxSessionLifetimeMS},
		{"max_code_bytes", "max_body_bytes", r.MaxCodeBytes > r.MaxBodyBytes},
		{"pool_size", "max_sandboxes", r.PoolSize > r.MaxSandboxes},
		{"pool_data_size", "max_sandboxes", r.PoolDataSize > r.MaxSandboxes},
	} {
		if pair.over {
			errs = append(errs, r.wrong(pair.name, "must not be more than %s; lower the one or raise the other", pair.limit))
		}
	}
	if least := 2*r.MaxProcesses + kernelTasks; r.MaxTasks < least {
		errs = append(errs, r.wrong("max_processes", "%d processes need max_tasks of at least %d, and it is %d", r.MaxProcesses, least, r.MaxTasks))
	}
	return errors.Join(errs...)
}

// kernelTasks are what a sandbox's own kernel needs of max_tasks, with room to
// spare; a process of the user is up to two more.
const kernelTasks = 256

// maxKeyBytes bounds the value of a key, which travels in a header.
const maxKeyBytes = 512

// checkKey tells whether a key can travel in an Authorization header; an empty
// one is none at all.
func checkKey(key string) error {
	if len(key) > maxKeyBytes {
		return problemf("must be at most %d bytes", maxKeyBytes)
	}
	if strings.ContainsFunc(key, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return problemf("must be printable ASCII without spaces")
	}
	return nil
}
