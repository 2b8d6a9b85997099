package debian

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// bootstrap makes a minimal Debian root with those packages.
func (b *Builder) bootstrap(ctx context.Context, release Release, sources []Source, packages []string) error {
	const step = "install Debian"
	var stanzas []string
	for _, s := range sources {
		if _, err := os.Stat(s.SignedBy); err != nil {
			return fmt.Errorf("the keys of Debian's archive are missing (%w): apt-get install debian-archive-keyring", err)
		}
		stanzas = append(stanzas, s.stanza())
		b.Log.DebugContext(ctx, "package source", "entry", s.String())
	}
	list := filepath.Join(b.Work, "debian.sources")
	if err := os.WriteFile(list, []byte(strings.Join(stanzas, "\n")), 0o600); err != nil {
		return err
	}
	defer os.Remove(list)
	options := filepath.Join(b.Work, "apt.conf")
	settings, err := aptSettings(ctx, b.Host)
	if err != nil {
		return err
	}
	if err := os.WriteFile(options, settings, 0o600); err != nil {
		return err
	}
	defer os.Remove(options)

	argv := []string{"mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory", "--aptopt=" + options}
	for _, rule := range []string{
		"force-unsafe-io", // the tree is worthless after a crash anyway
		"path-exclude=/usr/share/man/*", "path-exclude=/usr/share/info/*", "path-exclude=/usr/share/locale/*",
		"path-exclude=/usr/share/lintian/*", "path-exclude=/usr/share/bug/*",
		"path-exclude=/usr/share/doc/*", "path-include=/usr/share/doc/*/copyright",
	} {
		argv = append(argv, "--dpkgopt="+rule)
	}
	if len(packages) > 0 {
		argv = append(argv, "--include="+strings.Join(packages, ","))
	}
	return b.run(ctx, command{
		step:   step,
		remedy: "Check that apt-get update works on this machine, and that the disk of the cache directory is not full.",
		argv:   append(argv, suiteOf(sources, release), b.tree, list),
		env:    hostEnv(),
	})
}

// suiteOf returns the name under which the sources have the release itself.
func suiteOf(sources []Source, release Release) string {
	for _, s := range sources {
		for _, suite := range s.Suites {
			if suite == release.Codename {
				return suite
			}
		}
	}
	for _, s := range sources {
		for _, suite := range s.Suites {
			if !strings.Contains(suite, "-") {
				return suite
			}
		}
	}
	return release.Codename
}

// aptSettings returns those of the machine's settings of apt that say how its
// package sources are reached. mmdebstrap does not use the machine's settings by
// itself; the file that it makes of these in the tree is removed by scrub.
func aptSettings(ctx context.Context, host string) ([]byte, error) {
	dump, err := exec.CommandContext(ctx, "apt-config", "dump").Output()
	if err != nil {
		return nil, fmt.Errorf("apt-config dump: %w: templates need a machine with a working apt", err)
	}
	settings := selectSettings(dump)
	for option, name := range map[string]string{"Dir::Etc::netrc": "etc/apt/auth.conf", "Dir::Etc::netrcparts": "etc/apt/auth.conf.d"} {
		if path := filepath.Join(host, name); exists(path) {
			settings = fmt.Appendf(settings, "%s %q;\n", option, path)
		}
	}
	return settings, nil
}

func selectSettings(dump []byte) []byte {
	wanted := []string{"Acquire::http::", "Acquire::https::", "Acquire::Retries ", "Acquire::ForceIPv", "Acquire::Check-Valid-Until ", "Acquire::Check-Date "}
	var out []byte
	for line := range bytes.Lines(dump) {
		if slices.ContainsFunc(wanted, func(prefix string) bool { return bytes.HasPrefix(line, []byte(prefix)) }) {
			out = append(out, line...)
		}
	}
	return out
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
