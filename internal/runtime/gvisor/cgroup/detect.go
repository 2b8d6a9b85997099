package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Unified is the name under which the one hierarchy of version 2 stands in
// [Host.Dirs].
const Unified = "unified"

// needed are the controllers that limits and counters need, by version. Version
// 1 counts CPU time with a controller of its own.
var (
	neededV1 = []string{"cpu", "cpuacct", "memory", "pids"}
	neededV2 = []string{"cpu", "memory", "pids"}
)

// Host says where the control groups of a host are.
type Host struct {
	// Version is 1 or 2.
	Version int
	// Dirs are the top directories: by controller in version 1 (two controllers
	// may share one), under Unified in version 2.
	Dirs map[string]string
}

// Detect reads a mountinfo file and picks the version that has all controllers.
// A hybrid host counts as the version that has them.
func Detect(mountinfo io.Reader) (Host, error) {
	v1Dirs := map[string]string{}
	v2Dir := ""
	lines := bufio.NewScanner(mountinfo)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 3 {
			continue
		}
		dir := unescape(left[4])
		switch right[0] {
		case "cgroup2":
			v2Dir = dir
		case "cgroup":
			for option := range strings.SplitSeq(right[2], ",") {
				if slices.Contains(neededV1, option) {
					v1Dirs[option] = dir
				}
			}
		}
	}
	if err := lines.Err(); err != nil {
		return Host{}, fmt.Errorf("control groups: %w", err)
	}
	missing2 := neededV2
	if v2Dir != "" {
		var err error
		if missing2, err = missingControllers(v2Dir); err != nil {
			return Host{}, err
		}
		if len(missing2) == 0 {
			return Host{Version: 2, Dirs: map[string]string{Unified: v2Dir}}, nil
		}
	}
	var missing1 []string
	for _, c := range neededV1 {
		if v1Dirs[c] == "" {
			missing1 = append(missing1, c)
		}
	}
	switch {
	case len(missing1) == 0:
		return Host{Version: 1, Dirs: shared(v1Dirs)}, nil
	case len(v1Dirs) == 0 && v2Dir == "":
		return Host{}, errors.New("control groups: none are mounted: mount cgroup2 on /sys/fs/cgroup")
	case len(v1Dirs) == 0:
		return Host{}, fmt.Errorf("control groups: %s lacks the controllers %s: enable them in the kernel, or hand them to this group (Delegate=yes in a systemd unit)", v2Dir, strings.Join(missing2, ", "))
	default:
		return Host{}, fmt.Errorf("control groups: no hierarchy of version 1 has the controllers %s: mount them, or boot with systemd.unified_cgroup_hierarchy=1", strings.Join(missing1, ", "))
	}
}

// shared gives each directory once. Two controllers of version 1 may be mounted
// together ("cpu,cpuacct"); the groups in such a hierarchy are made once, and
// both controllers' files are in them.
func shared(dirs map[string]string) map[string]string {
	names := map[string][]string{}
	for _, c := range neededV1 {
		names[dirs[c]] = append(names[dirs[c]], c)
	}
	out := map[string]string{}
	for dir, controllers := range names {
		out[strings.Join(controllers, ",")] = dir
	}
	return out
}

func missingControllers(v2Dir string) ([]string, error) {
	b, err := os.ReadFile(filepath.Join(v2Dir, "cgroup.controllers"))
	if err != nil {
		return nil, fmt.Errorf("control groups: %w", err)
	}
	has := strings.Fields(string(b))
	var missing []string
	for _, c := range neededV2 {
		if !slices.Contains(has, c) {
			missing = append(missing, c)
		}
	}
	return missing, nil
}

// unescape undoes the octal escapes that mountinfo uses for white space.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
