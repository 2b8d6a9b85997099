package config

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzLoad gives any file, variable and flag: the result is a configuration that
// validates and can be printed, without its secret, or an error.
func FuzzLoad(f *testing.F) {
	f.Add([]byte("pool_size: 7\nlisten: 127.0.0.1:0\n"), "disk_mb", "100", "default_cpus", "0.5")
	f.Add([]byte("a: &a [*a]\n"), "listen", ":::", "pool_size", "-1")
	f.Add([]byte("pool_size: !!binary x\n? {}\n"), "log_level", "loud", "max_memory_mb", "9223372036854775808")
	f.Add([]byte("\xff\xfe---\n..."), "bootstrap_key", "sk_sUPERsecret", "data_dir", "\x00")
	f.Add([]byte(strings.Repeat("[", 5000)), "default_cpus", "NaN", "max_cpus", "1e400")
	path := filepath.Join(f.TempDir(), "config.yaml")
	f.Fuzz(func(t *testing.T, file []byte, env, envValue, flag, flagValue string) {
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := Load(Sources{
			File: path, Flags: map[string]string{flag: flagValue},
			Getenv: environment(EnvPrefix+strings.ToUpper(env), envValue),
		})
		if err != nil {
			// What a setting holds is shown in its own error; a secret never is.
			if env == "bootstrap_key" && len(envValue) > 8 && strings.Contains(err.Error(), envValue) && !bytes.Contains(file, []byte(envValue)) && !strings.Contains(flag+flagValue, envValue) {
				t.Fatalf("the error shows the secret: %v", err)
			}
			return
		}
		if err := r.Validate(); err != nil {
			t.Fatalf("what was loaded is not valid: %v", err)
		}
		for _, p := range []string{r.DataDir, r.CacheDir} {
			if !filepath.IsAbs(p) {
				t.Fatalf("%q is not absolute", p)
			}
		}
	})
}
