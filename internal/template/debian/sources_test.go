package debian

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var (
	bookworm = Release{Codename: "bookworm", Version: "12"}
	trixie   = Release{Codename: "trixie", Version: "13"}
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// write makes files below a new directory.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		full := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(full), 0o755))
		must(t, os.WriteFile(full, []byte(content), 0o644))
	}
	return dir
}

const stanzas = `# See the manual.
Types: deb deb-src
URIs: http://mirror.test/debian
Suites: trixie trixie-updates trixie-backports
# A comment inside.
Components: main contrib
 non-free-firmware
Signed-By: /usr/share/keyrings/debian-archive-keyring.pgp

Types: deb
URIs: http://mirror.test/debian-security
Suites: trixie-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.pgp
`

func TestSelectSources(t *testing.T) {
	pgp := "/usr/share/keyrings/debian-archive-keyring.pgp"
	cases := map[string]struct {
		release Release
		files   map[string]string
		want    []string // uri, suites, keyring
	}{
		"deb822": {trixie, map[string]string{"etc/apt/sources.list.d/debian.sources": stanzas}, []string{
			"http://mirror.test/debian trixie,trixie-updates " + pgp,
			"http://mirror.test/debian-security trixie-security " + pgp,
		}},
		"one-line": {bookworm, map[string]string{"etc/apt/sources.list": `
# deb http://old.test/debian bookworm main
deb http://mirror.test/debian bookworm main contrib # the mirror
deb-src http://mirror.test/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.test/debian-security/ bookworm-security main
	deb	http://mirror.test/debian	bookworm-updates	main
deb cdrom:[Debian]/ bookworm contrib
deb http://mirror.test/debian bookworm-backports main
deb http://flat.test/ ./
debug http://mirror.test/debian bookworm main
deb [arch=amd64 http://broken.test/debian bookworm main
`}, []string{
			"http://mirror.test/debian bookworm " + defaultKeyring,
			"http://mirror.test/debian-security/ bookworm-security " + defaultKeyring,
			"http://mirror.test/debian bookworm-updates " + defaultKeyring,
		}},
		"other vendors": {bookworm, map[string]string{
			"etc/apt/sources.list":                                          "deb http://mirror.test/debian bookworm main\n",
			"etc/apt/sources.list.d/browser.list":                           "deb [arch=amd64] https://browser.test/deb/ stable main\n",
			"etc/apt/sources.list.d/docker.list":                            "deb [signed-by=/etc/apt/keyrings/docker.asc] https://docker.test/linux/debian bookworm stable\n",
			"etc/apt/sources.list.d/vendor.list":                            "deb [signed-by=/usr/share/keyrings/vendor.gpg] https://vendor.test bookworm main\n",
			"etc/apt/sources.list.d/sdk.list":                               "deb https://sdk.test/apt cloud-sdk-bookworm main\n",
			"etc/apt/sources.list.d/node.sources":                           "Types: deb\nURIs: https://node.test/node_20.x\nSuites: nodistro\nComponents: main\n",
			"etc/apt/sources.list.d/inline.sources":                         "Types: deb\nURIs: https://inline.test\nSuites: bookworm\nComponents: main\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n",
			"etc/apt/sources.list.d/off.sources":                            "Enabled: no\nTypes: deb\nURIs: https://off.test/debian\nSuites: bookworm\nComponents: main\n",
			"etc/apt/sources.list.d/media.list":                             "deb https://me:secret@media.test/ bookworm main\n",
			"etc/apt/sources.list.d/old.list.save":                          "deb http://saved.test/debian bookworm main\n",
			"var/lib/apt/lists/media.test_dists_bookworm_InRelease":         "-----BEGIN PGP SIGNED MESSAGE-----\nOrigin: Unofficial Media Packages\n",
			"var/lib/apt/lists/mirror.test_debian_dists_bookworm_InRelease": "-----BEGIN PGP SIGNED MESSAGE-----\nOrigin: Debian\n",
		}, []string{"http://mirror.test/debian bookworm " + defaultKeyring}},
		"alias": {bookworm, map[string]string{"etc/apt/sources.list": "deb http://mirror.test/debian stable main\ndeb http://mirror.test/debian-security stable-security main\n"}, []string{
			"http://mirror.test/debian stable " + defaultKeyring,
			"http://mirror.test/debian-security stable-security " + defaultKeyring,
		}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			sources, err := SelectSources(write(t, c.files), c.release)
			must(t, err)
			var got []string
			for _, s := range sources {
				if !slices.Equal(s.Components, []string{"main"}) {
					t.Errorf("components %v, want only main", s.Components)
				}
				got = append(got, strings.Join(s.URIs, ",")+" "+strings.Join(s.Suites, ",")+" "+s.SignedBy)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got\n %s\nwant\n %s", strings.Join(got, "\n "), strings.Join(c.want, "\n "))
			}
		})
	}
}

func TestSelectSourcesNone(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"nothing at all":     {"etc/hostname": "x\n"},
		"another release":    {"etc/apt/sources.list": "deb http://mirror.test/debian bullseye main\n"},
		"only updates":       {"etc/apt/sources.list": "deb http://mirror.test/debian bookworm-updates main\n"},
		"only other vendors": {"etc/apt/sources.list.d/v.list": "deb [signed-by=/v.gpg] http://vendor.test bookworm main\n"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := SelectSources(write(t, files), bookworm)
			if err == nil || !strings.Contains(err.Error(), "no package source of Debian bookworm") {
				t.Errorf("got error %v", err)
			}
		})
	}
}

func TestSourceHidesCredentials(t *testing.T) {
	s := Source{URIs: []string{"https://me:secret@mirror.test/debian"}, Suites: []string{"bookworm"}, Components: []string{"main"}, SignedBy: "/k"}
	if text := s.String(); strings.Contains(text, "secret") || !strings.Contains(text, "mirror.test/debian") {
		t.Errorf("got %s", text)
	}
	if !strings.Contains(s.stanza(), "me:secret@") {
		t.Error("apt would not get the credentials")
	}
}

func TestReadRelease(t *testing.T) {
	read := func(osRelease string) (Release, error) {
		return ReadRelease(write(t, map[string]string{"etc/os-release": osRelease}))
	}
	got, err := read("PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\nID=debian\n")
	if err != nil || got != bookworm {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := read("ID=debian\nVERSION_CODENAME=forky\n"); err != nil || got != (Release{Codename: "forky"}) {
		t.Errorf("testing: got %v, %v", got, err)
	}
	for text, want := range map[string]string{
		"ID=ubuntu\nPRETTY_NAME=\"Ubuntu 24.04 LTS\"\nVERSION_CODENAME=noble\n": "Ubuntu 24.04 LTS",
		"ID=debian\nVERSION_ID=\"11\"\nVERSION_CODENAME=bullseye\n":             "Debian 12 or later",
		"ID=debian\n": "VERSION_CODENAME",
	} {
		if _, err := read(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got error %v, want one with %q", text, err, want)
		}
	}
}

func TestSelectSettings(t *testing.T) {
	dump := "APT::Architecture \"amd64\";\nAcquire::http::Proxy \"http://proxy.test:3128\";\nAcquire::https::CAInfo \"/ca.pem\";\n" +
		"Acquire::Check-Valid-Until \"false\";\nAcquire::Languages:: \"none\";\nAcquire::AllowInsecureRepositories \"1\";\nDPkg::Post-Invoke:: \"rm x\";\n"
	want := "Acquire::http::Proxy \"http://proxy.test:3128\";\nAcquire::https::CAInfo \"/ca.pem\";\nAcquire::Check-Valid-Until \"false\";\n"
	if got := string(selectSettings([]byte(dump))); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
