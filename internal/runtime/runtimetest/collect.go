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

// omitted counts what a run left out.
func (o *outcome) omitted() (n int) {
	for _, count := range o.Omitted {
		n += count
	}
	return n
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
		if got := changed(o); !slices.Equal(got, want) || o.omitted() != 0 {
			t.Fatalf("got %q, %d omitted; want %q", got, o.omitted(), want)
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
	"Collect/each change is reported once, by the first run that ends after it": func(t *testing.T, b *box) {
		k := collecting(bash(`(until test -e go; do sleep 0.01; done; echo r > report.csv; mv report.csv final.csv) > /dev/null 2>&1 & echo started > log`), runtime.CollectLimits{})
		if got := changed(b.run(k)); !slices.Equal(got, []string{"log"}) {
			t.Fatalf("got %q", got)
		}
		b.put("/workspace/go", "")
		b.eventually("the background process has written", func() bool { return slices.Contains(b.names("/workspace"), "final.csv") })
		idle := func() []string { return changed(b.run(collecting(bash("true"), runtime.CollectLimits{}))) }
		if got := idle(); !slices.Equal(got, []string{"final.csv"}) {
			t.Errorf("of a background process: %q", got)
		}
		// What a run leaves out because of a limit is told once, too, and what a run
		// made that nobody waited for is told by the next.
		o := b.run(collecting(bash("head -c 100 /dev/zero > large; echo x > small"), runtime.CollectLimits{Bytes: 50}))
		if got := changed(o); !slices.Equal(got, []string{"small"}) || o.Omitted[agentsandbox.OmittedSizeLimit] != 1 {
			t.Errorf("got %q, %v", got, o.Omitted)
		}
		if o := b.run(collecting(bash("true"), runtime.CollectLimits{Bytes: 50})); len(o.Changed) != 0 || o.omitted() != 0 {
			t.Errorf("told again: %q, %v", changed(o), o.Omitted)
		}
		r := b.begin(collecting(bash("echo x > of-a-killed-run; echo made; sleep 1000"), runtime.CollectLimits{}))
		b.await(r, "made")
		if err := r.Kill(b.ctx()); err != nil {
			t.Fatal(err)
		}
		if got := changed(b.finish(r)); len(got) != 0 {
			t.Errorf("of a run that was killed: %q", got)
		}
		if got := idle(); !slices.Equal(got, []string{"of-a-killed-run"}) {
			t.Errorf("after a run that was killed: %q", got)
		}
	},
	"Collect/runs at the same time": func(t *testing.T, b *box) {
		const runs = 5
		var begun []runtime.Run
		for i := range runs {
			begun = append(begun, b.begin(collecting(bash(fmt.Sprintf("echo x > f%d; echo made; until test -e go; do sleep 0.01; done", i)), runtime.CollectLimits{})))
		}
		for _, r := range begun {
			b.await(r, "made")
		}
		b.put("/workspace/go", "")
		var all []string
		for _, r := range begun {
			all = append(all, changed(b.finish(r))...)
		}
		slices.Sort(all)
		if want := []string{"f0", "f1", "f2", "f3", "f4"}; !slices.Equal(all, want) {
			t.Errorf("got %q, want %q", all, want)
		}
	},
	"Collect/what the host writes": func(t *testing.T, b *box) {
		b.must(bash("mkdir real; ln -s real link"))
		b.put("/workspace/link/through", "x")
		b.put("/workspace/new/deep", "x")
		r := b.begin(collecting(bash("echo ready; until test -e go; do sleep 0.01; done; echo y >> link/through"), runtime.CollectLimits{}))
		b.await(r, "ready")
		b.put("/workspace/meanwhile", "x")
		b.put("/workspace/go", "")
		if got := changed(b.finish(r)); !slices.Equal(got, []string{"real/through"}) {
			t.Errorf("got %q", got)
		}
		b.put("/workspace/meanwhile", "xyz")
		o := b.run(collecting(bash("cat new/deep meanwhile >/dev/null; python3 -c \"open('new/deep', 'r+').close()\""), runtime.CollectLimits{}))
		if len(o.Changed) != 0 {
			t.Errorf("read, and opened for writing without being changed: %q", changed(o))
		}
	},
	"Collect/the files of tools": func(t *testing.T, b *box) {
		const code = `
for base in . ../output; do
  mkdir -p $base/pk/__pycache__ $base/.git/objects $base/sub/.hg $base/web/node_modules/left-pad $base/.config/matplotlib $base/myenv/lib $base/.cache $base/.npm
  for f in pk/m.py pk/__pycache__/m.pyc .git/objects/x sub/.hg/x web/node_modules/left-pad/index.js .config/matplotlib/fonts.json .config/own myenv/pyvenv.cfg myenv/lib/y.py .cache/x .npm/x; do
    echo $f > $base/$f
  done
done
echo x > node_modules; echo x > .gitignore; mkdir cached.cache; echo x > cached.cache/x; touch pyvenv.cfg`
		o := b.run(collecting(bash(code), runtime.CollectLimits{}))
		want := []string{".config/own", ".gitignore", "cached.cache/x", "node_modules", "pk/m.py", "pyvenv.cfg"}
		var output []string
		for _, name := range []string{
			".cache/x", ".config/matplotlib/fonts.json", ".config/own", ".git/objects/x", ".npm/x", "myenv/lib/y.py", "myenv/pyvenv.cfg",
			"pk/__pycache__/m.pyc", "pk/m.py", "sub/.hg/x", "web/node_modules/left-pad/index.js",
		} {
			output = append(output, "/output/"+name)
		}
		if got := changed(o); !slices.Equal(got, append(output, want...)) || o.Omitted[agentsandbox.OmittedIgnored] != 8 || o.omitted() != 8 {
			t.Errorf("got %q, %v", got, o.Omitted)
		}
		if o = b.run(collecting(bash("true"), runtime.CollectLimits{})); len(o.Changed) != 0 || o.omitted() != 0 {
			t.Errorf("told again: %q, %v", changed(o), o.Omitted)
		}
		o = b.run(collecting(bash("echo x > y.txt; echo x > .git/HEAD"), runtime.CollectLimits{}))
		if got := changed(o); !slices.Equal(got, []string{"y.txt"}) || o.Omitted[agentsandbox.OmittedIgnored] != 1 {
			t.Errorf("got %q, %v", got, o.Omitted)
		}
		o = b.run(collecting(bash("true"), runtime.CollectLimits{Ignored: true}))
		if got := changed(o); len(got) != 10 || !slices.Contains(got, ".git/HEAD") || !slices.Contains(got, "myenv/pyvenv.cfg") || o.omitted() != 0 {
			t.Errorf("asked for: %q, %v", got, o.Omitted)
		}
		for _, ignored := range []bool{false, true} {
			if o = b.run(collecting(bash("true"), runtime.CollectLimits{Ignored: ignored})); len(o.Changed) != 0 {
				t.Errorf("ignored %v: %q", ignored, changed(o))
			}
		}
	},
	"Collect/changes through shared mappings": func(t *testing.T, b *box) {
		page := strings.Repeat("x", 8192)
		b.put("/workspace/injected", page)
		b.put("/workspace/sub/injected", page)
		b.put("/workspace/same", page)
		b.must(bash("head -c 8192 /dev/zero > made; head -c 8192 /dev/zero > ../output/made; head -c 8192 /dev/zero > unmapped; head -c 8192 /dev/zero > moved; head -c 8192 /dev/zero > held"))
		b.run(collecting(bash("true"), runtime.CollectLimits{}))
		const edit = `
import mmap, os, sys
def edit(name, i=4100):
    f = open(name, 'r+b'); m = mmap.mmap(f.fileno(), 0); f.close(); m[i] = m[i] ^ 1
    return m
`
		o := b.run(collecting(python(edit+`
for name in ('injected', 'sub/injected', 'made', '../output/made'): edit(name).close()
kept = edit('moved'); os.rename('moved', 'sub/moved')
same = open('same', 'r+b'); m = mmap.mmap(same.fileno(), 0)
open('unmapped', 'r+b').read()
os._exit(0)`), runtime.CollectLimits{}))
		if got, want := changed(o), []string{"/output/made", "injected", "made", "sub/injected", "sub/moved"}; !slices.Equal(got, want) {
			t.Fatalf("got %q, want %q; %v", got, want, o)
		}
		o = b.run(collecting(python("for n in ('injected', 'made', 'same'): open(n, 'r+b').close()"), runtime.CollectLimits{}))
		if got := changed(o); len(got) != 0 {
			t.Errorf("told again: %q", got)
		}
		// By a process that an earlier run has left, which still has it mapped.
		b.must(bash("python3 -c \"" + edit + "\nimport time\nm = edit('held')\nopen('../tmp/edited', 'w')\nwhile True: time.sleep(1000)\" > /dev/null 2>&1 & until test -e ../tmp/edited; do sleep 0.01; done"))
		for _, want := range [][]string{{"held"}, {}} {
			if got := changed(b.run(collecting(bash("true"), runtime.CollectLimits{}))); !slices.Equal(got, want) {
				t.Errorf("held by a process: %q, want %q", got, want)
			}
		}
		// The last run of a sandbox.
		cmd := collecting(python(edit+"edit('injected', 5).close()"), runtime.CollectLimits{})
		cmd.Final = true
		if got := changed(b.run(cmd)); !slices.Equal(got, []string{"injected"}) {
			t.Errorf("the last run: %q", got)
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
			if got := changed(o); !slices.Equal(got, tc.want) || o.omitted() != tc.omitted {
				t.Errorf("%+v: %q, %d omitted; want %q, %d", tc.limits, got, o.omitted(), tc.want, tc.omitted)
			}
		}
	},
	"Collect/sparse files count with their size": func(t *testing.T, b *box) {
		o := b.run(collecting(bash("truncate -s 1T sparse; echo x > small"), runtime.CollectLimits{Bytes: 1 << 20}))
		if got := changed(o); !slices.Equal(got, []string{"small"}) || o.omitted() != 1 {
			t.Errorf("got %q, %d omitted", got, o.omitted())
		}
	},
	"Collect/many files": func(t *testing.T, b *box) {
		const count = 3000
		o := b.run(collecting(python(fmt.Sprintf("import os\nos.mkdir('%[2]s')\nfor i in range(%[1]d): open(f'%[2]s/{i:05}', 'w')", count, strings.Repeat("d", 200))), runtime.CollectLimits{}))
		if len(o.Changed) != count || o.omitted() != 0 || !slices.IsSortedFunc(o.Changed, func(x, y agentsandbox.PathInfo) int { return strings.Compare(x.Path, y.Path) }) {
			t.Errorf("%d files, %d omitted", len(o.Changed), o.omitted())
		}
		o = b.run(collecting(python(fmt.Sprintf("for i in range(%d): open(f'again{i}', 'w')", count)), runtime.CollectLimits{Files: 10}))
		if len(o.Changed) != 10 || o.omitted() != count-10 {
			t.Errorf("%d files, %d omitted", len(o.Changed), o.omitted())
		}
	},
	"Collect/deep directories": func(t *testing.T, b *box) {
		o := b.run(collecting(python("import os\nopen('top', 'w')\nfor i in range(1000):\n    os.mkdir('d'); os.chdir('d')\nopen('bottom', 'w')"), runtime.CollectLimits{}))
		if got := changed(o); !slices.Equal(got, []string{"top"}) || o.omitted() == 0 {
			t.Errorf("got %q, %d omitted", got, o.omitted())
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
