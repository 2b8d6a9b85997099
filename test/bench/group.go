package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// memory adds up what the server's sandboxes hold: the proportional share of
// each process's anonymous memory and mapped files, and the shared memory that
// the control groups were charged for, mapped or not (a sandbox's own memory is
// a memfd).
func (s *server) memory() (int64, error) {
	var total int64
	pids, err := s.processes()
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		share, err := field(filepath.Join("/proc", pid, "smaps_rollup"), "Pss_Anon:", "Pss_File:")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, err
		}
		total += share << 10
	}
	shared, err := s.groupFiles("memory.stat")
	if err != nil {
		return 0, err
	}
	for _, path := range shared {
		n, err := field(path, "shmem")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// processes lists the processes in the control groups of the server's sandboxes.
func (s *server) processes() ([]string, error) {
	paths, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return nil, err
	}
	var pids []string
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(text), s.group) {
			pids = append(pids, filepath.Base(filepath.Dir(path)))
		}
	}
	return pids, nil
}

// sandboxCPU is the CPU time that the server's sandboxes have used.
func (s *server) sandboxCPU() (time.Duration, error) {
	var total time.Duration
	v1, err := s.groupFiles("cpuacct.usage")
	if err != nil {
		return 0, err
	}
	for _, path := range v1 {
		text, err := os.ReadFile(path)
		if err != nil {
			return 0, err
		}
		ns, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		if err != nil {
			return 0, err
		}
		total += time.Duration(ns)
	}
	if len(v1) > 0 {
		return total, nil
	}
	v2, err := s.groupFiles("cpu.stat")
	if err != nil {
		return 0, err
	}
	for _, path := range v2 {
		us, err := field(path, "usage_usec")
		if err != nil {
			return 0, err
		}
		total += time.Duration(us) * time.Microsecond
	}
	return total, nil
}

// groupFiles finds one file of each sandbox's control group, in hierarchies of
// version 1 or in that of version 2.
func (s *server) groupFiles(name string) ([]string, error) {
	for _, root := range []string{"/sys/fs/cgroup/*", "/sys/fs/cgroup"} {
		found, err := filepath.Glob(filepath.Join(root, s.group, "*", name))
		if err != nil || len(found) > 0 {
			return found, err
		}
	}
	return nil, nil
}

// field adds up the numbers that stand behind names in a file.
func field(path string, names ...string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var total int64
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		for _, name := range names {
			if len(words) < 2 || words[0] != name {
				continue
			}
			n, err := strconv.ParseInt(words[1], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", path, err)
			}
			total += n
		}
	}
	return total, lines.Err()
}

// stolen tells how much of the processors' time others of the same host have had
// since the boot, and the whole.
func stolen() (steal, total int64) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0
	}
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line)
	const stealField = 8 // of proc(5), after the name
	for i, word := range fields[1:min(len(fields), stealField+1)] {
		n, err := strconv.ParseInt(word, 10, 64)
		if err != nil {
			return 0, 0
		}
		total += n
		if i+1 == stealField {
			steal = n
		}
	}
	return steal, total
}
