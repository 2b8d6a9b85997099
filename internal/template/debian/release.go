package debian

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// oldest is the first Debian release whose Python the built-in lock file fits.
const oldest = 12

// Release is the version of Debian that a machine runs.
type Release struct {
	Codename string // such as "bookworm"
	Version  string // such as "12"; empty for testing and unstable
}

// ReadRelease reads etc/os-release below the directory host. The error says so
// if the machine does not run a Debian that can be used.
func ReadRelease(host string) (Release, error) {
	data, err := os.ReadFile(filepath.Join(host, "etc/os-release"))
	if err != nil {
		return Release{}, fmt.Errorf("cannot tell which system this machine runs: %w", err)
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			fields[key] = strings.Trim(value, `"'`)
		}
	}
	if fields["ID"] != "debian" {
		return Release{}, fmt.Errorf("this machine runs %q, and a template is built from a Debian machine's own package sources: use a machine with Debian 12 or 13", fields["PRETTY_NAME"])
	}
	r := Release{Codename: fields["VERSION_CODENAME"], Version: fields["VERSION_ID"]}
	if r.Codename == "" {
		return Release{}, errors.New("etc/os-release names no VERSION_CODENAME: reinstall the package base-files")
	}
	if r.Version != "" {
		if n, err := strconv.Atoi(r.Version); err != nil || n < oldest {
			return Release{}, fmt.Errorf("this machine runs Debian %s, and templates need Debian %d or later", r.Version, oldest)
		}
	}
	return r, nil
}
