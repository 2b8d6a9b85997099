package config

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// environment makes a Getenv of pairs, with a home.
func environment(pairs ...string) func(string) string {
	env := map[string]string{"HOME": "/home/ada"}
	for i := 0; i < len(pairs); i += 2 {
		env[pairs[i]] = pairs[i+1]
	}
	return func(name string) string { return env[name] }
}

func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPrecedence(t *testing.T) {
	file := writeFile(t, "config.yaml", "pool_size: 7\n")
	for name, test := range map[string]struct {
		src    Sources
		want   int
		origin Origin
	}{
		"default": {Sources{Getenv: environment()}, 4, OriginDefault},
		"file":    {Sources{Getenv: environment(), File: file}, 7, Origin(file)},
		"file named by the environment": {
			Sources{Getenv: environment(FileEnv, file)}, 7, Origin(file)},
		"environment over file": {
			Sources{Getenv: environment("AGENTSANDBOX_POOL_SIZE", "8"), File: file}, 8, "AGENTSANDBOX_POOL_SIZE"},
		"an empty variable is not set": {
			Sources{Getenv: environment("AGENTSANDBOX_POOL_SIZE", ""), File: file}, 7, Origin(file)},
		"flag over everything": {
			Sources{Getenv: environment("AGENTSANDBOX_POOL_SIZE", "8"), File: file, Flags: map[string]string{"pool_size": "9"}}, 9, "--pool-size"},
		"a flag can say zero": {
			Sources{Getenv: environment("AGENTSANDBOX_POOL_SIZE", "8"), Flags: map[string]string{"pool_size": "0"}}, 0, "--pool-size"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Load(test.src)
			if err != nil {
				t.Fatal(err)
			}
			if got.PoolSize != test.want || got.Origins["pool_size"] != test.origin {
				t.Errorf("pool_size is %d from %s, want %d from %s", got.PoolSize, got.Origins["pool_size"], test.want, test.origin)
			}
		})
	}
}

// sample is a valid value of each setting, and none is the default: so a row
// of the table that is bound to the wrong field shows.
func sample(t *testing.T) map[string]string {
	pem := writeFile(t, "some.pem", "-")
	return map[string]string{
		"listen": "0.0.0.0:9", "data_dir": "/d", "cache_dir": "/c", "tls_cert": pem, "tls_key": pem,
		"shutdown_grace_ms": "11", "on_shutdown": "destroy", "log_level": "debug", "log_format": "json", "platform": "kvm",
		"ca_bundle": pem, "pool_size": "12", "pool_data_size": "3", "preload": "none", "max_sandboxes": "13", "egress_mode": "allowlist",
		"egress_allow": "*.example.org:443", "egress_open": "10.0.0.0/8\n[fd00::1]:80", "egress_deny": "203.0.113.7", "egress_template": "default=off", "ports_host": "ports.example.org:8443", "public_url": "https://sandbox.example.org:8443", "egress_dns": "192.0.2.53\n[2001:db8::1]:5353",
		"egress_max_connections": "33", "port_max_connections": "37", "port_max_connections_per_key": "38", "port_max_connections_per_url": "39", "port_idle_ms": "40", "egress_max_bytes": "34", "egress_bytes_per_second": "35", "egress_max_queries": "36", "egress_ca_cert": pem, "egress_ca_key": pem,
		"sandbox_env": "A=b c,d\nE=", "default_timeout_ms": "14",
		"max_timeout_ms": "15", "default_memory_mb": "160", "max_memory_mb": "170", "default_cpus": "0.5",
		"max_cpus": "1.5", "max_tasks": "400", "disk_mb": "21", "max_disk_mb": "22",
		"default_inodes": "2025", "max_inodes": "2026", "default_processes": "27", "max_processes": "28",
		"default_open_files": "129", "max_open_files": "130", "default_cpu_time_ms": "31", "max_collect_ms": "32", "max_stream_bytes": "3300",
		"session_idle_ms": "300", "max_session_idle_ms": "310", "session_lifetime_ms": "320", "max_session_lifetime_ms": "330",
		"orphan_timeout_ms": "335", "file_retention_ms": "34", "record_retention_ms": "35", "max_output_bytes": "2200",
		"max_code_bytes": "23", "max_body_bytes": "2400", "max_upload_bytes": "25",
		"max_collect_files": "26", "max_collect_bytes": "27", "max_collect_depth": "28", "collect_ignored": "true",
		"host_memory_mb": "2900", "reserve_percent": "30", "reserve_min_mb": "31", "pool_memory_percent": "33",
		"max_queue": "34", "queue_timeout_ms": "35", "rate_per_second": "36", "rate_burst": "37",
		"max_executions_per_key": "38", "max_requests_per_key": "42", "request_memory_mb": "43", "max_connections": "44", "tenant_max_sessions": "39", "tenant_max_files": "40", "tenant_max_bytes": "41", "tenant_max_output_bytes": "45",
	}
}

func TestEverySettingCanBeSetInEveryWay(t *testing.T) {
	values := sample(t)
	var yaml strings.Builder
	var pairs []string
	for _, s := range Settings() {
		if s.EnvOnly {
			continue
		}
		if values[s.Name] == "" {
			t.Fatalf("the test has no sample of %s", s.Name)
		}
		pairs = append(pairs, s.Env(), values[s.Name])
		fmt.Fprintf(&yaml, "%s: %s\n", s.Name, yamlValue(s, values[s.Name]))
	}
	var first *Config
	for name, src := range map[string]Sources{
		"flags":       {Getenv: environment(), Flags: values},
		"environment": {Getenv: environment(pairs...)},
		"file":        {Getenv: environment(), File: writeFile(t, "all.yaml", yaml.String())},
	} {
		got, err := Load(src)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, s := range Settings() {
			if text := s.bind(&got.Config).text(); !s.EnvOnly && text != values[s.Name] {
				t.Errorf("%s: %s is %q, want %q", name, s.Name, text, values[s.Name])
			}
		}
		if first == nil {
			first = &got.Config
		} else if !reflect.DeepEqual(*first, got.Config) {
			t.Errorf("%s: differs:\n%+v\n%+v", name, got.Config, *first)
		}
	}
	if first.MaxOutputBytes != 2200 || first.MaxCollectDepth != 28 || first.DefaultCPUs != 0.5 || first.DataDir != "/d" {
		t.Errorf("values went to the wrong fields: %+v", first)
	}
}

func TestMistakesNameTheSettingAndTheRemedy(t *testing.T) {
	for name, test := range map[string]struct {
		flags map[string]string
		file  string
		want  []string
	}{
		"not a number":          {map[string]string{"pool_size": "many"}, "", []string{`pool_size: must be a whole number from 0 to 1000, not "many" (from --pool-size)`}},
		"half a number":         {map[string]string{"pool_size": "1.5"}, "", []string{"pool_size", "whole number"}},
		"too many processes":    {map[string]string{"max_tasks": "500"}, "", []string{"max_processes: 384 processes need max_tasks of at least 1024"}},
		"out of bounds":         {map[string]string{"disk_mb": "3"}, "", []string{"disk_mb: must be from 16 to"}},
		"NaN":                   {map[string]string{"max_cpus": "NaN"}, "", []string{"max_cpus: must be a number"}},
		"no choice":             {map[string]string{"log_level": "loud"}, "", []string{`log_level: must be one of debug, info, warn, error, not "loud"`}},
		"listen without port":   {map[string]string{"listen": "localhost"}, "", []string{"listen: must be HOST:PORT"}},
		"listen on no port":     {map[string]string{"listen": ":99999"}, "", []string{"listen: must have a port from 0 to 65535"}},
		"empty directory":       {map[string]string{"data_dir": ""}, "", []string{"data_dir: must not be empty"}},
		"one directory twice":   {map[string]string{"data_dir": "/x", "cache_dir": "/x"}, "", []string{"cache_dir: must be another directory"}},
		"half of TLS":           {map[string]string{"tls_cert": "/dev/null"}, "", []string{"tls_key: is needed with tls_cert"}},
		"CA bundle is missing":  {map[string]string{"ca_bundle": "/nowhere/ca.pem"}, "", []string{"ca_bundle: cannot be used", "/nowhere/ca.pem"}},
		"CA bundle is no file":  {map[string]string{"ca_bundle": "/"}, "", []string{"ca_bundle: must be a file"}},
		"default over the most": {map[string]string{"default_memory_mb": "9000"}, "", []string{"default_memory_mb: must not be more than max_memory_mb"}},
		"pool over the most":    {map[string]string{"pool_size": "100"}, "", []string{"pool_size: must not be more than max_sandboxes"}},
		"no name server":        {map[string]string{"egress_dns": "dns.example.org"}, "", []string{"egress_dns: must be addresses with an optional port"}},
		"no variable":           {map[string]string{"sandbox_env": "=x"}, "", []string{"sandbox_env: must be NAME=VALUE"}},
		"allowed in public":     {map[string]string{"egress_allow": "example.org"}, "", []string{"egress_allow: goes with egress_mode allowlist only"}},
		"ports of no host":      {map[string]string{"ports_host": "https://ports.example.org"}, "", []string{"ports_host: must be a host name"}},
		"ports with a path":     {map[string]string{"ports_host": "ports.example.org/p"}, "", []string{"ports_host: must be a host name"}},
		"a public path":         {map[string]string{"public_url": "https://sandbox.example.org/"}, "", []string{"public_url: must be a scheme and a host"}},
		"a public name":         {map[string]string{"public_url": "sandbox.example.org"}, "", []string{"public_url: must be a scheme and a host"}},
		"a public user":         {map[string]string{"public_url": "https://u@sandbox.example.org"}, "", []string{"public_url: must be a scheme and a host"}},
		"ports of the API":      {map[string]string{"ports_host": "127.0.0.1:9"}, "", []string{"ports_host: must be another name than that of listen"}},
		"half of a CA":          {map[string]string{"egress_ca_cert": "/dev/null"}, "", []string{"egress_ca_key: is needed with egress_ca_cert"}},
		"two at once":           {map[string]string{"pool_size": "x", "disk_mb": "y"}, "", []string{"pool_size", "disk_mb"}},
		"unknown key":           {nil, "pool: 3\n", []string{`unknown setting "pool"; did you mean pool_size?`}},
		"dashes for underlines": {nil, "pool-size: 3\n", []string{"did you mean pool_size?"}},
		"nothing like it":       {nil, "colour: red\n", []string{`unknown setting "colour"`}},
		"the same key twice":    {nil, "disk_mb: 30\ndisk_mb: 31\n", []string{"disk_mb", "already set"}},
		"not flat":              {nil, "disk_mb: [30]\n", []string{"disk_mb", "name: value"}},
		"secret in the file":    {nil, "bootstrap_key: abc\n", []string{"bootstrap_key is a secret", "AGENTSANDBOX_BOOTSTRAP_KEY"}},
	} {
		t.Run(name, func(t *testing.T) {
			src := Sources{Getenv: environment(), Flags: test.flags}
			if test.file != "" {
				src.File = writeFile(t, "c.yaml", test.file)
			}
			_, err := Load(src)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error is %q, without %q", err, want)
				}
			}
		})
	}
}

func TestMissingFileIsAnError(t *testing.T) {
	_, err := Load(Sources{Getenv: environment(), File: "/nowhere/config.yaml"})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
}

func TestDefaultDirectories(t *testing.T) {
	for name, test := range map[string]struct {
		env         func(string) string
		uid         int
		data, cache string
	}{
		"user":              {environment(), 1000, "/home/ada/.local/share/agentsandbox", "/home/ada/.cache/agentsandbox"},
		"user with XDG":     {environment("XDG_DATA_HOME", "/xd", "XDG_CACHE_HOME", "/xc"), 1000, "/xd/agentsandbox", "/xc/agentsandbox"},
		"relative XDG":      {environment("XDG_DATA_HOME", "xd"), 1000, "/home/ada/.local/share/agentsandbox", "/home/ada/.cache/agentsandbox"},
		"root":              {environment(), 0, "/var/lib/agentsandbox", "/home/ada/.cache/agentsandbox"},
		"root with no home": {environment("HOME", ""), 0, "/var/lib/agentsandbox", "/var/cache/agentsandbox"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Load(Sources{Getenv: test.env, UID: test.uid})
			if err != nil {
				t.Fatal(err)
			}
			if got.DataDir != test.data || got.CacheDir != test.cache {
				t.Errorf("data %s, cache %s; want %s, %s", got.DataDir, got.CacheDir, test.data, test.cache)
			}
		})
	}
	_, err := Load(Sources{Getenv: environment("HOME", ""), UID: 1000})
	if err == nil || !strings.Contains(err.Error(), "data_dir: has no default, because HOME is not set") {
		t.Errorf("without a home, the error is %v", err)
	}
}

func TestRelativePathsBecomeAbsolute(t *testing.T) {
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Load(Sources{Getenv: environment(), Flags: map[string]string{"data_dir": "d"}})
	if err != nil {
		t.Fatal(err)
	}
	if got.DataDir != filepath.Join(wd, "d") {
		t.Errorf("data_dir is %s", got.DataDir)
	}
	if got.AdminKeyPath() != filepath.Join(wd, "d", "admin.key") {
		t.Errorf("the admin key is at %s", got.AdminKeyPath())
	}
}

func TestPrintIsAFileThatGivesTheSameConfig(t *testing.T) {
	values := sample(t)
	values["data_dir"] = "/with space: and # and 'quote'\tand tab and\nline"
	r, err := Load(Sources{Getenv: environment("AGENTSANDBOX_BOOTSTRAP_KEY", "hunter2hunter2"), Flags: values})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := r.Print(&out); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "hunter2") {
		t.Errorf("the secret is shown:\n%s", &out)
	}
	for _, want := range []string{"pool_size: 12 ", "# --pool-size", "# bootstrap_key: (set, not shown)", "# AGENTSANDBOX_BOOTSTRAP_KEY"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, &out)
		}
	}
	again, err := Load(Sources{Getenv: environment(), File: writeFile(t, "printed.yaml", out.String())})
	if err != nil {
		t.Fatalf("%v in:\n%s", err, &out)
	}
	r.BootstrapKey = ""
	if !reflect.DeepEqual(again.Config, r.Config) {
		t.Errorf("read back:\n%+v\nwant:\n%+v", again.Config, r.Config)
	}
}

func TestSecretIsNeverShown(t *testing.T) {
	c := Config{BootstrapKey: "hunter2"}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("start", "config", c, "key", c.BootstrapKey)
	shown := fmt.Sprintf("%v %+v %#v %s", c, c, c, c.BootstrapKey) + log.String()
	if strings.Contains(shown, "hunter2") {
		t.Errorf("shown in %s", shown)
	}
	if c.BootstrapKey.Reveal() != "hunter2" {
		t.Error("Reveal does not reveal")
	}
}

func TestBootstrapKeyMustFitAHeader(t *testing.T) {
	for _, key := range []string{"with space", "line\nbreak", "schlüssel", strings.Repeat("k", 513)} {
		_, err := Load(Sources{Getenv: environment("AGENTSANDBOX_BOOTSTRAP_KEY", key)})
		if err == nil || !strings.Contains(err.Error(), "bootstrap_key: must be") || strings.Contains(err.Error(), key) {
			t.Errorf("for %.20q the error is %v", key, err)
		}
	}
}

// yamlValue is a value as a file has it: that of a list, one on each line.
func yamlValue(s Setting, value string) string {
	if !s.IsList() {
		return value
	}
	var b strings.Builder
	for line := range strings.Lines(value) {
		fmt.Fprintf(&b, "\n  - %q", strings.TrimSuffix(line, "\n"))
	}
	return b.String()
}
