package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/guest/wire"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// Run starts code. What cannot be started, because the sandbox has no room or no
// processes left, fails with runtime.ErrNotStarted: from Run or from the first Next.
func (c *Client) Run(ctx context.Context, cmd runtime.Command) (runtime.Run, error) {
	req, err := runRequest(cmd)
	if err != nil {
		return nil, err
	}
	s, err := c.open(ctx, &Request{Method: MethodRun, Run: req})
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", cmd.ID, err)
	}
	for code := cmd.Code; len(code) > 0; {
		n := min(len(code), wire.MaxPayload)
		if err := s.Send(ctx, KindData, []byte(code[:n])); err != nil {
			s.Reset(nil)
			return nil, fmt.Errorf("run %s: %w", cmd.ID, c.explain(err))
		}
		code = code[n:]
	}
	return newRun(c, s, cmd, req), nil
}

func newRun(c *Client, s *wire.Stream, cmd runtime.Command, req *RunRequest) *run {
	dirs := make([]string, 0, len(cmd.CollectDirs))
	for _, dir := range req.CollectDirs {
		dirs = append(dirs, string(dir))
	}
	return &run{c: c, s: s, cmd: cmd, dirs: dirs}
}

// runRequest checks a command and turns it into a request.
func runRequest(cmd runtime.Command) (*RunRequest, error) {
	if !runIDPattern.MatchString(cmd.ID) || len(cmd.ID) > MaxRunID {
		return nil, fmt.Errorf("%w: the id of a run must be 1 to %d letters, digits, \"_\" and \"-\", not %q", runtime.ErrInvalid, MaxRunID, cmd.ID)
	}
	if !slices.Contains(agentsandbox.Languages, cmd.Language) {
		return nil, fmt.Errorf("%w: language must be python or bash, not %q", runtime.ErrInvalid, cmd.Language)
	}
	if len(cmd.Code) > MaxCode {
		return nil, fmt.Errorf("%w: code must be at most %d bytes, not %d", runtime.ErrInvalid, MaxCode, len(cmd.Code))
	}
	if l := cmd.Limits; cmd.Timeout < 0 || cmd.OutputLimit < 0 || cmd.Collect.Files < 0 || cmd.Collect.Bytes < 0 || cmd.Collect.Depth < 0 || cmd.Collect.Time < 0 ||
		l.CPUTime < 0 || l.Processes < 0 || l.OpenFiles < 0 || l.StreamBytes < 0 || l.Inodes < 0 {
		return nil, fmt.Errorf("%w: limits of a run must not be negative", runtime.ErrInvalid)
	}
	if err := agentsandbox.ValidateEnv(cmd.Env); err != nil {
		return nil, fmt.Errorf("%w: %w", runtime.ErrInvalid, err)
	}
	req := &RunRequest{
		ID:          cmd.ID,
		Language:    string(cmd.Language),
		CodeBytes:   int64(len(cmd.Code)),
		TimeoutNS:   int64(cmd.Timeout),
		OutputLimit: cmd.OutputLimit,
		Final:       cmd.Final,
		Files:       cmd.Collect.Files,
		Bytes:       cmd.Collect.Bytes,
		Depth:       cmd.Collect.Depth,
		CollectNS:   int64(cmd.Collect.Time),

		CollectIgnored: cmd.Collect.Ignored,
		Modules:        cmd.Modules,

		CPUTimeNS:   int64(cmd.Limits.CPUTime),
		Processes:   cmd.Limits.Processes,
		OpenFiles:   cmd.Limits.OpenFiles,
		StreamLimit: cmd.Limits.StreamBytes,
		Inodes:      cmd.Limits.Inodes,
	}
	for _, name := range slices.Sorted(maps.Keys(cmd.Env)) {
		req.Env = append(req.Env, []byte(name+"="+cmd.Env[name]))
	}
	for _, dir := range cmd.CollectDirs {
		clean, err := cleanPath(dir)
		if err != nil {
			return nil, err
		}
		req.CollectDirs = append(req.CollectDirs, []byte(clean))
	}
	return req, nil
}

// run is a run under way. It implements runtime.Run.
type run struct {
	c    *Client
	s    *wire.Stream
	cmd  runtime.Command
	dirs []string // clean

	// These belong to the caller of Next.
	seq     uint64
	unacked int
	stdout  int64
	stderr  int64
	changed []agentsandbox.PathInfo
	bytes   int64 // sizes of changed, added up

	mu     sync.Mutex
	ended  bool // the result has come
	closed bool
}

var errRunClosed = errors.New("the run was closed")

// Next waits for the next event.
func (r *run) Next(ctx context.Context) (runtime.Event, error) {
	if done, err := r.over(); done {
		return runtime.Event{}, err
	}
	for {
		if err := r.acknowledge(ctx); err != nil {
			return runtime.Event{}, r.fail(err)
		}
		m, err := r.s.Recv(ctx)
		if err == io.EOF {
			err = breach("the run's stream ended before its result")
		}
		if err != nil {
			return runtime.Event{}, r.fail(err)
		}
		event, err := r.take(m)
		if err != nil {
			return runtime.Event{}, r.fail(err)
		}
		if event.Result != nil {
			r.mu.Lock()
			r.ended = true
			r.mu.Unlock()
			if r.cmd.Keep == nil {
				r.s.End() // lets the agent forget the run
			}
			return event, nil
		}
		if event.Data != nil {
			return event, nil
		}
	}
}

func (r *run) over() (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return true, errRunClosed
	case r.ended:
		return true, io.EOF
	}
	return false, nil
}

func (r *run) fail(err error) error {
	if done, overErr := r.over(); done && overErr != io.EOF {
		return overErr
	}
	var keep *keepError
	if errors.As(err, &keep) {
		return fmt.Errorf("run %s: %w", r.cmd.ID, keep.err)
	}
	return fmt.Errorf("run %s: %w", r.cmd.ID, r.c.explain(err))
}

// acknowledge lets the agent forget what the caller has taken.
func (r *run) acknowledge(ctx context.Context) error {
	if r.unacked < AckEvery {
		return nil
	}
	if r.cmd.Keep != nil {
		if err := r.cmd.Keep(r.progress()); err != nil {
			return &keepError{err}
		}
	}
	if err := r.s.Send(ctx, KindAck, AppendSequence(nil, r.seq)); err != nil {
		return err
	}
	r.unacked = 0
	return nil
}

// take turns a message into an event; one that the caller need not see is empty.
func (r *run) take(m wire.Message) (runtime.Event, error) {
	seq, payload, err := ParseSequence(m.Payload)
	if err != nil {
		return runtime.Event{}, err
	}
	if seq != r.seq+1 {
		return runtime.Event{}, breach("message %d of the run after message %d", seq, r.seq)
	}
	r.seq = seq
	r.unacked += len(m.Payload)
	switch m.Kind {
	case KindStdout:
		return r.output(runtime.Stdout, payload, &r.stdout)
	case KindStderr:
		return r.output(runtime.Stderr, payload, &r.stderr)
	case KindChanged:
		return runtime.Event{}, r.addChanged(payload)
	case KindResult:
		var res RunResult
		if err := decode(payload, &res); err != nil {
			return runtime.Event{}, err
		}
		result, err := r.result(res)
		return runtime.Event{Result: result}, err
	}
	return runtime.Event{}, breach("a message of kind %d on the stream of a run", m.Kind)
}

func (r *run) output(stream runtime.Stream, data []byte, total *int64) (runtime.Event, error) {
	*total += int64(len(data))
	switch {
	case len(data) == 0:
		return runtime.Event{}, breach("empty output")
	case r.cmd.OutputLimit > 0 && *total > r.cmd.OutputLimit:
		return runtime.Event{}, breach("more output than the limit of %d bytes", r.cmd.OutputLimit)
	}
	return runtime.Event{Stream: stream, Data: data}, nil
}

func (r *run) addChanged(payload []byte) error {
	var entries []Entry
	if err := decode(payload, &entries); err != nil {
		return err
	}
	limit := MaxChanged
	if r.cmd.Collect.Files > 0 {
		limit = min(limit, r.cmd.Collect.Files)
	}
	for _, e := range entries {
		p := string(e.Name)
		if err := checkCollected(p, r.dirs); err != nil {
			return err
		}
		info, err := e.pathInfo(p)
		if err != nil {
			return err
		}
		left := r.cmd.Collect.Bytes - r.bytes
		switch {
		case info.Kind != agentsandbox.PathFile:
			return breach("%q is not a regular file", p)
		case len(r.changed) > 0 && r.changed[len(r.changed)-1].Path >= p:
			return breach("%q is out of order", p)
		case len(r.changed) == limit:
			return breach("more than %d changed files", limit)
		case r.cmd.Collect.Bytes > 0 && info.SizeBytes > left:
			return breach("changed files of more than %d bytes", r.cmd.Collect.Bytes)
		}
		r.bytes += info.SizeBytes
		r.changed = append(r.changed, info)
	}
	return nil
}

// maxOmitted bounds how many files an agent may say that it left out, so that no
// sum of them overflows.
const maxOmitted = 1 << 32

// limits are those that an agent may say ended a run.
var limits = []runtime.Limit{"", runtime.LimitCPUTime, runtime.LimitMemory, runtime.LimitStream, runtime.LimitInodes}

// result checks how a run ended.
func (r *run) result(res RunResult) (*runtime.Result, error) {
	switch {
	case res.ExitCode < 0 || res.ExitCode > 255 || res.Signal < 0 || res.Signal > 64 || res.ExitCode != 0 && res.Signal != 0:
		return nil, breach("exit code %d and signal %d", res.ExitCode, res.Signal)
	case res.DurationNS < 0 || res.CPUNS < 0:
		return nil, breach("a duration of %d ns, %d ns of CPU", res.DurationNS, res.CPUNS)
	case res.StdoutBytes < r.stdout || res.StderrBytes < r.stderr:
		return nil, breach("%d and %d bytes of output, of which %d and %d came", res.StdoutBytes, res.StderrBytes, r.stdout, r.stderr)
	case !slices.Contains(limits, runtime.Limit(res.Limit)) || res.Limit != "" && (res.TimedOut || res.Killed):
		return nil, breach("a run that limit %q ended, timed out %t, killed %t", res.Limit, res.TimedOut, res.Killed)
	case r.cmd.OutputLimit == 0 && (res.StdoutBytes != r.stdout || res.StderrBytes != r.stderr):
		return nil, breach("output was dropped without a limit")
	case res.Changed != len(r.changed) || res.Cleared < 0:
		return nil, breach("%d changed files; %d came", res.Changed, len(r.changed))
	}
	for why, count := range res.Omitted {
		if !slices.Contains(agentsandbox.OmittedReasons, why) || count <= 0 || count > maxOmitted {
			return nil, breach("%d files left out because of %q", count, why)
		}
	}
	return &runtime.Result{
		ExitCode:      res.ExitCode,
		Signal:        res.Signal,
		TimedOut:      res.TimedOut,
		Killed:        res.Killed,
		Limit:         runtime.Limit(res.Limit),
		ProcessesFull: res.ProcessesFull,
		DiskFull:      res.DiskFull,

		SharedMemoryFull: res.SharedMemoryFull,
		Cleared:          res.Cleared,
		Duration:         time.Duration(res.DurationNS),
		CPU:              time.Duration(res.CPUNS),
		StdoutBytes:      res.StdoutBytes,
		StderrBytes:      res.StderrBytes,
		Changed:          r.changed,
		Omitted:          res.Omitted,
	}, nil
}

// Kill ends the run. On one that has ended it does nothing.
func (r *run) Kill(ctx context.Context) error {
	err := r.s.Send(ctx, KindKill, nil)
	if err == nil || errors.Is(err, wire.ErrStreamDone) {
		return nil
	}
	var reset *wire.ResetError
	if errors.As(err, &reset) {
		return nil // it was never started, and Next says so
	}
	return fmt.Errorf("kill run %s: %w", r.cmd.ID, r.c.explain(err))
}

// Relieve ends every process of the user, because the sandbox holds more memory
// than it may. The results of the runs under way say so. It returns when the
// processes are gone, as far as they can be.
func (c *Client) Relieve(ctx context.Context) error {
	var reply struct{}
	if err := c.call(ctx, &Request{Method: MethodRelieve}, &reply); err != nil {
		return fmt.Errorf("relieve the sandbox: %w", err)
	}
	return nil
}

// Close lets go of the run; one that has not ended is killed.
func (r *run) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	if r.ended {
		r.s.End() // lets the agent forget the run
	} else {
		r.s.Reset(nil)
	}
	return nil
}
