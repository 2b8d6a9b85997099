package agentsandbox

import (
	"path"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// FuzzNames gives ids, file names and paths to what checks them: whatever
// passes is safe where it goes.
func FuzzNames(f *testing.F) {
	for _, s := range []string{
		NewID(SessionPrefix), "ses_", "ses_../../../../../../../../..", "a.txt", `C:\x\..`, "/workspace/../etc/passwd", "/a\x00b", "/\xff\u202e", "..",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, prefix := range []string{SessionPrefix, ExecutionPrefix, FilePrefix, KeyPrefix} {
			if ValidID(prefix, s) && (len(s) != len(NewID(prefix)) || !strings.HasPrefix(s, prefix) || strings.ContainsAny(s, "/.\\%?# \x00\n")) {
				t.Fatalf("%q is an id", s)
			}
		}
		if name, err := CleanFilename(s); err == nil {
			switch {
			case name == "" || name == "." || name == ".." || len(name) > MaxFilenameBytes || !utf8.ValidString(name),
				strings.ContainsAny(name, "/\\") || strings.ContainsFunc(name, unicode.IsControl):
				t.Fatalf("%q became the file name %q", s, name)
			}
			if again, err := CleanFilename(name); err != nil || again != name {
				t.Fatalf("%q is cleaned again to %q, %v", name, again, err)
			}
		}
		if p, err := CleanPath(s); err == nil {
			if !path.IsAbs(p) || path.Clean(p) != p || strings.Contains(p+"/", "/../") || strings.ContainsRune(p, 0) || len(p) > MaxPathBytes {
				t.Fatalf("%q became the path %q", s, p)
			}
		}
		env := map[string]string{s: s}
		if ValidateEnv(env) == nil && (s == "" || strings.ContainsAny(s, "=\x00")) {
			t.Fatalf("%q is the name of a variable", s)
		}
	})
}
