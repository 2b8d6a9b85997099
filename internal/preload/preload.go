// Package preload knows sets of modules that a Python interpreter can have loaded
// before code comes, and finds the set that a piece of code has use of.
//
// The sets are data of a template. The package looks at the text of code and at
// nothing else: it loads nothing, and knows neither sandboxes nor snapshots. It
// cannot fail. A wrong choice costs time, and code runs the same.
package preload

import (
	"regexp"
	"slices"
	"strings"

	"github.com/agentsandbox/agentsandbox"
)

// Set is a set of Python modules that are loaded together.
type Set struct {
	// Name tells the sets of a template apart: letters, digits and "-".
	Name string
	// Modules are what the interpreter loads, in this order, as far as they are
	// installed.
	Modules []string
	// Packages are the top-level packages whose import takes less time when the
	// modules are loaded.
	Packages []string
	// MinMemoryBytes is the least memory limit with which a sandbox has the set
	// loaded.
	MinMemoryBytes int64
	// IdleBytes is the memory that a sandbox takes which has the set loaded and
	// does nothing.
	IdleBytes int64
}

// unsuited finds code that may change what an import finds: packages that it
// installs, another search path, other import hooks. Modules that were loaded
// ahead would be of no use to it.
var unsuited = regexp.MustCompile(`\bpip\b|\bensurepip\b|\bsys\.(path|modules|meta_path|path_hooks)\b|\baddsitedir\b|\breload\b`)

// Helps tells whether code starts sooner where the set is loaded. It looks at the
// lines that import something, not at what they mean.
func (s Set) Helps(language agentsandbox.Language, code string) bool {
	if language != agentsandbox.Python || !strings.Contains(code, "import") {
		return false
	}
	for line := range strings.Lines(code) {
		for statement := range strings.SplitSeq(line, ";") {
			if s.importedBy(statement) {
				return !unsuited.MatchString(code)
			}
		}
	}
	return false
}

// importedBy tells whether a statement imports one of the set's packages.
func (s Set) importedBy(statement string) bool {
	statement = strings.TrimSpace(statement)
	names, ok := strings.CutPrefix(statement, "import ")
	if !ok {
		if names, ok = strings.CutPrefix(statement, "from "); !ok {
			return false
		}
		names, _, _ = strings.Cut(strings.TrimSpace(names), " ")
	}
	for name := range strings.SplitSeq(names, ",") {
		top, _, _ := strings.Cut(strings.TrimSpace(name), ".")
		top, _, _ = strings.Cut(top, " ")
		if slices.Contains(s.Packages, top) {
			return true
		}
	}
	return false
}
