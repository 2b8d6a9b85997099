package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/guest"
)

// This file is what a template needs for Python before its snapshot.

// customizing makes the directory of the user's own packages: a Python has it in
// sys.path only if it is there when that Python starts, and only then can one run
// install a package and import it. Then it prints the files that customizePython writes.
// Compiled files are never compared with their source, as those of the template.
const customizing = `
import base64, importlib.util, json, marshal, os, site
if site.ENABLE_USER_SITE:
    os.makedirs(site.getusersitepackages(), exist_ok=True)
path = os.path.join(os.path.dirname(os.__file__), "sitecustomize.py")
with open(%q, "rb") as file:
    source = file.read()
if os.path.exists(path):
    with open(path, "rb") as file:
        old = file.read()
    source = old if old.startswith(source) else source + old
compiled = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + importlib.util.source_hash(source)
compiled += marshal.dumps(compile(source, path, "exec", dont_inherit=True))
files = {path: source, importlib.util.cache_from_source(path): compiled}
print(json.dumps({name: base64.b64encode(data).decode() for name, data in files.items()}))
print("ready")`

// customizePython makes every Python of the sandbox begin with [guest.LinesPath], and lets
// packages be installed while one runs. The standard library is the one place of
// modules that virtual environments share, and that no option but -S leaves out.
func (a *Agent) customizePython(ctx context.Context) error {
	printed, err := a.rehearse(ctx, a.language(string(agentsandbox.Python)), fmt.Sprintf(customizing, a.path(guest.LinesPath)))
	if err != nil || !a.opts.Init {
		return err // or the standard library is the machine's
	}
	var files map[string][]byte
	if err := json.NewDecoder(bytes.NewReader(printed)).Decode(&files); err != nil {
		return fmt.Errorf("customize Python: %w", err)
	}
	for path, data := range files {
		// Debian has a link there, which leads elsewhere.
		err := os.Remove(path)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			err = os.WriteFile(path, data, 0o644)
		}
		if err != nil {
			return fmt.Errorf("customize Python: %w", err)
		}
	}
	return nil
}

// importAll is Python code that imports what is installed of some modules, and prints
// "ready".
func importAll(modules []string) string {
	var b strings.Builder
	for _, module := range modules {
		top, _, _ := strings.Cut(module, ".")
		fmt.Fprintf(&b, "try: import %s\nexcept ModuleNotFoundError as error:\n    if error.name != %q: raise\n", module, top)
	}
	b.WriteString("print('ready')")
	return b.String()
}
