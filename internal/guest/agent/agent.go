// Package agent is the program inside a sandbox that runs code and moves files
// for the host. It is process 1 there, runs as root, and is the only thing that
// talks to the host.
//
// It owns runs from their start to their result, what they write until the host has
// it, the files that they changed, and file operations with the rights of the
// sandbox's user. Processes come from package proc, and what they run in from the
// starters of languages.go. It trusts the host, and
// nothing that the user can touch: paths are opened without following a link in
// their last element, directories are read within a budget, no wait depends on
// a process of the user.
//
// A run does not depend on the conversation that started it: when that breaks,
// the run goes on, its output waits, and another conversation can attach to it.
//
// It fails by resetting the stream of the request with a [guest.Failure].
package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/guest/proc"
	"github.com/agentsandbox/agentsandbox/internal/guest/script"
	"github.com/agentsandbox/agentsandbox/internal/guest/wire"
)

// Options say where and how an agent works.
type Options struct {
	// Root is the directory that stands for "/". In a sandbox it is "/".
	Root string
	// User is whose rights code and file operations have; nil: the agent's own.
	User *proc.User
	// Python and Bash are the paths of the interpreters on this machine.
	Python, Bash string
	// LauncherDir holds the launchers of interpreters, on this machine.
	LauncherDir string
	// Env is the environment that every run begins with, NAME=value.
	Env []string
	// Init says that the agent is process 1 of a sandbox of its own: it reaps
	// orphans, sets the host name, and ends every process of User after a run
	// that is the last. Otherwise it leaves the machine alone.
	Init   bool
	Logger *slog.Logger
}

// BaseEnv is the environment of a run in a sandbox.
func BaseEnv() []string {
	return []string{
		"PATH=" + guest.Home + "/.local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=" + guest.Home,
		"USER=" + guest.UserName,
		"LOGNAME=" + guest.UserName,
		"SHELL=/bin/bash",
		"LANG=C.UTF-8",
		"PWD=" + agentsandbox.Workspace,
		"MPLCONFIGDIR=" + guest.Home + "/.cache/matplotlib",
	}
}

// Agent serves conversations. Its methods are safe for concurrent use.
type Agent struct {
	opts      Options
	log       *slog.Logger
	workspace string // on this machine
	threads   *userThreads
	processes *proc.Table
	scripts   *script.Dir
	languages []*language
	uploads   uploads
	known     known
	drains    drains
	wg        sync.WaitGroup // runs
	serial    atomic.Uint64
	memory    atomic.Int64 // the sandbox's limit, in bytes; 0: none is known
	alone     atomic.Int64 // how long it goes on without a conversation, in ms; 0: for ever
	inodes    inodes
	relieving sync.Mutex // while every process of the user is ended

	mu     sync.Mutex
	runs   map[string]*run
	closed bool
	// finished are the runs that ended and were not taken, oldest first.
	finished []*run
}

// New makes an agent. The directories of scripts and of the workspace must be
// possible to make.
func New(opts Options) (*Agent, error) {
	if opts.Logger == nil {
		return nil, errors.New("the agent needs a logger")
	}
	a := &Agent{
		opts:      opts,
		log:       opts.Logger,
		workspace: filepath.Join(opts.Root, agentsandbox.Workspace),
		runs:      map[string]*run{},
	}
	var err error
	if a.threads, err = newUserThreads(opts.User); err != nil {
		return nil, err
	}
	if a.scripts, err = script.Open(filepath.Join(opts.Root, guest.ScriptDir)); err != nil {
		return nil, err
	}
	a.processes = proc.New(proc.Options{Init: opts.Init, User: opts.User, AsUser: a.threads.do, Dir: a.workspace, Logger: opts.Logger})
	a.languages = a.newLanguages()
	if opts.Init && opts.User != nil {
		if err := a.scripts.Stage(a.workspace, a.extensions(), a.log); err != nil {
			return nil, err
		}
		if err := shareDevices(); err != nil {
			return nil, err
		}
	}
	a.known.start(a)
	return a, nil
}

// Close ends every run and waits for everything that the agent started.
func (a *Agent) Close() {
	a.mu.Lock()
	a.closed = true
	for _, r := range a.runs {
		r.abandon()
	}
	a.mu.Unlock()
	a.wg.Wait()
	for _, l := range a.languages {
		l.starter.Close()
	}
	a.drains.close()
	a.processes.Close()
	a.known.close()
}

// Serve serves one conversation, from the host's hello to its end. It returns
// nil if the host ended it in order: then rw can be used for the next one. Runs
// outlive it.
func (a *Agent) Serve(ctx context.Context, rw io.ReadWriteCloser) error {
	conn, err := wire.Accept(ctx, rw, wire.Options{})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var handlers sync.WaitGroup
	for {
		s, err := conn.Accept(ctx)
		if err != nil {
			break
		}
		handlers.Go(func() { a.handle(ctx, s) })
	}
	conn.Abort(context.Cause(ctx)) // does nothing if the conversation is over
	cancel()
	handlers.Wait()
	conn.Wait()
	if err := conn.Err(); !errors.Is(err, wire.ErrGoodbye) {
		return fmt.Errorf("the conversation broke: %w", err)
	}
	return nil
}

// handle serves one stream.
func (a *Agent) handle(ctx context.Context, s *wire.Stream) {
	var req guest.Request
	err := guest.RecvDocument(ctx, s, guest.KindRequest, guest.MaxRequest, &req)
	if err == nil {
		err = a.dispatch(ctx, s, &req)
	}
	if err != nil {
		f := failureOf(err)
		a.log.Debug("request failed", "method", req.Method, "code", f.Code, "error", f.Text)
		s.Reset(f.Encode())
	}
}

// dispatch serves a request as far as the end of its stream, or returns why it
// failed.
func (a *Agent) dispatch(ctx context.Context, s *wire.Stream, req *guest.Request) error {
	switch req.Method {
	case guest.MethodRun:
		return a.serveRun(ctx, s, req.Run)
	case guest.MethodAttach:
		return a.serveAttach(ctx, s, req.Run)
	case guest.MethodRead:
		return a.serveRead(ctx, s, string(req.Path))
	case guest.MethodWrite:
		return a.serveWrite(ctx, s, string(req.Path))
	case guest.MethodDial:
		return a.serveDial(ctx, s, req.Port)
	}
	reply, err := a.answer(ctx, req)
	if err != nil {
		return err
	}
	if err := guest.SendDocument(ctx, s, guest.KindReply, reply); err != nil {
		return err
	}
	s.End()
	return nil
}

// answer serves the methods that have one document as their reply.
func (a *Agent) answer(ctx context.Context, req *guest.Request) (any, error) {
	type empty struct{}
	switch req.Method {
	case guest.MethodIdentify:
		return empty{}, a.identify(req.Identity)
	case guest.MethodPrepare:
		return empty{}, a.prepare(ctx, req.Modules)
	case guest.MethodForget:
		if req.Run == nil {
			return nil, refuse(guest.FailInvalid, "forget needs the id of a run")
		}
		a.forgetNamed(req.Run.ID)
		return empty{}, nil
	case guest.MethodRetain:
		a.retain(req.Retain)
		return empty{}, nil
	case guest.MethodStat:
		return a.stat(string(req.Path))
	case guest.MethodList:
		return a.list(ctx, string(req.Path), string(req.After), req.Limit)
	case guest.MethodRelieve:
		a.relieve()
		return empty{}, nil
	case guest.MethodRemove:
		return empty{}, a.remove(ctx, string(req.Path))
	}
	return nil, refuse(guest.FailInvalid, "this agent has no method %q", req.Method)
}

// path puts a path of the sandbox below the agent's root.
func (a *Agent) path(p string) string {
	if a.opts.Root == "/" {
		return p
	}
	return filepath.Join(a.opts.Root, p)
}

// nextName returns a name that this agent has not used.
func (a *Agent) nextName() string {
	return fmt.Sprintf("%d-%d", os.Getpid(), a.serial.Add(1))
}
