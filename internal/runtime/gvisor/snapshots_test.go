package gvisor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// TestSnapshotInputs checks that what a sandbox cannot change after a restore is
// part of what its snapshot depends on.
func TestSnapshotInputs(t *testing.T) {
	s := &snapshots{r: &Runtime{opts: Options{Platform: PlatformSystrap}}, cpuFeatures: "f"}
	recipe := runtime.Recipe{Image: runtime.Image{Path: "/images/a", Digest: "sha256:a"}, Modules: []string{"numpy"}}
	in, err := s.inputs(recipe, 3, 1<<20)
	must(t, err)
	if in.ImageDigest != "sha256:a" || in.CPUs != 3 || in.DiskBytes != 1<<20 || len(in.Modules) != 1 || in.CPUFeatures != "f" ||
		in.GuestProtocol == 0 || len(in.GVisorFlags) == 0 || in.Kind != runtime.SnapshotTemplate {
		in.Spec = nil
		t.Errorf("inputs: %+v", in)
	} else if spec := string(in.Spec); !strings.Contains(spec, "/images/a") || !strings.Contains(spec, "size=1048576") {
		t.Errorf("spec: %s", spec)
	}
	if v := in.GVisorVersion; !strings.HasPrefix(v, "v0.0.0-") {
		t.Errorf("the version of gVisor is %q", v)
	}
	recipe.Image.Digest = ""
	if _, err := s.inputs(recipe, 3, 1<<20); err == nil {
		t.Error("an image without a digest was taken")
	}
}

func TestCPUFeatures(t *testing.T) {
	digest := func(text string) string {
		path := filepath.Join(t.TempDir(), "cpuinfo")
		must(t, os.WriteFile(path, []byte(text), 0o600))
		got, err := cpuFeatures(path)
		if err != nil {
			return "error"
		}
		return got
	}
	x86 := digest("processor\t: 0\nflags\t\t: fpu vme avx2\nbogomips\t: 1\n")
	if x86 == "error" || x86 != digest("flags : fpu  vme avx2\n") || x86 == digest("flags : fpu vme\n") {
		t.Error("features are not what names the processor")
	}
	if digest("Features\t: fp asimd\n") == "error" {
		t.Error("features of ARM are not found")
	}
	if digest("model name : x\n") != "error" {
		t.Error("a processor without features was taken")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
