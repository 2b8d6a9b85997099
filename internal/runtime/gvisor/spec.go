package gvisor

import (
	"fmt"
	"math"
	"path/filepath"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/agentsandbox/agentsandbox/internal/guest"
)

// specParams is all that may differ between two specs. Nothing in it differs
// between two sandboxes of one snapshot: gVisor restores a snapshot only under
// the spec that it was made with, so what is one sandbox's own travels over the
// agent's socket, or in the control group.
type specParams struct {
	// ImagePath is the EROFS image of the root file system; absolute.
	ImagePath string
	// DiskBytes bounds what a sandbox can write to its root file system.
	DiskBytes int64
}

// rule is one aspect of a sandbox's spec, and what it protects against. The list
// of all rules is the posture of a sandbox: doctor prints it.
type rule struct {
	name     string
	protects string
	apply    func(*specs.Spec, specParams)
}

// rules returns the rules in the order in which they apply.
func rules() []rule {
	return []rule{
		{"root file system", "the template's image is mounted read-only below a layer in memory, bounded in size, that ends with the sandbox; the host's files are not there", rootFileSystem},
		{"namespaces", "a sandbox sees its own processes, mounts, network, IPC and host name only", namespaces},
		{"mounts", "/proc, /sys and /dev are those of the sandbox's own kernel; /sys is read-only and /dev/shm is bounded", mounts},
		{"agent", "the only process that the service starts is the guest agent, without anything of the daemon's environment", agentProcess},
		{"capabilities", "the agent has only the rights it needs inside; user code has none", capabilities},
		{"no new privileges", "no program can gain rights, set-user-ID or not", noNewPrivileges},
		{"resource limits", "processes, open files, core dumps and absurd allocations are bounded by errors inside, before the wall outside is reached", resourceLimits},
		{"out of memory", "when the host runs out of memory, a sandbox dies before anything of the host's", outOfMemory},
		{"host name", "the name of the host is not visible", hostName},
	}
}

// newSpec applies every rule.
func newSpec(p specParams) (*specs.Spec, error) {
	if !filepath.IsAbs(p.ImagePath) {
		return nil, fmt.Errorf("image path: %q is not absolute", p.ImagePath)
	}
	if p.DiskBytes <= 0 {
		return nil, fmt.Errorf("disk size: must be above zero, not %d bytes", p.DiskBytes)
	}
	spec := &specs.Spec{
		Version: specs.Version,
		Process: &specs.Process{},
		Linux:   &specs.Linux{},
	}
	for _, r := range rules() {
		r.apply(spec, p)
	}
	return spec, nil
}

// Annotations with which gVisor mounts an image as root without a file server.
const (
	rootSource  = "dev.gvisor.spec.rootfs.source"
	rootType    = "dev.gvisor.spec.rootfs.type"
	rootOverlay = "dev.gvisor.spec.rootfs.overlay"
	rootOptions = "dev.gvisor.spec.rootfs.options"
)

// rootFileSystem mounts the image, with one writable layer over all of it. /tmp
// and the workspace are part of that layer, so one quota holds for everything,
// and moving a file between them stays a rename.
func rootFileSystem(s *specs.Spec, p specParams) {
	// gVisor demands a path, and never opens it: the annotations replace it.
	s.Root = &specs.Root{Path: "rootfs"}
	s.Annotations = map[string]string{
		rootSource:  p.ImagePath,
		rootType:    "erofs",
		rootOverlay: "memory",
		rootOptions: "size=" + strconv.FormatInt(p.DiskBytes, 10),
	}
}

func namespaces(s *specs.Spec, _ specParams) {
	for _, t := range []specs.LinuxNamespaceType{
		specs.PIDNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.MountNamespace,
	} {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: t})
	}
}

// sharedMemoryBytes bounds /dev/shm in a snapshot. Multiprocessing in Python keeps
// semaphores and shared arrays there. The agent makes it larger, in proportion to
// the memory that a sandbox gets.
const sharedMemoryBytes = 64 << 20

func mounts(s *specs.Spec, _ specParams) {
	s.Mounts = []specs.Mount{
		{Destination: "/proc", Type: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/dev", Type: "tmpfs", Options: []string{"nosuid", "noexec"}},
		{Destination: "/dev/shm", Type: "tmpfs", Options: []string{
			"nosuid", "nodev", "mode=1777", "size=" + strconv.Itoa(sharedMemoryBytes),
		}},
		// gVisor mounts a file system without our quota on an empty /tmp. With
		// something in it, /tmp stays part of the root file system.
		{Destination: "/tmp/.keep", Type: "tmpfs", Options: []string{
			"nosuid", "noexec", "nodev", "ro", "mode=0555", "size=4096",
		}},
		// The code of runs has room of its own: a run that tidies up can still be
		// started when the file system is full.
		{Destination: guest.ScriptDir, Type: "tmpfs", Options: []string{
			"nosuid", "nodev", "mode=0755", "size=" + strconv.Itoa(2*guest.MaxCode),
		}},
	}
}

// agentProcess makes the guest agent process 1. It runs as root inside, where
// user code cannot reach it; outside, that root is nobody.
func agentProcess(s *specs.Spec, _ specParams) {
	s.Process.User = specs.User{UID: 0, GID: 0}
	s.Process.Args = []string{guest.AgentPath}
	s.Process.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	s.Process.Cwd = "/"
}

// agentCapabilities are the rights of the agent, each with what it is for. They
// are rights over the sandbox's own kernel, not over the host's.
var agentCapabilities = []struct{ name, why string }{
	{"CAP_CHOWN", "give files that it made to the user"},
	{"CAP_DAC_OVERRIDE", "find the files that a run made in directories that are closed to others"},
	{"CAP_FOWNER", "set modes and times of the user's files"},
	{"CAP_KILL", "end the user's processes"},
	{"CAP_SETGID", "start processes as the user"},
	{"CAP_SETUID", "start processes as the user"},
	{"CAP_SYS_ADMIN", "set the host name after a restore; not be counted against the user's process limit"},
	{"CAP_SYS_RESOURCE", "start a process although the user's process limit is reached"},
}

func capabilities(s *specs.Spec, _ specParams) {
	names := make([]string, 0, len(agentCapabilities))
	for _, c := range agentCapabilities {
		names = append(names, c.name)
	}
	// Neither inheritable nor ambient: a process that gives up root has nothing.
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: names, Effective: names, Permitted: names}
}

func noNewPrivileges(s *specs.Spec, _ specParams) { s.Process.NoNewPrivileges = true }

// Limits that fail gently, with an error in the program that goes too far.
const (
	// userProcesses bounds processes and threads of the user. The kernel counts
	// them for users that are not root, which user code never is. A fork of a
	// Python interpreter costs 7 MB, because gVisor copies memory by 2 MiB, so
	// that in a sandbox of 2 GiB this limit comes before that of memory; each
	// process is two tasks on the host.
	userProcesses = 256
	// openFiles bounds the descriptors of a process.
	openFiles = 16384
	// dataSegment makes an allocation that no host could serve fail, where it would
	// otherwise be granted, filled, and cost the sandbox its life. gVisor holds the
	// heap alone to it; the agent refuses other such allocations itself, so that
	// address space has no limit: maps of large files and what run times reserve
	// cost nothing.
	dataSegment = 512 << 30
	// lockedMemory bounds what a process may lock.
	lockedMemory = 64 << 10
)

func resourceLimits(s *specs.Spec, _ specParams) {
	limit := func(name string, n uint64) specs.POSIXRlimit {
		return specs.POSIXRlimit{Type: name, Soft: n, Hard: n}
	}
	s.Process.Rlimits = []specs.POSIXRlimit{
		limit("RLIMIT_NPROC", userProcesses),
		limit("RLIMIT_NOFILE", openFiles),
		limit("RLIMIT_CORE", 0),
		limit("RLIMIT_AS", math.MaxUint64),
		limit("RLIMIT_DATA", dataSegment),
		limit("RLIMIT_MEMLOCK", lockedMemory),
		// gVisor would take the daemon's own limit. The quota of the root file
		// system bounds what is really written; a sparse file may claim any size.
		limit("RLIMIT_FSIZE", math.MaxUint64),
	}
}

// oomScore is the highest there is: the kernel kills this process first.
const oomScore = 1000

func outOfMemory(s *specs.Spec, _ specParams) {
	score := oomScore
	s.Process.OOMScoreAdj = &score
}

// snapshotHostName is the name until the agent gets the sandbox's own.
const snapshotHostName = "sandbox"

func hostName(s *specs.Spec, _ specParams) { s.Hostname = snapshotHostName }
