package cli

import (
	"context"
	"io"
	"log/slog"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/config"
)

// Local is what the verbs need that act on this machine instead of on a server.
// The main package connects it to the daemon, the runtime and the templates.
type Local struct {
	// Version of the program, such as v0.1.0.
	Version string
	// Serve runs the server until ctx ends, and returns nil after an orderly
	// stop. What a person must see once, such as the first admin key, goes to
	// stdout.
	Serve func(ctx context.Context, cfg config.Config, log *slog.Logger, stdout io.Writer) error
	// Templates opens the templates of a machine.
	Templates func(cfg config.Config, log *slog.Logger) (Templates, error)
	// Check looks at this machine.
	Check func(ctx context.Context, cfg config.Config) (Report, error)
	// AuditVerify checks the audit log in the data directory; head, if not empty,
	// is a hash that must be in it.
	AuditVerify func(ctx context.Context, cfg config.Config, head string) (agentsandbox.AuditReport, error)
	// Probe makes a sandbox, looks at it from inside and from the host, and
	// destroys it.
	Probe func(ctx context.Context, cfg config.Config, log *slog.Logger) ([]ProbeRow, error)
	// Left lists what servers have on this machine; with end, what belongs to
	// servers that are gone is ended.
	Left func(ctx context.Context, end bool) ([]Left, error)
}

// Templates are the templates of this machine.
type Templates interface {
	List(ctx context.Context) ([]Template, error)
	// Build makes a template by name; it returns at once if nothing has changed.
	// progress is called with a line for people, from one goroutine at a time.
	Build(ctx context.Context, name string, progress func(line string)) (Template, error)
	// Inspect finds a template by its name or digest.
	Inspect(ctx context.Context, name string) (Template, error)
	// Remove deletes a template by its name or digest. One that a server uses
	// is refused.
	Remove(ctx context.Context, name string) error
}

// Template is an image on this machine, and what is in it.
type Template struct {
	Name      string            `json:"name"`
	Digest    string            `json:"digest"`
	Path      string            `json:"path"`
	SizeBytes int64             `json:"size_bytes"`
	BuiltAt   time.Time         `json:"built_at"`
	Inputs    map[string]string `json:"inputs,omitempty"`
	Packages  []Package         `json:"packages,omitempty"`
}

// Package is one package in a template.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Kind    string `json:"kind"` // deb, python
}

// Report says whether a machine can run sandboxes.
type Report struct {
	Findings []Finding `json:"findings"`
	// Protections are the walls around a sandbox that are in force.
	Protections []Finding `json:"protections"`
}

// Finding is one fact about a machine.
type Finding struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	// Required says that no sandbox runs unless OK; the others are advice.
	Required bool   `json:"required"`
	Detail   string `json:"detail"`
	// Remedy says what to do when not OK.
	Remedy string `json:"remedy,omitempty"`
}

// Ready tells whether everything required is there.
func (r Report) Ready() bool {
	for _, f := range r.Findings {
		if f.Required && !f.OK {
			return false
		}
	}
	return true
}

// settings are the flags that come from the table of settings, so that a new
// setting needs no second declaration.
type settings struct {
	Config string       `group:"Configuration:" placeholder:"FILE" env:"AGENTSANDBOX_CONFIG" help:"YAML file with settings; see docs/reference/config.md."`
	Flags  kong.Plugins `embed:""`
}

// prepare makes one flag for each setting named; without names, for all that
// can be flags.
func (s *settings) prepare(names ...string) {
	var fields []reflect.StructField
	for _, setting := range config.Settings() {
		if setting.EnvOnly || len(names) > 0 && !slices.Contains(names, setting.Name) {
			continue
		}
		help := setting.Help
		if values := setting.Values(); values != "" {
			help += " Values: " + values + "."
		}
		if setting.Default != "" {
			help += " Default: " + setting.Default + "."
		} else if setting.DefaultNote != "" {
			help += " Default: " + strings.ReplaceAll(setting.DefaultNote, "`", "") + "."
		}
		tag := "name:" + strconv.Quote(setting.Flag()) + " placeholder:" + strconv.Quote(setting.Example) +
			" group:" + strconv.Quote(setting.Group+":") + " help:" + strconv.Quote(help)
		kind := reflect.TypeFor[*string]() // nil: not given
		if setting.IsList() {
			kind = reflect.TypeFor[[]string]()
			tag += ` sep:"none"`
		}
		fields = append(fields, reflect.StructField{
			Name: "Setting_" + setting.Name,
			Type: kind,
			Tag:  reflect.StructTag(tag),
		})
	}
	s.Flags = kong.Plugins{reflect.New(reflect.StructOf(fields)).Interface()}
}

// given returns the values of the flags that were given, by setting name.
func (s *settings) given() map[string]string {
	values := make(map[string]string)
	for _, plugin := range s.Flags {
		flags := reflect.ValueOf(plugin).Elem()
		for i := range flags.NumField() {
			name := strings.TrimPrefix(flags.Type().Field(i).Name, "Setting_")
			switch v := flags.Field(i).Interface().(type) {
			case *string:
				if v != nil {
					values[name] = *v
				}
			case []string:
				if v != nil {
					values[name] = strings.Join(v, "\n")
				}
			}
		}
	}
	return values
}

// load resolves the configuration.
func (s *settings) load(a *app) (config.Resolved, error) {
	return config.Load(config.Sources{Flags: s.given(), Getenv: a.Getenv, File: s.Config, UID: a.UID})
}

// logger makes the log that a configuration asks for, on standard error.
func (a *app) logger(cfg config.Config) *slog.Logger {
	options := &slog.HandlerOptions{Level: cfg.SlogLevel()}
	if cfg.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(a.Stderr, options))
	}
	return slog.New(slog.NewTextHandler(a.Stderr, options))
}
