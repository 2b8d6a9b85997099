// Package template builds the images that sandboxes start from and keeps them in
// a cache directory that all servers of a machine share.
//
// An image is made in two layers. The base, a Debian tree with Python libraries,
// takes a minute or more; the image, the base with a few files on top (the guest
// agent, certificate authorities), takes seconds. Each is kept under the digest
// of everything that went into it, so it is made once and only when its inputs
// change. What is in the cache can be deleted at any time with [Cache.Remove].
//
// A template also has names for its snapshots and says what each has loaded ahead.
//
// The package owns the cache directory's bases, images, locks and tmp. It knows
// nothing of gVisor, of how snapshots are made, or of the guest's protocol. A build writes to a
// temporary directory and renames it at the end, so a failed or interrupted one
// leaves only that, and the next build removes it. Two builds of one image at
// once, in one process or several, share one result: the second waits.
package template

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/agentsandbox/agentsandbox/internal/preload"
	"github.com/agentsandbox/agentsandbox/internal/template/debian"
)

// DefaultName is the name of the built-in template.
const DefaultName = "default"

// hostCABundle is where Debian keeps the machine's certificate authorities.
const hostCABundle = "/etc/ssl/certs/ca-certificates.crt"

// recipe counts the ways in which this package made bases and images from the
// same inputs. Raise it with every change that shows in what is built.
const recipe = 2

// buildUnix is the time of every file of an image, the start of 2025. One fixed
// time makes images comparable; it is not 1970, which tools such as zip cannot
// write.
const buildUnix = 1735689600

// imageMode are the permissions that a [File] may have.
const imageMode = fs.ModePerm

var (
	//go:embed packages.txt
	defaultPackages string
	//go:embed requirements.lock
	defaultLock []byte
)

// Definition says what a template's image is made of.
type Definition struct {
	// Name is what the template is called: letters, digits, "-", "_" and ".".
	Name string
	// Packages are Debian packages, added to a minimal system.
	Packages []string
	// Lock is a requirements file with versions and hashes of Python libraries
	// and all that they depend on. Empty: none.
	Lock []byte
	// Preloads are the sets of modules that its interpreters can have loaded
	// before code comes. They are not part of the image.
	Preloads []preload.Set
	// CABundle is the path, on the host, of the certificate authorities that
	// programs in the sandbox trust, in PEM. Empty: the host's own.
	CABundle string
}

// Default returns the definition of the built-in template.
func Default() Definition {
	return Definition{
		Name: DefaultName, Packages: packageNames(defaultPackages), Lock: defaultLock,
		Preloads: []preload.Set{{
			Name:    "data",
			Modules: []string{"numpy", "pandas", "matplotlib.pyplot"},
			// The import of each of these begins with that of the modules.
			Packages: []string{"numpy", "pandas", "matplotlib", "seaborn", "scipy", "sklearn", "statsmodels"},
			// A quarter of the least memory is taken by the modules.
			MinMemoryBytes: 256 << 20, IdleBytes: 128 << 20,
		}},
	}
}

// packageNames reads a list with one name per line and comments after "#".
func packageNames(text string) []string {
	var names []string
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		names = append(names, strings.Fields(line)...)
	}
	return names
}

// File is put into an image on top of its base, owned by root. It replaces a
// file of that path.
type File struct {
	Path string // absolute, and not through a symbolic link of the image
	Mode fs.FileMode
	Data []byte
}

var (
	templateName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$`)
	packageName  = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]*$`)
)

// validate checks what a caller gave. Errors name the field.
func (d Definition) validate(extra []File) error {
	if !templateName.MatchString(d.Name) {
		return fmt.Errorf("template name %q: use 1 to 64 letters, digits, dots, dashes and underscores, the first a letter or digit", d.Name)
	}
	for _, name := range d.Packages {
		if !packageName.MatchString(name) {
			return fmt.Errorf("template %s: %q is not the name of a Debian package", d.Name, name)
		}
	}
	if len(d.Lock) > 0 && !slices.Contains(d.Packages, "python3-pip") {
		return fmt.Errorf("template %s: it has Python libraries, so its packages must have python3-pip", d.Name)
	}
	seen := map[string]bool{debian.CABundle: true}
	for _, f := range extra {
		switch {
		case !path.IsAbs(f.Path) || path.Clean(f.Path) != f.Path || f.Path == "/":
			return fmt.Errorf("template %s: file %q: the path must be absolute and clean", d.Name, f.Path)
		case seen[f.Path]:
			return fmt.Errorf("template %s: file %q is given twice", d.Name, f.Path)
		case f.Mode&^imageMode != 0:
			return fmt.Errorf("template %s: file %q: mode %v has more than permissions", d.Name, f.Path, f.Mode)
		}
		seen[f.Path] = true
	}
	return nil
}

// baseInputs is everything that a base is made of.
func (d Definition) baseInputs(release debian.Release) map[string]string {
	packages := slices.Clone(d.Packages)
	slices.Sort(packages)
	return map[string]string{
		"recipe":       strconv.Itoa(recipe),
		"debian":       release.Codename,
		"architecture": runtime.GOARCH,
		"packages":     strings.Join(slices.Compact(packages), " "),
		"lock":         digestOf(d.Lock),
	}
}

// imageInputs is everything that an image is made of. The files are those of the
// caller and the certificate authorities.
func (d Definition) imageInputs(base string, files []File) map[string]string {
	inputs := map[string]string{"recipe": strconv.Itoa(recipe), "name": d.Name, "base": base}
	for _, f := range files {
		inputs["file "+f.Path] = fmt.Sprintf("%04o %s", f.Mode, digestOf(f.Data))
	}
	return inputs
}

// keyOf is the name of what has those inputs.
func keyOf(inputs map[string]string) string {
	// The keys of a map are sorted in JSON.
	data, err := json.Marshal(inputs)
	if err != nil {
		panic(err) // a map of strings can always be encoded
	}
	return digestOf(data)
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// readCABundle returns the certificates of a PEM file, and nothing else that may
// be in it.
func readCABundle(name string) ([]byte, error) {
	if name == "" {
		name = hostCABundle
	}
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) && name == hostCABundle {
		return nil, fmt.Errorf("certificate authorities: %w: apt-get install ca-certificates, or name a bundle in the configuration (ca_bundle)", err)
	}
	if err != nil {
		return nil, fmt.Errorf("certificate authorities: %w", err)
	}
	var bundle bytes.Buffer
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		data = rest
		if strings.Contains(block.Type, "PRIVATE KEY") {
			return nil, fmt.Errorf("certificate authorities: %s contains a private key: name a file with certificates only", name)
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		if err := pem.Encode(&bundle, &pem.Block{Type: block.Type, Bytes: block.Bytes}); err != nil {
			return nil, err
		}
	}
	if bundle.Len() == 0 {
		return nil, fmt.Errorf("certificate authorities: %s has no certificate in PEM", name)
	}
	return bundle.Bytes(), nil
}
