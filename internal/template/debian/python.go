package debian

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
)

// wheels is where the libraries lie in the tree while they are installed.
const wheels = "tmp/agentsandbox-wheels"

// FontCache is matplotlib's directory for settings and caches, filled already.
// Whoever runs code in the tree names it in MPLCONFIGDIR, or leaves that unset.
const FontCache = "/home/user/.cache/matplotlib"

const (
	// figuresModule is matplotlib's backend in a sandbox.
	figuresModule = "agentsandbox_figures"
	// cjkFont is what matplotlib draws Chinese, Japanese and Korean text with, if
	// the tree has it, and cjkFamily what it is called there.
	cjkFont   = "usr/share/fonts/truetype/wqy/wqy-zenhei.ttc"
	cjkFamily = "WenQuanYi Zen Hei"
)

//go:embed figures.py
var figuresSource []byte

// loaders are the dynamic loaders, below usr/lib, of the architectures that
// gVisor runs on.
var loaders = map[string]string{
	"amd64": "x86_64-linux-gnu/ld-linux-x86-64.so.2",
	"arm64": "aarch64-linux-gnu/ld-linux-aarch64.so.1",
}

// installLibraries installs what a lock file names. The tree's own Python and
// pip fetch it, so that it fits them; but they do so on the host, not inside the
// tree, so that the host's index, proxy and certificates serve without a copy of
// them in the tree. The installation itself runs in the tree, without a network.
func (b *Builder) installLibraries(ctx context.Context, lock []byte) error {
	if len(lock) == 0 {
		return nil
	}
	if err := b.root.MkdirAll(wheels, 0o755); err != nil {
		return err
	}
	if err := b.root.WriteFile(path.Join(wheels, "requirements.lock"), lock, 0o644); err != nil {
		return err
	}
	loader, ok := loaders[runtime.GOARCH]
	if !ok {
		return fmt.Errorf("the architecture %s is not supported: use amd64 or arm64", runtime.GOARCH)
	}
	usr := filepath.Join(b.tree, "usr")
	loader = filepath.Join(usr, "lib", loader)
	here := filepath.Join(b.tree, wheels)
	err := b.run(ctx, command{
		step:   "download Python libraries",
		remedy: "Check that pip can reach its index from this machine (pip.conf, PIP_INDEX_URL, proxies, certificates). A hash that does not match means that the index serves other files than the lock file names.",
		argv: []string{loader, "--library-path", filepath.Dir(loader), filepath.Join(usr, "bin/python3"), "-m", "pip", "download",
			"--requirement", filepath.Join(here, "requirements.lock"), "--dest", here,
			"--require-hashes", "--only-binary", ":all:", "--no-deps", "--no-input", "--progress-bar", "off", "--disable-pip-version-check"},
		// The tree's Python must not write byte code: it would name paths of the host.
		env: hostEnv("PYTHONHOME="+usr, "PYTHONDONTWRITEBYTECODE=1", "PYTHONNOUSERSITE=1", "PIP_REQUIRE_VIRTUALENV=false"),
	})
	if err != nil {
		return err
	}
	// pip would refuse to install beside Debian's packages, here and in sandboxes.
	if err := eachMatch(b.root, "usr/lib/python3*/EXTERNALLY-MANAGED", b.root.Remove); err != nil {
		return err
	}
	// --ignore-installed: a library that Debian's pip brings along stays beside
	// the newer one, which is found first. pip could not uninstall it.
	err = b.run(ctx, command{
		step: "install Python libraries",
		argv: []string{"/usr/bin/python3", "-m", "pip", "install",
			"--requirement", "/" + wheels + "/requirements.lock", "--no-index", "--find-links", "/" + wheels,
			"--require-hashes", "--only-binary", ":all:", "--no-deps", "--ignore-installed", "--no-compile", "--no-cache-dir", "--no-input",
			"--no-warn-script-location", "--progress-bar", "off", "--disable-pip-version-check", "--root-user-action", "ignore"},
		env:    treeEnv(),
		inTree: true,
	})
	if err != nil {
		return err
	}
	if err := b.root.RemoveAll(wheels); err != nil {
		return err
	}
	if err := b.pruneLibraries(); err != nil {
		return err
	}
	if err := setUpMatplotlib(b.root); err != nil {
		return err
	}
	return b.run(ctx, command{
		step:   "check Python libraries",
		remedy: "The lock file is not consistent: make it again with lock.sh.",
		argv:   []string{"/usr/bin/python3", "-m", "pip", "check"},
		env:    treeEnv("PYTHONDONTWRITEBYTECODE=1"),
		inTree: true,
	})
}

// pruneLibraries removes the libraries' own tests, a seventh of their size, and
// makes them use the tree's certificate authorities.
func (b *Builder) pruneLibraries() error {
	const libraries = "usr/local/lib"
	var tests []string
	err := fs.WalkDir(b.root.FS(), libraries, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && entry.Name() == "tests" {
			tests = append(tests, name)
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, name := range tests {
		if err := b.root.RemoveAll(name); err != nil {
			return err
		}
	}
	return eachMatch(b.root, libraries+"/python3*/dist-packages/certifi/cacert.pem", func(name string) error {
		return link(b.root, CABundle, name)
	})
}

// setUpMatplotlib gives matplotlib a backend that needs no display, and a font for
// what its own does not have.
func setUpMatplotlib(root *os.Root) error {
	return eachMatch(root, "usr/local/lib/python3*/dist-packages/matplotlib/mpl-data/matplotlibrc", func(name string) error {
		settings, err := root.ReadFile(name)
		if err != nil {
			return err
		}
		// In this one file matplotlib takes a first # away, so comments have two, and
		// no setting may stand in it twice.
		settings = append(settings, "\n## A sandbox has no display: figures are shown as files.\nbackend: module://"+figuresModule+"\n"...)
		const families = "\n#font.family:"
		if _, err := root.Stat(cjkFont); err == nil && bytes.Count(settings, []byte(families)) == 1 {
			settings = bytes.Replace(settings, []byte(families), []byte("\n## It is set at the end. #font.family:"), 1)
			settings = append(settings, "font.family: sans-serif, "+cjkFamily+"\n"...)
		}
		if err := put(root, name, settings, 0o644); err != nil {
			return err
		}
		libraries := path.Dir(path.Dir(path.Dir(name)))
		return put(root, path.Join(libraries, figuresModule+".py"), figuresSource, 0o644)
	})
}

// warmUp compiles all Python code and fills matplotlib's cache of fonts, so that
// no sandbox has to. Byte code is not checked against its source when it is
// loaded: all times in an image are one, and nobody but root can change a source.
func (b *Builder) warmUp(ctx context.Context, libraries bool) error {
	const compile = `
import compileall, glob, py_compile
for place in ["/usr/lib/python3", *glob.glob("/usr/lib/python3.*"), *glob.glob("/usr/local/lib/python3.*")]:
    # Templates and the like do not compile; that they fail is no fault.
    compileall.compile_dir(place, maxlevels=50, force=True, quiet=2, workers=0,
                           invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
`
	err := b.run(ctx, command{
		step: "compile Python code", argv: []string{"/usr/bin/python3", "-c", compile}, env: treeEnv(), inTree: true,
	})
	if err != nil || !libraries {
		return err
	}
	// The font cjkFont has one weight. Listed with each, it is no reason for a
	// warning. The list is in the order in which the directories were read: sorted,
	// it is the same in every build.
	const fonts = `
import glob, json, os, sys
import matplotlib.pyplot
for name in glob.glob(os.environ["MPLCONFIGDIR"] + "/fontlist-*.json"):
    with open(name) as file:
        data = json.load(file)
    fonts = data["ttflist"]
    for font in [font for font in fonts if font["fname"] == sys.argv[1]]:
        fonts.remove(font)
        fonts += [dict(font, weight=weight) for weight in range(100, 1000, 100)]
    for key, value in data.items():
        if isinstance(value, list):
            value.sort(key=lambda item: json.dumps(item, sort_keys=True))
    with open(name, "w") as file:
        json.dump(data, file)
`
	matches, err := fs.Glob(b.root.FS(), "usr/local/lib/python3*/dist-packages/matplotlib/pyplot.py")
	if err != nil || len(matches) == 0 {
		return err
	}
	return b.run(ctx, command{
		step: "collect fonts", argv: []string{"/usr/bin/python3", "-c", fonts, "/" + cjkFont},
		env: []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C.UTF-8", "HOME=/home/user", "USER=user", "MPLCONFIGDIR=" + FontCache}, inTree: true, user: true,
	})
}

// eachMatch calls do with every name in the tree that matches a pattern.
func eachMatch(root *os.Root, pattern string, do func(name string) error) error {
	names, err := fs.Glob(root.FS(), pattern)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := do(name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
