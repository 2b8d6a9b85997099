package cgroup

import (
	"maps"
	"testing"
)

func TestMemoryInUseLeavesOutWhatCanBeDropped(t *testing.T) {
	for version, files := range map[int]map[string]string{1: filesV1, 2: filesV2} {
		files = maps.Clone(files)
		files["memory.stat"] = "cache 900000\nactive_file 300000\ninactive_file 200000\nshmem 400000\n"
		g, _ := fakeGroup(t, version, files)
		for enough, want := range map[int64]int64{2 << 20: 1 << 20, 1 << 20: 1 << 20, 1<<20 - 1: 1<<20 - 500_000} {
			if got, err := g.MemoryInUse(enough); err != nil || got != want {
				t.Errorf("version %d, %d are enough: got %d, %v; want %d", version, enough, got, err, want)
			}
		}
	}
}
