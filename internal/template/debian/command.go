package debian

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	// tailLines and lineBytes bound what is kept of a tool's output.
	tailLines = 25
	lineBytes = 400
	// stopDelay is how long a cancelled tool may take to clean up.
	stopDelay = 10 * time.Second
)

// Error is a tool that failed.
type Error struct {
	Step   string // what was being done
	Err    error  // how the tool ended
	Output string // the end of what it wrote, without credentials
	Remedy string // what to do about it; may be empty
}

func (e *Error) Error() string {
	text := fmt.Sprintf("%s: %v", e.Step, e.Err)
	if e.Output != "" {
		text += "\n" + e.Output
	}
	if e.Remedy != "" {
		text += "\n" + e.Remedy
	}
	return text
}

// Lines is Error line by line, the tool's output indented.
func (e *Error) Lines() []string {
	lines := []string{fmt.Sprintf("%s: %v", e.Step, e.Err)}
	if e.Output != "" {
		for line := range strings.SplitSeq(e.Output, "\n") {
			lines = append(lines, "  "+line)
		}
	}
	if e.Remedy != "" {
		lines = append(lines, strings.Split(e.Remedy, "\n")...)
	}
	return lines
}

func (e *Error) Unwrap() error { return e.Err }

// command is a program to run, on the host or in the tree.
type command struct {
	step   string
	remedy string
	argv   []string // an absolute path first, if it runs in the tree
	env    []string
	// inTree runs it with the tree as its root and without a network.
	inTree bool
	user   bool // as the sandbox's user, not as root
}

// run runs a command to its end. The command dies with this process, and when
// ctx ends.
func (b *Builder) run(ctx context.Context, c command) error {
	// A child's parent-death signal is sent when the thread that made it ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	cmd := exec.CommandContext(ctx, c.argv[0], c.argv[1:]...)
	cmd.Env = c.env
	// A mount namespace of its own: what the tool mounts goes with it, however
	// it ends, so that removing the tree can never reach the host's files.
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:      true,
		Pdeathsig:    syscall.SIGKILL,
		Unshareflags: syscall.CLONE_NEWNS,
	}
	if c.inTree {
		cmd.SysProcAttr.Chroot = b.tree
		cmd.SysProcAttr.Unshareflags |= syscall.CLONE_NEWNET
		cmd.Dir = "/"
	}
	if c.user {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: UserID, Gid: UserID}
	}
	if b.Hold != nil {
		// An empty file, so it is as good as /dev/null. As a descriptor of its own
		// it would push those of mmdebstrap beyond 9, and it has a shell redirect
		// to one of them: dash knows only one digit.
		cmd.Stdin = b.Hold
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = stopDelay

	out, in, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = in, in
	b.progress(c.step, "")
	b.Log.DebugContext(ctx, "run", "step", c.step, "program", c.argv[0])
	err = cmd.Start()
	in.Close()
	if err != nil {
		return &Error{Step: c.step, Err: err, Remedy: c.remedy}
	}
	tail := make(chan []string, 1)
	go func() { tail <- b.follow(c.step, out) }()
	err = cmd.Wait()
	// Stragglers would keep the pipe open, and write to the tree.
	if kill := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); kill != nil && !errors.Is(kill, syscall.ESRCH) {
		b.Log.WarnContext(ctx, "cannot end what a tool left running", "step", c.step, "error", kill)
	}
	if err := out.SetReadDeadline(time.Now().Add(stopDelay)); err != nil {
		return err
	}
	output := <-tail
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", c.step, context.Cause(ctx))
	}
	if err != nil {
		return &Error{Step: c.step, Err: err, Output: strings.Join(output, "\n"), Remedy: c.remedy}
	}
	return nil
}

// follow reads a tool's output to its end, reports each line, and returns the
// last ones.
func (b *Builder) follow(step string, out io.Reader) []string {
	var tail []string
	lines := bufio.NewReaderSize(out, 4096)
	for {
		raw, err := lines.ReadSlice('\n')
		if line := strings.TrimSpace(redact(strings.ToValidUTF8(string(raw), "?"))); line != "" {
			line = line[:min(len(line), lineBytes)]
			if tail = append(tail, line); len(tail) > tailLines {
				tail = slices.Delete(tail, 0, 1)
			}
			b.progress(step, line)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return tail
		}
	}
}

var userinfo = regexp.MustCompile(`://[^/@\s]+@`)

// redact takes names and passwords out of the URLs in a text.
func redact(text string) string { return userinfo.ReplaceAllString(text, "://***@") }

// hostEnv is the part of this process's environment that tools on the host may
// need: where things are, and how the network is reached.
func hostEnv(extra ...string) []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"}
	for _, pair := range os.Environ() {
		key, _, _ := strings.Cut(pair, "=")
		upper := strings.ToUpper(key)
		if strings.HasSuffix(upper, "_PROXY") || strings.HasPrefix(key, "PIP_") ||
			slices.Contains([]string{"HOME", "NETRC", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}, key) {
			env = append(env, pair)
		}
	}
	return append(env, extra...)
}

// treeEnv is the whole environment of a command in the tree.
func treeEnv(extra ...string) []string {
	return append([]string{"PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL=C.UTF-8", "HOME=/root"}, extra...)
}
