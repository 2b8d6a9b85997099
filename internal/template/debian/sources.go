package debian

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// defaultKeyring has the keys of Debian's archive (package
// debian-archive-keyring).
const defaultKeyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// Source is one entry of a machine's package sources, for binary packages.
type Source struct {
	URIs       []string
	Suites     []string
	Components []string
	SignedBy   string // path of a keyring; empty if the entry names none
}

// String gives the entry in the deb822 format, without credentials: for logs.
func (s Source) String() string { return redact(s.stanza()) }

func (s Source) stanza() string {
	return fmt.Sprintf("Types: deb\nURIs: %s\nSuites: %s\nComponents: %s\nSigned-By: %s\n",
		strings.Join(s.URIs, " "), strings.Join(s.Suites, " "), strings.Join(s.Components, " "), s.SignedBy)
}

// SelectSources reads the package sources of the machine below the directory
// host and returns those that are Debian's own of that release, reduced to the
// component main. Whatever else the machine uses (other vendors' repositories,
// backports, source packages) is left out. Every entry is verified by Debian's
// keys, whatever the machine trusts besides.
func SelectSources(host string, release Release) ([]Source, error) {
	all, err := readSources(filepath.Join(host, "etc/apt"))
	if err != nil {
		return nil, err
	}
	lists := filepath.Join(host, "var/lib/apt/lists")
	// An alias such as "stable" is used only where no entry has the codename:
	// on a machine that has both, it is another vendor's.
	for _, names := range [][]string{{release.Codename}, {"stable", "oldstable", "testing", "unstable", "sid"}} {
		var chosen []Source
		complete := false
		for _, s := range all {
			if s, ok := debianOnly(s, names, lists); ok {
				chosen = append(chosen, s)
				complete = complete || slices.ContainsFunc(s.Suites, func(suite string) bool { return slices.Contains(names, suite) })
			}
		}
		if complete {
			return chosen, nil
		}
	}
	return nil, fmt.Errorf("no package source of Debian %s with the component main stands in /etc/apt/sources.list or /etc/apt/sources.list.d: add Debian's own entry, signed by %s", release.Codename, defaultKeyring)
}

// debianOnly reduces an entry to the suites of a release, and tells whether
// anything of Debian's is left.
func debianOnly(s Source, names []string, lists string) (Source, bool) {
	if !slices.Contains(s.Components, "main") {
		return s, false
	}
	if s.SignedBy == "" {
		s.SignedBy = defaultKeyring
	} else if !strings.HasPrefix(filepath.Base(s.SignedBy), "debian-archive-") {
		return s, false
	}
	s.Components = []string{"main"}
	s.Suites = slices.DeleteFunc(slices.Clone(s.Suites), func(suite string) bool {
		return !slices.ContainsFunc(names, func(name string) bool {
			return suite == name || suite == name+"-updates" || suite == name+"-security"
		})
	})
	s.URIs = slices.DeleteFunc(slices.Clone(s.URIs), func(uri string) bool {
		return slices.ContainsFunc(s.Suites, func(suite string) bool { return foreign(lists, uri, suite) })
	})
	return s, len(s.Suites) > 0 && len(s.URIs) > 0
}

// foreign tells whether the machine's apt has seen that a repository is not
// Debian's. A repository it has not fetched yet is not foreign: the signature
// decides.
func foreign(lists, uri, suite string) bool {
	_, rest, ok := strings.Cut(uri, "://")
	if !ok {
		return false
	}
	if _, after, ok := strings.Cut(rest, "@"); ok {
		rest = after
	}
	name := strings.ReplaceAll(strings.TrimRight(rest, "/")+"/dists/"+suite, "/", "_")
	for _, index := range []string{"_InRelease", "_Release"} {
		data, err := os.ReadFile(filepath.Join(lists, name+index))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			if origin, ok := strings.CutPrefix(line, "Origin:"); ok {
				return strings.TrimSpace(origin) != "Debian"
			}
		}
	}
	return false
}

// readSources reads sources.list and sources.list.d of a configuration
// directory of apt.
func readSources(dir string) ([]Source, error) {
	names, err := filepath.Glob(filepath.Join(dir, "sources.list.d", "*"))
	if err != nil {
		return nil, err
	}
	var all []Source
	for _, name := range append([]string{filepath.Join(dir, "sources.list")}, names...) {
		parse := parseLines
		switch filepath.Ext(name) {
		case ".list":
		case ".sources":
			parse = parseStanzas
		default:
			continue // as apt does
		}
		data, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, parse(string(data))...)
	}
	return all, nil
}

// parseLines reads the one-line format: deb [option=value …] uri suite
// component …
func parseLines(text string) []Source {
	var all []Source
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb")
		if !ok || strings.TrimLeft(rest, " \t[") == rest {
			continue
		}
		var s Source
		rest = strings.TrimSpace(rest)
		if inner, ok := strings.CutPrefix(rest, "["); ok {
			options, after, closed := strings.Cut(inner, "]")
			if !closed {
				continue
			}
			for option := range strings.FieldsSeq(options) {
				if key, value, _ := strings.Cut(option, "="); strings.EqualFold(key, "signed-by") {
					s.SignedBy = value
				}
			}
			rest = after
		}
		if fields := strings.Fields(rest); len(fields) >= 3 {
			s.URIs, s.Suites, s.Components = fields[:1], fields[1:2], fields[2:]
			all = append(all, s)
		}
	}
	return all
}

// parseStanzas reads the deb822 format: paragraphs of "Field: value", which go
// on in lines that begin with a space.
func parseStanzas(text string) []Source {
	var all []Source
	fields := map[string]string{}
	flush := func() {
		enabled := strings.ToLower(fields["enabled"])
		if slices.Contains(strings.Fields(fields["types"]), "deb") && enabled != "no" && enabled != "false" {
			all = append(all, Source{
				URIs:       strings.Fields(fields["uris"]),
				Suites:     strings.Fields(fields["suites"]),
				Components: strings.Fields(fields["components"]),
				SignedBy:   fields["signed-by"],
			})
		}
		clear(fields)
	}
	last := ""
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			flush()
		case line[0] == ' ' || line[0] == '\t':
			fields[last] = strings.TrimSpace(fields[last] + " " + strings.TrimSpace(line))
		default:
			key, value, _ := strings.Cut(line, ":")
			last = strings.ToLower(strings.TrimSpace(key))
			fields[last] = strings.TrimSpace(value)
		}
	}
	flush()
	return all
}
