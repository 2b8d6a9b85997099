package debian

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
)

// makeLocale compiles the one locale that programs ask for beside C.UTF-8, which
// libc brings along. (All of them would cost 230 MB, this one 3.)
func (b *Builder) makeLocale(ctx context.Context) error {
	if _, err := b.root.Stat("usr/share/i18n/locales/en_US"); err != nil {
		return nil //nolint:nilerr // the package locales was not asked for
	}
	return b.run(ctx, command{
		step:   "make the locale",
		argv:   []string{"/usr/bin/localedef", "--inputfile=en_US", "--charmap=UTF-8", "en_US.UTF-8"},
		env:    treeEnv(),
		inTree: true,
	})
}

// emptied are directories whose contents go; removed are files that go. They
// come from the host, name it, change from build to build, or are of no use
// without root. Patterns are those of path.Match.
var (
	emptied = []string{
		"etc/apt/sources.list.d", "etc/apt/auth.conf.d", "etc/apt/keyrings", "etc/apt/preferences.d", "etc/apt/trusted.gpg.d",
		"etc/ssl/certs", "etc/ssl/private", "etc/skel",
		"usr/local/share/ca-certificates", "usr/local/share/man", "usr/share/ca-certificates",
		"usr/share/i18n", "usr/share/info", "usr/share/lintian", "usr/share/locale", "usr/share/man",
		"var/cache/apt", "var/cache/debconf", "var/cache/ldconfig", "var/lib/apt/lists", "var/log",
		"boot", "dev", "media", "mnt", "proc", "root", "run", "sys", "tmp", "var/tmp",
	}
	removed = []string{
		"etc/apt/sources.list", "etc/apt/auth.conf", "etc/apt/trusted.gpg", "etc/apt/apt.conf", "etc/apt/apt.conf.d/*mmdebstrap*",
		"etc/dpkg/dpkg.cfg.d/*mmdebstrap*", "etc/ca-certificates.conf",
		"etc/passwd-", "etc/shadow-", "etc/group-", "etc/gshadow-", "etc/.pwd.lock", "etc/subuid*", "etc/subgid*",
		"var/lib/dpkg/*-old", "var/lib/systemd/random-seed", "etc/ssh/ssh_host_*",
	}
)

// scrub removes from a finished tree what does not belong into an image.
func scrub(root *os.Root) error {
	for _, dir := range emptied {
		entries, err := fs.ReadDir(root.FS(), dir)
		if err != nil {
			continue // not there, or not a directory: nothing to empty
		}
		for _, entry := range entries {
			if err := root.RemoveAll(path.Join(dir, entry.Name())); err != nil {
				return fmt.Errorf("empty %s in the tree: %w", dir, err)
			}
		}
	}
	for _, pattern := range removed {
		if err := eachMatch(root, pattern, root.Remove); err != nil {
			return err
		}
	}
	return nil
}

const (
	hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	// pipConf is for every pip, those of virtual environments included.
	pipConf = "[global]\ncert = " + CABundle + "\ndisable-pip-version-check = true\n"
	// shadowDay stands for the day of the last change of a password.
	shadowDay = "20000"
)

// furnish adds what a sandbox needs beside packages: its user, its directories,
// and small files with values that are the same in every image.
func furnish(root *os.Root) error {
	if err := addUser(root); err != nil {
		return err
	}
	files := map[string]string{
		"etc/hostname":       "sandbox\n",
		"etc/hosts":          hosts,
		"etc/machine-id":     "",
		"etc/resolv.conf":    "",
		"etc/timezone":       "Etc/UTC\n",
		"etc/default/locale": "LANG=C.UTF-8\n",
		"etc/pip.conf":       pipConf,
	}
	for name, content := range files {
		if err := put(root, name, []byte(content), 0o644); err != nil {
			return err
		}
	}
	links := map[string]string{
		"etc/localtime":           "/usr/share/zoneinfo/Etc/UTC",
		"etc/mtab":                "/proc/self/mounts",
		"usr/bin/python":          "python3",
		"usr/lib/ssl/cert.pem":    CABundle,
		"var/lib/dbus/machine-id": "/etc/machine-id",
	}
	for name, target := range links {
		if err := link(root, target, name); err != nil {
			return err
		}
	}
	for _, dir := range []string{"home/user", "home/user/.cache", "workspace", "output"} {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := root.Chown(dir, UserID, UserID); err != nil {
			return err
		}
	}
	for dir, mode := range map[string]fs.FileMode{"tmp": 0o777 | fs.ModeSticky, "var/tmp": 0o777 | fs.ModeSticky, "root": 0o700, "run": 0o755} {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := root.Chmod(dir, mode); err != nil {
			return err
		}
	}
	return nil
}

// addUser adds the sandbox's user and makes the rest of the account files the
// same in every build. Nobody can log in by a password.
func addUser(root *os.Root) error {
	added := map[string]string{
		"etc/passwd":  fmt.Sprintf("user:x:%d:%d:user:/home/user:/bin/bash", UserID, UserID),
		"etc/group":   fmt.Sprintf("user:x:%d:", UserID),
		"etc/shadow":  "user:*:" + shadowDay + ":0:99999:7:::",
		"etc/gshadow": "user:!::",
	}
	for name, line := range added {
		data, err := root.ReadFile(name)
		if err != nil {
			return fmt.Errorf("add the user: %w", err)
		}
		info, err := root.Stat(name)
		if err != nil {
			return fmt.Errorf("add the user: %w", err)
		}
		var out strings.Builder
		for old := range strings.Lines(string(data)) {
			fields := strings.Split(strings.TrimSpace(old), ":")
			if fields[0] == "user" {
				return fmt.Errorf("add the user: %s has one named user already", name)
			}
			if name != "etc/gshadow" && name != "etc/shadow" && len(fields) > 2 && fields[2] == fmt.Sprint(UserID) {
				return fmt.Errorf("add the user: %s gives the id %d to %s already", name, UserID, fields[0])
			}
			if name == "etc/shadow" && len(fields) > 2 {
				fields[1], fields[2] = "*", shadowDay
			}
			out.WriteString(strings.Join(fields, ":") + "\n")
		}
		out.WriteString(line + "\n")
		if err := root.WriteFile(name, []byte(out.String()), info.Mode().Perm()); err != nil {
			return fmt.Errorf("add the user: %w", err)
		}
	}
	return nil
}

// checkClean makes sure, at the very end, that nothing of the host is in the
// tree, and that what sandboxes rely on is.
func checkClean(root *os.Root) error {
	for _, dir := range emptied {
		if entries, err := fs.ReadDir(root.FS(), dir); err == nil && len(entries) > 0 {
			return fmt.Errorf("the tree is not clean: %s has %d entries, the first is %s", dir, len(entries), entries[0].Name())
		}
	}
	for _, pattern := range append([]string{"home/user/.netrc", "home/user/.config/*", "home/user/.cache/pip"}, removed...) {
		err := eachMatch(root, pattern, func(string) error { return fmt.Errorf("does not belong into the tree") })
		if err != nil {
			return err
		}
	}
	for name, content := range map[string]string{"etc/resolv.conf": "", "etc/hostname": "sandbox\n", "etc/hosts": hosts, "etc/machine-id": "", "etc/pip.conf": pipConf} {
		data, err := root.ReadFile(name)
		if err != nil {
			return fmt.Errorf("the tree is not clean: %w", err)
		}
		if string(data) != content {
			return fmt.Errorf("the tree is not clean: %s was changed after it was written", name)
		}
	}
	return nil
}
