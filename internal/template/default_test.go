package template

import (
	"bytes"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	reader "github.com/erofs/go-erofs"

	"github.com/agentsandbox/agentsandbox/internal/template/debian"
)

// imageVariable names the image of the default template that make setup built.
// This test uses the cache that it is in, where the base is ready, so that it
// takes seconds.
const imageVariable = "AGENTSANDBOX_TEST_IMAGE"

// TestDefaultTemplate builds the default template for real and looks at what is
// in it. That it works is shown by the end-to-end suite, in sandboxes.
func TestDefaultTemplate(t *testing.T) {
	if testing.Short() {
		t.Skip("it needs root and the default template: make test")
	}
	name := os.Getenv(imageVariable)
	if name == "" {
		t.Fatalf("set %s to the path of the default template's image (agentsandbox templates inspect default); make test does so", imageVariable)
	}
	c, err := NewCache(filepath.Dir(filepath.Dir(filepath.Dir(name))), slog.New(slog.NewTextHandler(t.Output(), nil)))
	must(t, err)
	def := Default()
	def.Name = "build-test" // so that nobody takes it for the real one
	step := ""
	image, err := c.Build(t.Context(), def, []File{{Path: "/usr/lib/agentsandbox/agent", Mode: 0o755, Data: []byte("agent")}}, func(s Step) {
		if s.Name != step {
			step = s.Name
			t.Log(step)
		}
	})
	must(t, err)
	t.Logf("%d MB in %d ms", image.SizeBytes>>20, image.BuildTimeMS)
	// Only the image: its base is the default template's.
	defer func() { must(t, c.remove(t.Context(), "images", image, nil)) }()
	file, err := os.Open(image.Path)
	must(t, err)
	defer file.Close()
	fsys, err := reader.Open(file)
	must(t, err)

	t.Run("entries", func(t *testing.T) { checkEntries(t, fsys) })
	t.Run("account", func(t *testing.T) { checkAccount(t, fsys) })
	t.Run("libraries", func(t *testing.T) { checkLibraries(t, fsys, image) })
	t.Run("host", func(t *testing.T) { checkNothingOfHost(t, fsys) })
}

// checkEntries looks at every entry: nothing may give rights, be a device, or be
// inline, and nothing but its own directories belongs to the user.
func checkEntries(t *testing.T, fsys fs.FS) {
	count := 0
	must(t, fs.WalkDir(fsys, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		count++
		stat := info.Sys().(*reader.Stat)
		if stat.Mode&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeDevice|fs.ModeSocket|fs.ModeNamedPipe) != 0 {
			t.Errorf("%s: mode %v", name, stat.Mode)
		}
		if stat.Mode.IsRegular() && stat.Size > 0 && stat.InodeLayout != 0 {
			t.Errorf("%s: layout %d cannot be mapped", name, stat.InodeLayout)
		}
		first, _, _ := strings.Cut(name, "/")
		if mine := slices.Contains([]string{"workspace", "output"}, first) || strings.HasPrefix(name, "home/user"); mine != (stat.UID == debian.UserID) {
			t.Errorf("%s: belongs to %d", name, stat.UID)
		}
		if stat.Mode.IsDir() && stat.UID == 0 && stat.Mode.Perm()&0o002 != 0 && stat.Mode&fs.ModeSticky == 0 {
			t.Errorf("%s: anybody can write: %v", name, stat.Mode)
		}
		if stat.Mode.IsRegular() && stat.UID != debian.UserID && stat.Mode.Perm()&0o002 != 0 {
			t.Errorf("%s: anybody can write: %v", name, stat.Mode)
		}
		return nil
	}))
	if count < 5000 {
		t.Errorf("the image has %d entries", count)
	}
	for _, name := range []string{"bash", "git", "curl", "wget", "jq", "unzip", "zip", "xz", "ps", "file", "sqlite3", "rg", "less", "tree", "gcc", "make", "python", "python3", "pip"} {
		if info, err := fs.Stat(fsys, "usr/bin/"+name); err != nil || info.Mode()&0o111 == 0 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	for _, name := range []string{"usr/share/zoneinfo/Europe/Berlin", "usr/lib/locale/C.utf8/LC_CTYPE", "usr/lib/locale/locale-archive", "usr/lib/agentsandbox/agent"} {
		if _, err := fs.Stat(fsys, name); err != nil {
			t.Error(err)
		}
	}
}

func checkAccount(t *testing.T, fsys fs.FS) {
	for name, want := range map[string]string{
		"etc/passwd":      "\nuser:x:1000:1000:user:/home/user:/bin/bash\n",
		"etc/group":       "\nuser:x:1000:\n",
		"etc/hostname":    "sandbox\n",
		"etc/hosts":       "127.0.0.1\tlocalhost\n",
		"etc/resolv.conf": "",
		"etc/machine-id":  "",
	} {
		data, err := fs.ReadFile(fsys, name)
		if err != nil || !strings.Contains(string(data), want) || want == "" && len(data) > 0 {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
	if password := regexp.MustCompile(`(?m)^[^:]+:[^*!]`).Find(read(t, fsys, "etc/shadow")); password != nil {
		t.Errorf("etc/shadow has a password: %s", password)
	}
}

func checkLibraries(t *testing.T, fsys fs.FS, image Image) {
	for _, name := range []string{
		"numpy", "pandas", "matplotlib", "seaborn", "scipy", "scikit-learn", "statsmodels", "sympy", "pyarrow", "plotly",
		"requests", "beautifulsoup4", "lxml", "pyyaml", "jinja2", "pillow", "openpyxl", "python-docx", "tabulate", "tqdm",
	} {
		if !slices.ContainsFunc(image.Packages, func(p Package) bool { return p.Kind == "python" && p.Name == name && p.Version != "" }) {
			t.Errorf("%s is not installed", name)
		}
	}
	libraries := glob(t, fsys, "usr/local/lib/python3*/dist-packages")[0]
	for _, pattern := range []string{
		libraries + "/pandas/__pycache__/__init__.*.pyc",
		"usr/lib/python3.*/__pycache__/os.*.pyc",
		strings.TrimPrefix(debian.FontCache, "/") + "/fontlist-*.json",
	} {
		for _, name := range glob(t, fsys, pattern) {
			// Byte code says in its second word that it is not to be checked.
			if data := read(t, fsys, name); strings.HasSuffix(name, ".pyc") && (data[4] != 1 || bytes.Contains(data, []byte("/tmp/"))) {
				t.Errorf("%s: flags %d, or a path of the build", name, data[4])
			}
		}
	}
	for name, want := range map[string]string{
		libraries + "/matplotlib/mpl-data/matplotlibrc":                       "\nbackend: module://agentsandbox_figures\nfont.family: sans-serif, WenQuanYi Zen Hei\n",
		libraries + "/agentsandbox_figures.py":                                "class FigureCanvas",
		glob(t, fsys, strings.TrimPrefix(debian.FontCache, "/")+"/*.json")[0]: `"name": "WenQuanYi Zen Hei", "style": "normal", "variant": "normal", "weight": 400`,
	} {
		if data := read(t, fsys, name); strings.Count(string(data), want) != 1 {
			t.Errorf("%s does not have %q once", name, want)
		}
	}
	if left, err := fs.Glob(fsys, "usr/lib/python3*/EXTERNALLY-MANAGED"); err != nil || len(left) > 0 {
		t.Errorf("pip would refuse to install: %v, %v", left, err)
	}
	bundle := read(t, fsys, strings.TrimPrefix(debian.CABundle, "/"))
	if !bytes.Equal(read(t, fsys, libraries+"/certifi/cacert.pem"), bundle) || !bytes.Equal(read(t, fsys, "usr/lib/ssl/cert.pem"), bundle) {
		t.Error("requests or OpenSSL trust other authorities than the bundle's")
	}
}

// checkNothingOfHost looks for this machine's name, name servers and package
// sources in the image's configuration and home directories.
func checkNothingOfHost(t *testing.T, fsys fs.FS) {
	var traces []string
	if host, err := os.Hostname(); err == nil && len(host) > 5 {
		traces = append(traces, host)
	}
	for _, name := range []string{"/etc/resolv.conf", "/etc/machine-id"} {
		data, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		for _, field := range strings.Fields(string(data)) {
			if len(field) > 6 && !strings.HasPrefix(field, "127.") && field != "nameserver" && field != "options" && field != "search" {
				traces = append(traces, field)
			}
		}
	}
	release, err := debian.ReadRelease("/")
	must(t, err)
	sources, err := debian.SelectSources("/", release)
	must(t, err)
	for _, s := range sources {
		traces = append(traces, s.URIs...)
	}
	for _, dir := range []string{"etc", "home", "root", "var/lib/apt", "var/log"} {
		must(t, fs.WalkDir(fsys, dir, func(name string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			data := read(t, fsys, name)
			for _, trace := range traces {
				if bytes.Contains(data, []byte(trace)) {
					t.Errorf("%s has %q", name, trace)
				}
			}
			if base := path.Base(name); slices.Contains([]string{".netrc", "auth.conf", "id_rsa", "credentials"}, base) {
				t.Errorf("%s is in the image", name)
			}
			return nil
		}))
	}
}

func read(t *testing.T, fsys fs.FS, name string) []byte {
	t.Helper()
	data, err := fs.ReadFile(fsys, name)
	must(t, err)
	return data
}

func glob(t *testing.T, fsys fs.FS, pattern string) []string {
	t.Helper()
	names, err := fs.Glob(fsys, pattern)
	must(t, err)
	if len(names) == 0 {
		t.Fatalf("the image has no %s", pattern)
	}
	return names
}
