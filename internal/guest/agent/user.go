package agent

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/guest/proc"
)

// userThreadCount bounds the file operations that go on at once.
const userThreadCount = 4

// userThreads do what must be done with the rights of the sandbox's user. Each
// is an operating system thread whose effective ids are the user's: the system
// calls that open, make, rename and remove see a user without capabilities. The
// real and saved ids stay root's, so that the user can neither signal nor trace
// the thread. The threads are switched once and never go back.
//
// The raw system calls matter: those of package syscall switch every thread of
// the process.
type userThreads struct {
	jobs chan func()
}

// newUserThreads starts the threads; for a nil user, none: then the work is
// done with the agent's own rights.
func newUserThreads(user *proc.User) (*userThreads, error) {
	if user == nil {
		return &userThreads{}, nil
	}
	t := &userThreads{jobs: make(chan func())}
	for range userThreadCount {
		ready := make(chan error)
		go t.serve(*user, ready)
		if err := <-ready; err != nil {
			return nil, err
		}
	}
	return t, nil
}

// serve lives as long as the agent. If it returns, its thread goes with it.
func (t *userThreads) serve(user proc.User, ready chan<- error) {
	runtime.LockOSThread()
	if err := becomeUser(user); err != nil {
		ready <- fmt.Errorf("take the rights of uid %d: %w", user.UID, err)
		return
	}
	ready <- nil
	for job := range t.jobs {
		job()
	}
}

func becomeUser(user proc.User) error {
	const keep = ^uintptr(0)
	uid, gid := uintptr(user.UID), uintptr(user.GID)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
		return fmt.Errorf("setgroups: %w", errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, keep, gid, keep); errno != 0 {
		return fmt.Errorf("setresgid: %w", errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, uid, keep); errno != 0 {
		return fmt.Errorf("setresuid: %w", errno)
	}
	if unix.Geteuid() != user.UID || unix.Getegid() != user.GID {
		return errors.New("the thread did not change its effective ids")
	}
	return nil
}

// do runs a job with the user's rights and waits for it.
func (t *userThreads) do(job func() error) error {
	if t.jobs == nil {
		return job()
	}
	done := make(chan error, 1)
	t.jobs <- func() { done <- job() }
	return <-done
}
