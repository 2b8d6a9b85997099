package script

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/guest/rawio"
)

// stages are names in the workspace, one for each language, under which every run
// sees its own code: each interpreter has mounts of its own, in which its script
// is mounted over the stage. A stage itself is an empty file of root's, which
// gVisor's kernel leaves out of listings, and which cannot be removed or replaced
// because another empty file, the cover, is mounted over it.
//
// A process of the user that makes a user namespace can take its own mounts away,
// and then the file. So a stage is looked at, and made anew, before each use; where
// the user has put something else in its place, runs see their code under the path
// that it is written to.
type stages struct {
	workspace string // empty: there are none
	cover     string // a file in a directory that only root can write to
	log       *slog.Logger
}

// Stage has scripts of languages seen in the workspace, by the extensions of their
// files. The program must be the only one of its mount namespace. No script may have
// been made yet.
func (d *Dir) Stage(workspace string, extensions []string, log *slog.Logger) error {
	s := &d.stages
	s.workspace, s.cover, s.log = workspace, filepath.Join(d.path, "cover"), log
	if err := rawio.WriteFile(s.cover, unix.O_CREAT|unix.O_EXCL, nil); err != nil {
		return err
	}
	// What an interpreter mounts is to stay with it.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts private: %w", err)
	}
	for _, extension := range extensions {
		if err := s.make(extension); err != nil {
			return fmt.Errorf("make room for scripts in the workspace: %w", err)
		}
	}
	return nil
}

func (s *stages) path(extension string) string {
	return filepath.Join(s.workspace, guest.ScriptName+extension)
}

// find returns the stage for a language, or nothing if there is none to use.
func (s *stages) find(extension string) string {
	if s.workspace == "" {
		return ""
	}
	path := s.path(extension)
	fd, err := openStage(path)
	if errors.Is(err, unix.ENOENT) {
		if err = s.make(extension); err == nil {
			return path
		}
	}
	if err != nil {
		s.log.Info("a run sees its code outside the workspace", "error", err)
		return ""
	}
	unix.Close(fd)
	return path
}

func (s *stages) make(extension string) error {
	path := s.path(extension)
	if err := rawio.WriteFile(path, unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, nil); err != nil {
		return err
	}
	return mountOver(s.cover, path)
}

// openStage opens a stage that is as the agent made it.
func openStage(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Uid != 0 || st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return -1, fmt.Errorf("%s is no file of root's", path)
	}
	return fd, nil
}

// mountOver mounts a file over a stage.
func mountOver(path, stage string) error {
	fd, err := openStage(stage)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// By its descriptor: the user could have put a link in its place by now.
	if err := unix.Mount(path, "/proc/thread-self/fd/"+strconv.Itoa(fd), "", unix.MS_BIND, ""); err != nil {
		return &os.PathError{Op: "mount over", Path: stage, Err: err}
	}
	return nil
}

// Fork calls a function that forks where the script is mounted over its stage. What
// it forks inherits that.
func (s Script) Fork(fork func() (pid int, err error)) (pid int, err error) {
	if s.stage == "" {
		return fork()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		// For good: the thread has mounts of its own, and ends with the goroutine.
		runtime.LockOSThread()
		if err = unix.Unshare(unix.CLONE_NEWNS); err != nil {
			err = os.NewSyscallError("unshare", err)
			return
		}
		// In place of the cover. If the user took that away, there is none.
		_ = unix.Unmount(s.stage, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err = mountOver(s.path, s.stage); err == nil {
			pid, err = fork()
		}
	}()
	<-done
	return pid, err
}
