package agent

import (
	"context"
	"encoding/json"
	"path/filepath"
	stdruntime "runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

const (
	// maxRuns bounds the runs that go on at once.
	maxRuns = 1024
	// maxFinished bounds the runs that are over and that no host has taken; the
	// oldest are forgotten. All that were under way when a conversation broke can
	// end before the next one begins, and none of them may be lost.
	maxFinished = maxRuns
)

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// run is one run of code. It lives in the agent, whoever follows it.
type run struct {
	a    *Agent
	req  *guest.RunRequest
	log  *outputLog
	code []byte
	env  []string
	proc process
	// ended says that the agent ended the process before its time.
	ended bool
	// modules are what the code imports of those that can be loaded ahead.
	modules []string
	// cleared counts processes of earlier runs that made room for this one.
	cleared int

	dropOnce sync.Once
	dropped  chan struct{}
	over     chan struct{} // closed when the run has ended

	mu     sync.Mutex
	unlink context.CancelFunc // ends the conversation that follows the run
	end    ending             // why it must end; zero: it need not
	killed chan struct{}      // closed when it must end
}

// process is what a run runs as.
type process struct {
	*child
	out        outputs
	started    time.Time
	usedBefore time.Duration // CPU, before the run
	settle     func()        // frees, before the result is told, what the next run may need; nil: nothing
	release    func()        // frees what else it holds
	// begun tells whether the code has begun: before that another process can run
	// it as well. What it tells of a process that has ended is final.
	begun func() bool
	// preceded says that code of the user's may run before that, and exit: a
	// sitecustomize on PYTHONPATH.
	preceded bool
}

// startRun registers a run and starts its process.
func (a *Agent) startRun(req *guest.RunRequest, code []byte) (*run, error) {
	r := &run{a: a, req: req, code: code, log: newOutputLog(), killed: make(chan struct{}), dropped: make(chan struct{}), over: make(chan struct{})}
	a.mu.Lock()
	switch {
	case a.closed:
		a.mu.Unlock()
		return nil, refuse(guest.FailOther, "the agent is ending")
	case a.runs[req.ID] != nil:
		a.mu.Unlock()
		return nil, refuse(guest.FailInvalid, "there is a run %q already", req.ID)
	case len(a.runs) >= maxRuns+maxFinished:
		a.mu.Unlock()
		return nil, refuse(guest.FailNotStarted, "%d runs are under way in this sandbox; wait for some of them", maxRuns)
	}
	a.runs[req.ID] = r
	a.wg.Add(1)
	a.mu.Unlock()

	a.known.runBegins()
	err := r.start()
	if err != nil {
		a.known.runEnds()
		a.mu.Lock()
		delete(a.runs, req.ID)
		a.mu.Unlock()
		a.wg.Done()
		return nil, err
	}
	go func() {
		defer a.wg.Done()
		defer a.known.runEnds()
		r.supervise()
	}()
	return r, nil
}

func (r *run) start() (err error) {
	r.cleared = r.a.clearBombs(r.req.Processes)
	for _, setting := range r.req.Env {
		r.env = append(r.env, string(setting))
	}
	switch agentsandbox.Language(r.req.Language) {
	case agentsandbox.Python:
		r.modules = r.a.modulesOf(r.code)
		forked := false
		if len(r.modules) > 0 {
			r.proc, forked = r.a.forks.run(r.modules, r.code, r.env, r.req)
		}
		if !forked {
			r.proc, err = r.a.interprets.run(r.code, r.env, r.req)
		}
	case agentsandbox.Bash:
		var waited bool
		if r.proc, waited = r.a.shells.run(r.code, r.env, r.req); !waited {
			r.proc, err = r.a.startBash(r.code, r.env, r.req)
		}
	default:
		err = refuse(guest.FailInvalid, "this agent runs no %q", r.req.Language)
	}
	return err
}

func (a *Agent) startBash(code []byte, env []string, req *guest.RunRequest) (process, error) {
	s, err := a.scripts.new(".sh")
	if err != nil {
		return process{}, notStarted("make room for the script", err)
	}
	if err := s.write(code); err != nil {
		s.remove()
		return process{}, notStarted("write the script", err)
	}
	// Bash opens the script when it is about to run it.
	opened, err := watchOpen(s.path)
	if err != nil {
		s.remove()
		return process{}, notStarted("watch the script", err)
	}
	release := func() {
		opened.close()
		s.remove()
	}
	started := time.Now()
	ch, out, err := a.spawn(program{
		path:   a.opts.Bash,
		args:   []string{filepath.Base(a.opts.Bash), s.name()},
		env:    merge(a.opts.Env, env),
		script: s,
	})
	if err != nil {
		release()
		return process{}, notStarted("start "+filepath.Base(a.opts.Bash), err)
	}
	if err := a.limit(ch, req); err != nil {
		a.killRun(ch)
		<-ch.done
		out.close()
		release()
		return process{}, err
	}
	begun := opened.happened
	if first, _ := lookup(env, "BASH_ENV"); first != "" {
		begun = func() bool { return true } // that is code of the user's, and comes first
	}
	return process{child: ch, out: out, started: started, begun: begun, release: release}, nil
}

// merge adds variables to an environment: each name stands in it once.
func merge(base, add []string) []string {
	merged := base[:len(base):len(base)]
	for _, setting := range add {
		name, _, _ := strings.Cut(setting, "=")
		merged = without(merged, name)
	}
	return append(merged, add...)
}

// supervise takes a run from its start to its result.
func (r *run) supervise() {
	defer func() {
		r.a.retire(r)
		close(r.over)
		r.refill()
	}()
	result, pumps := r.conduct()
	for begins := 1; begins < maxBegins && r.mayBeginAgain(pumps); begins++ {
		r.letGo(pumps)
		var err error
		if r.proc, err = r.startAgain(); err != nil {
			r.log.fail(err)
			return
		}
		result, pumps = r.conduct()
	}
	pumps.release()
	r.code, r.env = nil, nil
	if r.req.Final {
		r.a.killUser()
	} else {
		releaseMemory(keptMemory)
	}
	if r.proc.settle != nil {
		r.proc.settle()
	}
	result.StdoutBytes, result.StderrBytes = pumps.streams[0].total, pumps.streams[1].total
	r.report(result)

	// Nobody waits for the rest: who sends the result comes first.
	stdruntime.Gosched()
	r.letGo(pumps)
}

// refill lets another interpreter wait in the place of the one that the run may
// have used: when the run is over and the host has let go of it, because the
// start of an interpreter would slow down both.
func (r *run) refill() {
	if r.req.Final {
		return
	}
	for _, step := range []chan struct{}{r.over, r.dropped} {
		select {
		case <-step:
		default:
			return
		}
	}
	if r.req.Language == string(agentsandbox.Bash) {
		r.a.shells.refill()
		return
	}
	r.a.interprets.refill()
	if len(r.modules) > 0 {
		r.a.forks.refill(r.modules)
	}
}

// maxBegins is how often a run is begun, if process after process dies before it
// has begun the code. Other runs of the sandbox can kill some of them; one that
// fails by itself, because of a variable that the run sets perhaps, has its own
// outcome in the end.
const maxBegins = 5

// mayBeginAgain tells, when the process of the run has ended, whether that died
// before it had begun the code. Whoever asked for the run need not hear of it.
func (r *run) mayBeginAgain(pumps *pumps) bool {
	if pumps.released() || r.proc.begun() {
		return false
	}
	if r.proc.preceded && r.proc.status.Exited() {
		return false
	}
	// Memory is relieved by the end of every process, and this one had no part in
	// the use of it.
	r.a.relieving.Lock()
	defer r.a.relieving.Unlock()
	return r.reopen() || !r.ended
}

// startAgain starts a process of the run's own, after another one died before it
// had begun the run.
func (r *run) startAgain() (process, error) {
	if r.req.Language == string(agentsandbox.Bash) {
		return r.a.startBash(r.code, r.env, r.req)
	}
	return r.a.interprets.runFresh(r.code, r.env, r.req)
}

// preloadMemory is the least memory limit with which interpreters of a session
// wait with modules loaded, in bytes.
const preloadMemory = 512 << 20

// modulesOf returns what interpreters of a session load ahead for some code: one
// run is much like the next.
func (a *Agent) modulesOf(code []byte) []string {
	limit := a.memory.Load()
	// Only process 1 becomes the parent of what a fork server forks.
	if !a.opts.Init || a.opts.User == nil || a.preparing.Load() || limit > 0 && limit < preloadMemory {
		return nil
	}
	return runtime.VariantFor(agentsandbox.Python, string(code)).Modules()
}

// conduct waits for the process of the run, and takes all that it writes.
func (r *run) conduct() (guest.RunResult, *pumps) {
	pumps := startPumps(r.proc.out, r, r.proc.begun)
	stopGuard := r.guard()
	result := r.await()
	stopGuard(&result)
	pumps.finish()
	return result, pumps
}

// letGo frees what the process of a run held.
func (r *run) letGo(pumps *pumps) {
	for _, pu := range pumps.streams {
		if pu.open && !r.req.Final {
			r.a.drains.adopt(pu.pipe)
		} else {
			pu.pipe.close()
		}
	}
	r.proc.out.waiter.close()
	r.proc.release()
}

// await waits until the main process has ended, and ends it where it must.
func (r *run) await() guest.RunResult {
	var timeout <-chan time.Time
	if r.req.TimeoutNS > 0 {
		timer := time.NewTimer(time.Duration(r.req.TimeoutNS))
		defer timer.Stop()
		timeout = timer.C
	}
	var used time.Duration
	kill := true
	select {
	case <-r.proc.done:
		kill = false
	case <-timeout:
		r.endBy(ending{timedOut: true})
		r.interrupt()
	case <-r.killed:
	case <-r.dropped:
	}
	r.ended = kill
	if kill {
		used = r.a.killRun(r.proc.child) // what is killed is not waited for
		<-r.proc.done
	}
	var result guest.RunResult
	if r.proc.status.Signaled() {
		result.Signal = int(r.proc.status.Signal())
	} else {
		result.ExitCode = r.proc.status.ExitStatus()
	}
	if end := r.ending(); kill || end.limit == runtime.LimitMemory && result.Signal == int(unix.SIGKILL) {
		result.TimedOut, result.Killed, result.Limit = end.timedOut, end.asked, string(end.limit)
	}
	if result.TimedOut {
		// Whatever it made of its last moment, its time was over.
		result.ExitCode, result.Signal = 0, int(unix.SIGKILL)
	}
	result.DurationNS = int64(max(r.proc.ended.Sub(r.proc.started), 0))
	result.CPUNS = int64(max(r.proc.cpu+used-r.proc.usedBefore, 0))
	return result
}

// interruptTime is what a Python run has, after its time is over, to say where it
// was.
const interruptTime = 150 * time.Millisecond

// interrupt does to a Python run what Ctrl-C does on a terminal, and waits a moment
// for the end of its main process: that says where it was, in a traceback, and what
// it had not written yet is written. Processes that the main process waits for are
// interrupted too, or it would go on waiting for them. Bash is not interrupted: it
// might go on to the next command.
func (r *run) interrupt() {
	if r.req.Language != string(agentsandbox.Python) || !r.proc.begun() {
		return
	}
	r.proc.withLive(func(pid int) {
		_ = unix.Kill(-pid, unix.SIGINT)
		_ = unix.Kill(-pid, unix.SIGCONT)
	})
	over := time.NewTimer(interruptTime)
	defer over.Stop()
	select {
	case <-r.proc.done:
	case <-over.C:
	case <-r.dropped:
	}
}

// report puts the changed files and the result into the log.
func (r *run) report(result guest.RunResult) {
	var changed []guest.Entry
	if !result.Killed { // the next run reports them: nobody takes those of this one
		changed, result.Omitted = r.a.changedFiles(r.req)
	}
	result.Changed, result.Cleared = len(changed), r.cleared
	for len(changed) > 0 {
		var list []byte
		list, changed = encodeEntries(changed)
		r.log.append(guest.KindChanged, list)
	}
	doc, err := json.Marshal(result)
	if err != nil {
		panic(err) // numbers and booleans can always be encoded
	}
	r.log.append(guest.KindResult, doc)
}

// encodeEntries encodes as many entries as go into one message.
func encodeEntries(entries []guest.Entry) (list []byte, rest []guest.Entry) {
	list = []byte{'['}
	for len(entries) > 0 {
		doc, err := json.Marshal(entries[0])
		if err != nil {
			panic(err) // as above
		}
		if len(list)+len(doc)+2 > guest.MaxChunk {
			break
		}
		if len(list) > 1 {
			list = append(list, ',')
		}
		list = append(list, doc...)
		entries = entries[1:]
	}
	return append(list, ']'), entries
}

// ending is why a run was ended: exactly one of the fields is set.
type ending struct {
	timedOut bool
	asked    bool // by the host
	limit    runtime.Limit
}

// endBy ends the run; its result says why. The first reason counts.
func (r *run) endBy(why ending) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.end == (ending{}) {
		r.end = why
		close(r.killed)
	}
}

// ending returns why the run was ended, or nothing.
func (r *run) ending() ending {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.end
}

// reopen takes back that a run must end, if that was because of a limit of the
// sandbox as a whole. It tells whether it did.
func (r *run) reopen() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.end.limit != runtime.LimitMemory && r.end.limit != runtime.LimitInodes {
		return false
	}
	r.end, r.killed = ending{}, make(chan struct{})
	return true
}

// abandon ends a run in which nobody is interested any more.
func (r *run) abandon() {
	r.dropOnce.Do(func() { close(r.dropped) })
	r.log.drop()
}

// retire keeps a run that is over until the host has taken it.
func (a *Agent) retire(r *run) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.runs[r.req.ID] != r {
		return
	}
	a.finished = append(a.finished, r)
	if len(a.finished) > maxFinished {
		oldest := a.finished[0]
		a.finished = a.finished[1:]
		delete(a.runs, oldest.req.ID)
		oldest.log.drop()
	}
}

// forget removes a run that the host has taken, or given up.
func (a *Agent) forget(r *run) {
	r.abandon()
	defer r.refill()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.runs[r.req.ID] == r {
		delete(a.runs, r.req.ID)
	}
	for i, f := range a.finished {
		if f == r {
			a.finished = append(a.finished[:i], a.finished[i+1:]...)
			break
		}
	}
}
