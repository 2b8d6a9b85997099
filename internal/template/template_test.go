package template

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/agentsandbox/agentsandbox/internal/template/debian"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestDefault(t *testing.T) {
	def := Default()
	must(t, def.validate(nil))
	for _, name := range []string{"python3", "python3-pip", "bash", "git", "curl", "wget", "jq", "unzip", "zip", "xz-utils", "procps", "file", "sqlite3", "ripgrep", "less", "tree", "tzdata"} {
		if !slices.Contains(def.Packages, name) {
			t.Errorf("the package %s is missing", name)
		}
	}
}

// Every requirement is pinned to one version per Python, or is for another system
// and never installed, and has hashes: pip checks them, this test says so before a
// build.
func TestLock(t *testing.T) {
	lock := string(defaultLock)
	entry := regexp.MustCompile(`(?m)^([a-z0-9-]+)==[^ ;]+( ; (python_full_version [<>=]+ '[0-9.]+'|sys_platform == 'win32'))? \\\n    --hash=sha256:[0-9a-f]{64}`)
	names := map[string]bool{}
	for _, match := range entry.FindAllStringSubmatch(lock, -1) {
		names[match[1]] = true
	}
	for line := range strings.Lines(lock) {
		if line[0] != ' ' && line[0] != '#' && !entry.MatchString(line+"    --hash=sha256:"+strings.Repeat("0", 64)) {
			t.Errorf("not a pinned requirement: %s", line)
		}
	}
	input, err := os.ReadFile("requirements.in")
	must(t, err)
	for _, name := range packageNames(string(input)) {
		name, _, _ = strings.Cut(name, "<")
		if !names[name] {
			t.Errorf("%s is in requirements.in and not in the lock: run lock.sh", name)
		}
	}
	for _, name := range []string{"numpy", "pandas", "matplotlib", "seaborn", "scipy", "scikit-learn", "requests", "beautifulsoup4", "pillow", "openpyxl"} {
		if !names[name] {
			t.Errorf("%s is not in the lock", name)
		}
	}
	if strings.Contains(lock, "://") {
		t.Error("the lock names a server")
	}
}

func TestValidate(t *testing.T) {
	file := func(path string) []File { return []File{{Path: path, Mode: 0o644}} }
	for want, c := range map[string]struct {
		def   Definition
		extra []File
	}{
		"template name":         {def: Definition{Name: "../x"}},
		"name of a Debian":      {def: Definition{Name: "x", Packages: []string{"--hook=evil"}}},
		"python3-pip":           {def: Definition{Name: "x", Lock: []byte("a==1")}},
		"absolute and clean":    {def: Definition{Name: "x"}, extra: file("/usr/../etc/shadow")},
		"\"relative\"":          {def: Definition{Name: "x"}, extra: file("relative")},
		"given twice":           {def: Definition{Name: "x"}, extra: append(file("/a"), file("/a")...)},
		"ca-certificates.crt":   {def: Definition{Name: "x"}, extra: file(debian.CABundle)},
		"more than permissions": {def: Definition{Name: "x"}, extra: []File{{Path: "/a", Mode: 0o755 | os.ModeSetuid}}},
	} {
		if err := c.def.validate(c.extra); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want one with %q", err, want)
		}
	}
}

// Each input changes the key of what is made of it, and of nothing else.
func TestKeys(t *testing.T) {
	release := debian.Release{Codename: "bookworm"}
	def := Definition{Name: "x", Packages: []string{"git", "curl"}, Lock: []byte("a==1")}
	files := []File{{Path: "/a", Mode: 0o644, Data: []byte("a")}}
	keys := func(def Definition, release debian.Release, files []File) (base, image string) {
		base = keyOf(def.baseInputs(release))
		return base, keyOf(def.imageInputs(base, files))
	}
	base, image := keys(def, release, files)

	same := def
	same.Packages = []string{"curl", "git", "curl"}
	if b, i := keys(same, release, files); b != base || i != image {
		t.Error("the order of packages changes a key")
	}
	for name, change := range map[string]func(*Definition, *debian.Release){
		"packages": func(d *Definition, _ *debian.Release) { d.Packages = []string{"git"} },
		"lock":     func(d *Definition, _ *debian.Release) { d.Lock = []byte("a==2") },
		"release":  func(_ *Definition, r *debian.Release) { r.Codename = "trixie" },
	} {
		d, r := def, release
		change(&d, &r)
		if b, i := keys(d, r, files); b == base || i == image {
			t.Errorf("%s: a change does not show in the keys", name)
		}
	}
	for name, other := range map[string][]File{
		"no files": nil,
		"content":  {{Path: "/a", Mode: 0o644, Data: []byte("b")}},
		"mode":     {{Path: "/a", Mode: 0o755, Data: []byte("a")}},
		"path":     {{Path: "/b", Mode: 0o644, Data: []byte("a")}},
	} {
		if b, i := keys(def, release, other); b != base || i == image {
			t.Errorf("%s: a change shows in the base's key, or not in the image's", name)
		}
	}
}

func certificate(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{SerialNumber: big.NewInt(1)}, key.Public(), key)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestReadCABundle(t *testing.T) {
	name := filepath.Join(t.TempDir(), "ca.pem")
	put := func(parts ...[]byte) string {
		must(t, os.WriteFile(name, bytes.Join(parts, nil), 0o600))
		return name
	}
	one, two := certificate(t), certificate(t)
	got, err := readCABundle(put([]byte("# of our company, ask admin@example.test\n"), one, []byte("\n\n"), two))
	must(t, err)
	if !bytes.Equal(got, append(bytes.Clone(one), two...)) {
		t.Errorf("got\n%s", got)
	}
	key := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte("key")})
	for want, file := range map[string]func() string{
		"private key":    func() string { return put(one, key) },
		"no certificate": func() string { return put([]byte("nothing")) },
		"no such file":   func() string { return filepath.Join(t.TempDir(), "none.pem") },
	} {
		if _, err := readCABundle(file()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want one with %q", err, want)
		}
	}
}
