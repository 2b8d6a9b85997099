package runtimetest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// collecting is a command whose files in the workspace are reported.
func collecting(cmd runtime.Command, limits runtime.CollectLimits) runtime.Command {
	cmd.CollectDirs = []string{agentsandbox.Workspace, agentsandbox.OutputDir}
	cmd.Collect = limits
	return cmd
}

// changed lists the paths that a run reported, below the workspace.
func changed(o *outcome) []string {
	paths := []string{}
	for _, f := range o.Changed {
		paths = append(paths, strings.TrimPrefix(f.Path, "/workspace/"))
	}
	return paths
}

// collectTests are about the files that a run made.
var collectTests = map[string]func(*testing.T, *box){
	"Collect/new and changed files": func(t *testing.T, b *box) {
		b.put("/workspace/same", "same")
		b.put("/workspace/grows", "x")
		b.put("/workspace/rewritten", "12345")
		b.put("/workspace/replaced", "12345")
		b.put("/workspace/goes", "")
		b.put("/workspace/moved", "")
		o := b.run(collecting(bash(`
printf y >> grows
printf 54321 > rewritten; touch -d 2001-01-01 rewritten
printf 12345 > new-replaced; mv new-replaced replaced
rm goes; mv moved renamed
mkdir -p a/b; printf content > a/b/c; ln -s a/b/c link; mkfifo fifo; mkdir empty; ln grows twice
cat same > /dev/null`), runtime.CollectLimits{}))
		want := []string{"a/b/c", "grows", "renamed", "replaced", "rewritten", "twice"}
		if got := changed(o); !slices.Equal(got, want) || o.Omitted != 0 {
			t.Fatalf("got %q, %d omitted; want %q", got, o.Omitted, want)
		}
		if f := o.Changed[0]; f.SizeBytes != 7 || f.Kind != agentsandbox.PathFile || f.ModifiedAt.IsZero() || f.Mode == 0 {
			t.Errorf("got %+v", f)
		}
		if o = b.run(collecting(python("open('grows').read()"), runtime.CollectLimits{})); len(o.Changed) != 0 {
			t.Errorf("after a run that changes nothing: %q", changed(o))
		}
		if o = b.run(python("open('unasked', 'w')")); len(o.Changed) != 0 {
			t.Errorf("nothing was asked for: %q", changed(o))
		}
	},
	"Collect/files outside the directories are left alone": func(t *testing.T, b *box) {
		b.put("/workspace/in/old", "")
		cmd := bash("echo x > out; echo x > in/new; echo x > in-beside")
		cmd.CollectDirs = []string{"/workspace/in", "/workspace/in", "/workspace/missing"}
		if got := changed(b.run(cmd)); !slices.Equal(got, []string{"in/new"}) {
			t.Errorf("got %q", got)
		}
	},
	"Collect/limits are kept and what is left out is counted": func(t *testing.T, b *box) {
		for _, tc := range []struct {
			limits  runtime.CollectLimits
			want    []string
			omitted int
		}{
			{runtime.CollectLimits{Files: 2}, []string{"a", "b"}, 2},
			{runtime.CollectLimits{Bytes: 30}, []string{"a", "b", "d/c"}, 1},
			{runtime.CollectLimits{Depth: 1}, []string{"a", "b", "d/c"}, 1},
			{runtime.CollectLimits{Files: 4, Bytes: 130, Depth: 2}, []string{"a", "b", "d/c", "d/e/f"}, 0},
		} {
			o := b.run(collecting(bash("rm -rf *; mkdir -p d/e; for f in a b d/c; do head -c 10 /dev/zero > $f; done; head -c 100 /dev/zero > d/e/f"), tc.limits))
			if got := changed(o); !slices.Equal(got, tc.want) || o.Omitted != tc.omitted {
				t.Errorf("%+v: %q, %d omitted; want %q, %d", tc.limits, got, o.Omitted, tc.want, tc.omitted)
			}
		}
	},
	"Collect/sparse files count with their size": func(t *testing.T, b *box) {
		o := b.run(collecting(bash("truncate -s 1T sparse; echo x > small"), runtime.CollectLimits{Bytes: 1 << 20}))
		if got := changed(o); !slices.Equal(got, []string{"small"}) || o.Omitted != 1 {
			t.Errorf("got %q, %d omitted", got, o.Omitted)
		}
	},
	"Collect/many files": func(t *testing.T, b *box) {
		const count = 3000
		o := b.run(collecting(python(fmt.Sprintf("import os\nos.mkdir('%[2]s')\nfor i in range(%[1]d): open(f'%[2]s/{i:05}', 'w')", count, strings.Repeat("d", 200))), runtime.CollectLimits{}))
		if len(o.Changed) != count || o.Omitted != 0 || !slices.IsSortedFunc(o.Changed, func(x, y agentsandbox.PathInfo) int { return strings.Compare(x.Path, y.Path) }) {
			t.Errorf("%d files, %d omitted", len(o.Changed), o.Omitted)
		}
		o = b.run(collecting(python(fmt.Sprintf("for i in range(%d): open(f'again{i}', 'w')", count)), runtime.CollectLimits{Files: 10}))
		if len(o.Changed) != 10 || o.Omitted != count-10 {
			t.Errorf("%d files, %d omitted", len(o.Changed), o.Omitted)
		}
	},
	"Collect/deep directories": func(t *testing.T, b *box) {
		o := b.run(collecting(python("import os\nopen('top', 'w')\nfor i in range(1000):\n    os.mkdir('d'); os.chdir('d')\nopen('bottom', 'w')"), runtime.CollectLimits{}))
		if got := changed(o); !slices.Equal(got, []string{"top"}) || o.Omitted == 0 {
			t.Errorf("got %q, %d omitted", got, o.Omitted)
		}
		if err := b.Remove(b.ctx(), "/workspace/d"); err != nil {
			t.Errorf("Remove: %v", err)
		}
	},
	"Collect/any name": func(t *testing.T, b *box) {
		o := b.run(collecting(python(fmt.Sprintf("import os\nfor name in %s: open(name, 'w').write('x')", pythonNames())), runtime.CollectLimits{}))
		if got, want := changed(o), slices.Sorted(slices.Values(oddNames)); !slices.Equal(got, want) {
			t.Fatalf("got %q, want %q", got, want)
		}
		for _, name := range oddNames {
			if got := b.get("/workspace/" + name); got != "x" {
				t.Errorf("%q holds %q", name, got)
			}
		}
	},
}

// oddNames are names that code along the way might take for something else.
var oddNames = []string{
	"with space", "tab\tand\nnewline", `quote"s and 'apostrophes'`, `back\slash`, "\xff\xfe not UTF-8", "half \xc3",
	"right-to-left \u202etxt.exe", "..hidden", "-rf", "*", "%2e%2e", "größe💡", strings.Repeat("long", 60), "\x01\x7f",
}

// pythonNames returns oddNames as a Python list of bytes.
func pythonNames() string {
	var list []string
	for _, name := range oddNames {
		list = append(list, fmt.Sprintf("bytes.fromhex('%x')", name))
	}
	return "[" + strings.Join(list, ", ") + "]"
}
