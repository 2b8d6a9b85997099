package debian

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// installed lists what is in a tree: Debian's packages, and the Python libraries
// beside them.
func installed(root *os.Root) ([]Package, error) {
	status, err := root.ReadFile("var/lib/dpkg/status")
	if err != nil {
		return nil, fmt.Errorf("list the packages: %w", err)
	}
	var all []Package
	for paragraph := range strings.SplitSeq(string(status), "\n\n") {
		fields := header(paragraph)
		if fields["Status"] == "install ok installed" {
			all = append(all, Package{Name: fields["Package"], Version: fields["Version"], Kind: "deb"})
		}
	}
	err = eachMatch(root, "usr/local/lib/python3*/dist-packages/*.dist-info", func(dir string) error {
		data, err := fs.ReadFile(root.FS(), path.Join(dir, "METADATA"))
		if err != nil {
			return err
		}
		fields := header(string(data))
		all = append(all, Package{Name: strings.ToLower(fields["Name"]), Version: fields["Version"], Kind: "python"})
		return nil
	})
	slices.SortFunc(all, func(a, b Package) int {
		return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.Name, b.Name))
	})
	return all, err
}

// header reads "Field: value" lines up to the first empty one. Continued lines
// are left out.
func header(text string) map[string]string {
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			break
		}
		if key, value, ok := strings.Cut(line, ": "); ok && line[0] != ' ' {
			if _, seen := fields[key]; !seen {
				fields[key] = value
			}
		}
	}
	return fields
}
