package debian

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/agentsandbox/agentsandbox/internal/roottest"
)

// freshTree is what mmdebstrap may leave, the host's traces included.
func freshTree(t *testing.T) string {
	return write(t, map[string]string{
		"etc/passwd":                              "root:x:0:0:root:/root:/bin/bash\n",
		"etc/group":                               "root:x:0:\n",
		"etc/shadow":                              "root:$6$secret:20412:0:99999:7:::\nbin:*:20412:0:99999:7:::\n",
		"etc/gshadow":                             "root:*::\n",
		"etc/passwd-":                             "root:x:0:0:root:/root:/bin/bash\n",
		"etc/hostname":                            "build-machine\n",
		"etc/machine-id":                          "0123456789abcdef0123456789abcdef\n",
		"etc/apt/sources.list":                    "deb https://me:secret@mirror.test/debian bookworm main\n",
		"etc/apt/sources.list.d/0000.sources":     "URIs: https://me:secret@mirror.test/debian\n",
		"etc/apt/auth.conf.d/mirror.conf":         "machine mirror.test login me password secret\n",
		"etc/apt/apt.conf.d/99mmdebstrap":         "Acquire::http::Proxy \"http://me:secret@proxy.test\";\n",
		"etc/apt/apt.conf.d/70debconf":            "keep\n",
		"etc/ssl/certs/ca-certificates.crt":       "certificates\n",
		"root/.cache/pip/secret":                  "secret\n",
		"tmp/left":                                "secret\n",
		"var/log/apt/history.log":                 "Commandline: secret\n",
		"var/lib/apt/lists/mirror.test_InRelease": "secret\n",
		"var/lib/dpkg/status-old":                 "secret\n",
		"usr/bin/python3":                         "python\n",
		"proc/self":                               "secret\n",
	})
}

func openRoot(t *testing.T, dir string) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(dir)
	must(t, err)
	t.Cleanup(func() { root.Close() })
	return root
}

func TestFinish(t *testing.T) {
	roottest.Need(t, "gives files to other users")
	dir := freshTree(t)
	root := openRoot(t, dir)
	// A link to a file of the host, as some systems have there.
	outside := filepath.Join(t.TempDir(), "resolv.conf")
	must(t, os.WriteFile(outside, []byte("nameserver 192.0.2.1\n"), 0o644))
	must(t, os.Symlink(outside, filepath.Join(dir, "etc/resolv.conf")))

	must(t, furnish(root))
	must(t, scrub(root))
	must(t, checkClean(root))

	if data, err := os.ReadFile(outside); err != nil || string(data) != "nameserver 192.0.2.1\n" {
		t.Errorf("the file behind the link was touched: %q, %v", data, err)
	}
	must(t, filepath.WalkDir(dir, func(name string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(name)
		for _, trace := range []string{"secret", "build-machine", "192.0.2.1", "0123456789abcdef"} {
			if strings.Contains(string(data), trace) {
				t.Errorf("%s still has %q", name, trace)
			}
		}
		return err
	}))
	want := map[string]string{
		"etc/passwd":                   "root:x:0:0:root:/root:/bin/bash\nuser:x:1000:1000:user:/home/user:/bin/bash\n",
		"etc/shadow":                   "root:*:20000:0:99999:7:::\nbin:*:20000:0:99999:7:::\nuser:*:20000:0:99999:7:::\n",
		"etc/hostname":                 "sandbox\n",
		"etc/machine-id":               "",
		"etc/resolv.conf":              "",
		"etc/apt/apt.conf.d/70debconf": "keep\n",
		"usr/bin/python":               "python\n",
	}
	for name, content := range want {
		if data, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(data) != content {
			t.Errorf("%s: %q, %v; want %q", name, data, err, content)
		}
	}
	for _, name := range []string{"home/user", "workspace", "output"} {
		info, err := os.Stat(filepath.Join(dir, name))
		must(t, err)
		if uid := info.Sys().(*syscall.Stat_t).Uid; uid != UserID {
			t.Errorf("%s belongs to %d", name, uid)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "tmp")); err != nil || info.Mode() != os.ModeDir|os.ModeSticky|0o777 {
		t.Errorf("tmp: %v, %v", info.Mode(), err)
	}
}

func TestCheckCleanFindsTraces(t *testing.T) {
	roottest.Need(t, "gives files to other users")
	for name, content := range map[string]string{
		"etc/resolv.conf":                     "nameserver 192.0.2.1\n",
		"etc/hostname":                        "build-machine\n",
		"etc/apt/sources.list":                "deb http://mirror.test/debian bookworm main\n",
		"etc/apt/sources.list.d/d.sources":    "URIs: http://mirror.test\n",
		"root/.netrc":                         "machine mirror.test\n",
		"home/user/.netrc":                    "machine mirror.test\n",
		"home/user/.config/pip/pip.conf":      "[global]\n",
		"etc/pip.conf":                        "[global]\nindex-url = https://me:secret@index.test\n",
		"var/lib/apt/lists/mirror_InRelease":  "x\n",
		"usr/share/ca-certificates/local.crt": "x\n",
	} {
		t.Run(name, func(t *testing.T) {
			dir := freshTree(t)
			root := openRoot(t, dir)
			must(t, furnish(root))
			must(t, scrub(root))
			full := filepath.Join(dir, name)
			must(t, os.MkdirAll(filepath.Dir(full), 0o755))
			must(t, os.WriteFile(full, []byte(content), 0o644))
			if err := checkClean(root); err == nil {
				t.Error("not found")
			}
		})
	}
}

func TestAddUserRefusesTakenNames(t *testing.T) {
	for want, passwd := range map[string]string{
		"gives the id 1000 to debian": "debian:x:1000:1000::/home/debian:/bin/bash\n",
		"has one named user":          "user:x:1001:1001::/home/user:/bin/bash\n",
	} {
		root := openRoot(t, write(t, map[string]string{"etc/passwd": passwd, "etc/group": "", "etc/shadow": "", "etc/gshadow": ""}))
		if err := addUser(root); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want one with %q", err, want)
		}
	}
}

func TestInstalled(t *testing.T) {
	root := openRoot(t, write(t, map[string]string{
		"var/lib/dpkg/status": "Package: zip\nStatus: install ok installed\nVersion: 3.0-13\nDescription: archiver\n text: more\n\n" +
			"Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\nPackage: bash\nStatus: install ok installed\nVersion: 5.2\n",
		"usr/local/lib/python3.11/dist-packages/numpy-2.4.dist-info/METADATA": "Metadata-Version: 2.4\nName: NumPy\nVersion: 2.4\n\nVersion: 9\n",
	}))
	got, err := installed(root)
	must(t, err)
	want := []Package{{"bash", "5.2", "deb"}, {"zip", "3.0-13", "deb"}, {"numpy", "2.4", "python"}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
