package agent

import (
	"fmt"

	"golang.org/x/sys/unix"
)

const sharedMemoryDir = "/dev/shm"

// minSharedMemory is what /dev/shm has room for at least, as in a snapshot, in
// bytes.
const minSharedMemory = 64 << 20

// shareDevices lets what is mounted below /dev later on be seen by the interpreters
// that wait by then, each of which has mounts of its own.
func shareDevices() error {
	if err := unix.Mount("", "/dev", "", unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share /dev: %w", err)
	}
	return nil
}

// growSharedMemory gives /dev/shm room for half of the sandbox's memory, as Linux
// does. gVisor cannot change the size of a file system: nobody has used this one
// yet, and another takes its place.
func (a *Agent) growSharedMemory() error {
	size := a.memory.Load() / 2
	if size <= minSharedMemory {
		return nil
	}
	if err := unix.Unmount(sharedMemoryDir, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", sharedMemoryDir, err)
	}
	if err := unix.Mount("none", sharedMemoryDir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("mode=1777,size=%d", size)); err != nil {
		return fmt.Errorf("mount %s: %w", sharedMemoryDir, err)
	}
	return nil
}
