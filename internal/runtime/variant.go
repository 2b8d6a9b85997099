package runtime

import (
	"regexp"
	"strings"

	"github.com/agentsandbox/agentsandbox"
)

// Variant says what the interpreter that waits in a fresh sandbox has loaded.
// Code cannot tell the variants of a template apart but by their speed.
type Variant string

const (
	// Bare is an interpreter that has loaded nothing.
	Bare Variant = ""
	// DataLibraries is one with the modules that data analysis begins with.
	DataLibraries Variant = "data"
)

// Modules are what the variant's interpreter loads ahead.
func (v Variant) Modules() []string {
	if v == DataLibraries {
		return []string{"numpy", "pandas", "matplotlib.pyplot"}
	}
	return nil
}

// dataPackages are those whose import begins with that of the data libraries.
var dataPackages = map[string]bool{
	"numpy": true, "pandas": true, "matplotlib": true,
	"seaborn": true, "scipy": true, "sklearn": true, "statsmodels": true,
}

// unsuited finds code that may change what an import finds: packages that it
// installs, another search path, other import hooks. Modules that were loaded
// ahead would be of no use to it.
var unsuited = regexp.MustCompile(`\bpip\b|\bensurepip\b|\bsys\.(path|modules|meta_path|path_hooks)\b|\baddsitedir\b|\breload\b`)

// VariantFor chooses the variant in which code runs soonest. It looks at the
// lines that import something, not at what they mean: a wrong choice costs time
// and nothing else.
func VariantFor(language agentsandbox.Language, code string) Variant {
	if language != agentsandbox.Python || !strings.Contains(code, "import") {
		return Bare
	}
	for line := range strings.Lines(code) {
		for statement := range strings.SplitSeq(line, ";") {
			if importsData(statement) {
				if unsuited.MatchString(code) {
					return Bare
				}
				return DataLibraries
			}
		}
	}
	return Bare
}

// importsData tells whether a statement imports one of dataPackages.
func importsData(statement string) bool {
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
		if dataPackages[top] {
			return true
		}
	}
	return false
}
