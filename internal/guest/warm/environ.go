package warm

import (
	"slices"
	"strings"
)

// What an interpreter reads of its environment while it starts: a run that sets
// one of these gets an interpreter that was started with it.
var (
	startNames    = []string{"HOME", "TZ", "LANG", "LANGUAGE", "LOCPATH", "GCONV_PATH"}
	startPrefixes = []string{"PYTHON", "LD_", "LC_", "MALLOC_", "GLIBC_"}
)

// readAtStart tells whether an interpreter reads a variable while it starts.
func readAtStart(setting string) bool {
	name, _, _ := strings.Cut(setting, "=")
	return slices.Contains(startNames, name) || hasPrefix(name, startPrefixes)
}

func hasPrefix(name string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// merge adds variables to an environment: each name stands in it once.
func merge(base, add []string) []string {
	merged := base[:len(base):len(base)]
	for _, setting := range add {
		name, _, _ := strings.Cut(setting, "=")
		merged = without(merged, name)
	}
	return append(merged, add...)
}

// lookup finds a variable; the last setting counts.
func lookup(env []string, name string) (string, bool) {
	for _, setting := range slices.Backward(env) {
		if n, value, _ := strings.Cut(setting, "="); n == name {
			return value, true
		}
	}
	return "", false
}

func without(env []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(setting string) bool {
		n, _, _ := strings.Cut(setting, "=")
		return n == name
	})
}
