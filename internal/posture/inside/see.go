package inside

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ownDescriptors lists what the process was started with, by kind.
func ownDescriptors() string {
	// More than the few numbers that could have been inherited, without a
	// directory of /proc, which would be one more.
	const highest = 1024
	var all []string
	for fd := range highest {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			continue
		}
		// What the Go run time opened for itself is closed on exec; what was
		// inherited is not.
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC != 0 {
			continue
		}
		all = append(all, fmt.Sprintf("%d %s", fd, kind(st.Mode)))
	}
	return strings.Join(all, ", ")
}

func kind(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFCHR:
		return "character device"
	case unix.S_IFBLK:
		return "block device"
	case unix.S_IFIFO:
		return "pipe"
	case unix.S_IFSOCK:
		return "socket"
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFREG:
		return "file"
	}
	return "other"
}

// mounts states every mount, with the flags that bound what it is good for.
func mounts(r *report) {
	var points []string
	for _, line := range strings.Split(strings.TrimSpace(content("/proc/self/mountinfo")), "\n") {
		before, after, ok := strings.Cut(line, " - ")
		fields, kinds := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 6 || len(kinds) < 1 {
			r.add("mounts", "not understood: "+line)
			return
		}
		points = append(points, fields[4])
		options := strings.Split(fields[5], ",")
		slices.Sort(options)
		r.addf("mount "+fields[4], "%s %s", kinds[0], strings.Join(options, ","))
	}
	slices.Sort(points)
	r.add("mounts", strings.Join(points, " "))
	var devices []string
	_ = filepath.WalkDir("/dev", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type()&fs.ModeDevice != 0 {
			devices = append(devices, path)
		}
		return nil
	})
	r.add("devices", strings.Join(devices, " "))
}

// processes states which processes the code sees, and what it learns of the
// agent.
func processes(r *report) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		r.add("processes", failure(err))
		return
	}
	var seen []string
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		// Those of its own user come and go: the next interpreter, for one.
		var st unix.Stat_t
		if unix.Stat("/proc/"+e.Name(), &st) == nil && int(st.Uid) != os.Getuid() {
			seen = append(seen, fmt.Sprintf("%s (uid %d)", strings.TrimSpace(content("/proc/"+e.Name()+"/comm")), st.Uid))
		}
	}
	slices.Sort(seen)
	r.add("processes of others", strings.Join(seen, ", "))
	for _, name := range []string{"environ", "mem", "maps", "auxv", "io"} {
		f, err := os.Open("/proc/1/" + name)
		if err == nil {
			_, err = f.Read(make([]byte, 1))
			f.Close()
		}
		r.add("agent's "+name, failure(err))
	}
	for _, name := range []string{"exe", "cwd", "root", "ns/pid", "ns/net"} {
		_, err := os.Readlink("/proc/1/" + name)
		r.add("agent's "+name, failure(err))
	}
	list, err := os.ReadDir("/proc/1/fd")
	if err == nil {
		r.addf("agent's descriptors", "%d to be seen", len(list))
	} else {
		r.add("agent's descriptors", failure(err))
	}
}

// files states what the code can write, and what would give it other rights.
func files(r *report) {
	var writable, special []string
	err := filepath.WalkDir("/", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // what cannot be seen cannot be used
		}
		if path == "/proc" || path == "/sys" {
			return fs.SkipDir
		}
		if d.Type()&fs.ModeSymlink != 0 {
			return nil
		}
		if info, err := d.Info(); err == nil && info.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
			special = append(special, path)
		}
		if d.Type()&fs.ModeDevice == 0 && unix.Access(path, unix.W_OK) == nil {
			writable = append(writable, path)
			if d.IsDir() {
				return fs.SkipDir
			}
		}
		return nil
	})
	if err != nil {
		r.add("writable", failure(err))
	}
	r.add("writable", strings.Join(writable, " "))
	r.add("set-user-ID programs", strings.Join(special, " "))
	for _, path := range []string{
		"/proc/kcore", "/proc/kallsyms", "/proc/keys", "/proc/kmsg", "/proc/modules", "/proc/interrupts", "/proc/sched_debug",
		"/proc/timer_list", "/proc/config.gz", "/proc/1/root/etc", "/etc/shadow", "/dev/mem", "/dev/kmem", "/dev/kmsg", "/dev/kvm", "/dev/fuse", "/dev/net/tun", "/dev/sda",
		"/var/run/docker.sock", "/run/containerd/containerd.sock", "/var/run/secrets",
	} {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err == nil {
			unix.Close(fd)
		}
		r.add("open "+path, failure(err))
	}
	for _, path := range []string{
		"/proc/sysrq-trigger", "/proc/sys/kernel/hostname", "/proc/sys/kernel/core_pattern", "/proc/sys/vm/overcommit_memory",
		"/proc/sys/net/ipv4/ip_forward", "/sys/kernel/uevent_helper", "/proc/1/oom_score_adj", "/proc/self/uid_map",
	} {
		fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			unix.Close(fd)
		}
		r.add("open for writing "+path, failure(err))
	}
}
