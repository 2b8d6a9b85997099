package config

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v2"
)

// FileEnv is the environment variable that names the configuration file.
const FileEnv = EnvPrefix + "CONFIG"

// maxFileBytes bounds a configuration file, which is a page at most.
const maxFileBytes = 1 << 20

// Sources is where settings come from.
type Sources struct {
	// Flags are the values given on the command line, by the setting's name.
	Flags map[string]string
	// Getenv looks an environment variable up; an empty one counts as not set,
	// because that is how service files and compose files leave one out.
	Getenv func(string) string
	// File is a path; empty: the one that FileEnv names, or none.
	File string
	// UID decides the default directories; 0 is root.
	UID int
}

// Origin says where a value came from, for people: "--pool-size",
// "AGENTSANDBOX_POOL_SIZE", "/etc/agentsandbox.yaml" or "default".
type Origin string

// OriginDefault is the origin of a value that nobody set.
const OriginDefault Origin = "default"

// Resolved is a Config with the origin of every value, by setting name.
type Resolved struct {
	Config
	Origins map[string]Origin
}

// ValueError is a value that cannot be used.
type ValueError struct {
	Name    string // of the setting
	Origin  Origin
	Problem string // "must be …"
}

func (e *ValueError) Error() string {
	return fmt.Sprintf("%s: %s (from %s)", e.Name, e.Problem, e.Origin)
}

// problem is what a value finds wrong, before it is known whose value it is.
type problem string

func (p problem) Error() string { return string(p) }

func problemf(format string, args ...any) error { return problem(fmt.Sprintf(format, args...)) }

// Load resolves every setting and validates the whole. The error joins one
// error for each thing that is wrong.
func Load(src Sources) (Resolved, error) {
	file, path, err := src.readFile()
	if err != nil {
		return Resolved{}, err
	}
	r := Resolved{Origins: make(map[string]Origin)}
	var errs []error
	for _, s := range Settings() {
		given, origin, err := src.lookup(s, file, path)
		if err != nil {
			errs = append(errs, &ValueError{s.Name, origin, err.Error()})
			continue
		}
		r.Origins[s.Name] = origin
		if given == "" && origin == OriginDefault {
			continue // a setting that is off unless set
		}
		if err := s.bind(&r.Config).set(given); err != nil {
			errs = append(errs, &ValueError{s.Name, origin, err.Error()})
		}
	}
	if len(errs) > 0 {
		return r, errors.Join(errs...)
	}
	if err := r.absolutePaths(); err != nil {
		return r, err
	}
	return r, r.Validate()
}

// lookup finds the text of one setting: the one place where the precedence is.
func (src Sources) lookup(s Setting, file map[string]string, path string) (string, Origin, error) {
	if v, ok := src.Flags[s.Name]; ok {
		return v, Origin("--" + s.Flag()), nil
	}
	if v := src.getenv(s.Env()); v != "" {
		return v, Origin(s.Env()), nil
	}
	if v, ok := file[s.Name]; ok {
		return v, Origin(path), nil
	}
	if s.Default != "" {
		return s.Default, OriginDefault, nil
	}
	v, err := machineDefault(s.Name, src.getenv, src.UID)
	return v, OriginDefault, err
}

func (src Sources) getenv(name string) string {
	if src.Getenv == nil {
		return ""
	}
	return src.Getenv(name)
}

// absolutePaths makes paths independent of the working directory, once.
func (r *Resolved) absolutePaths() error {
	paths := map[string]*string{
		"data_dir": &r.DataDir, "cache_dir": &r.CacheDir, "ca_bundle": &r.CABundle,
		"tls_cert": &r.TLSCert, "tls_key": &r.TLSKey, "egress_ca_cert": &r.EgressCACert, "egress_ca_key": &r.EgressCAKey,
	}
	for _, name := range slices.Sorted(maps.Keys(paths)) {
		p := paths[name]
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return &ValueError{name, r.Origins[name], fmt.Sprintf("cannot be made absolute: %v; give an absolute path", err)}
		}
		*p = abs
	}
	return nil
}

func (src Sources) readFile() (map[string]string, string, error) {
	path := src.File
	if path == "" {
		path = src.getenv(FileEnv)
	}
	if path == "" {
		return nil, "", nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, path, fmt.Errorf("configuration file: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, path, fmt.Errorf("configuration file: %w", err)
	}
	if len(data) > maxFileBytes {
		return nil, path, fmt.Errorf("configuration file %s is larger than %d bytes; is it the right file?", path, maxFileBytes)
	}
	values, err := parseFile(data)
	if err != nil {
		return nil, path, fmt.Errorf("configuration file %s: %w", path, err)
	}
	return values, path, nil
}

// scalar keeps the text of a YAML value as it was written, so that one parser,
// that of the setting, reads every source.
// The values of a list become lines.
type scalar struct {
	text    string
	several bool
}

func (s *scalar) UnmarshalYAML(unmarshal func(any) error) error {
	var several []string
	if unmarshal(&several) == nil {
		s.text, s.several = strings.Join(several, "\n"), true
		return nil
	}
	return unmarshal(&s.text)
}

// parseFile reads a flat YAML mapping of setting names to scalars, or to lists of
// them.
func parseFile(data []byte) (map[string]string, error) {
	var raw map[string]scalar
	if err := yaml.UnmarshalStrict(data, &raw); err != nil {
		return nil, fmt.Errorf("%w; write one \"name: value\" on each line", err)
	}
	known := make(map[string]Setting)
	for _, s := range Settings() {
		known[s.Name] = s
	}
	values := make(map[string]string, len(raw))
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		s, ok := known[name]
		switch {
		case !ok:
			errs = append(errs, unknownSetting(name))
		case s.EnvOnly:
			errs = append(errs, fmt.Errorf("%s is a secret and cannot stand in a file; set %s in the environment", name, s.Env()))
		case raw[name].several && !s.IsList():
			errs = append(errs, fmt.Errorf("%s takes one value, not a list; write one \"name: value\" on each line", name))
		default:
			values[name] = raw[name].text
		}
	}
	return values, errors.Join(errs...)
}

// unknownSetting names a key that is none, and the setting that was probably meant.
func unknownSetting(name string) error {
	dashed := strings.ReplaceAll(strings.ToLower(name), "-", "_")
	for _, s := range Settings() {
		if s.Name == dashed || strings.HasPrefix(s.Name, dashed+"_") || strings.HasPrefix(dashed, s.Name+"_") {
			return fmt.Errorf("unknown setting %q; did you mean %s?", name, s.Name)
		}
	}
	return fmt.Errorf("unknown setting %q; \"agentsandbox serve --print-config\" lists them all", name)
}
