package agent

import (
	"context"
	"encoding/json"
	stdruntime "runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/guest/proc"
	"github.com/agentsandbox/agentsandbox/internal/guest/warm"
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

// run is one run of code. It lives in the agent, whoever follows it.
type run struct {
	a    *Agent
	req  *guest.RunRequest
	lang *language
	log  *outputLog
	// input is what its process has to know. The code is dropped when it has ended.
	input warm.Run
	proc  proc.Process
	// ended says that the agent ended the process before its time.
	ended bool
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

// startRun registers a run and starts its process.
func (a *Agent) startRun(req *guest.RunRequest, code []byte) (*run, error) {
	r := &run{a: a, req: req, log: newOutputLog(), killed: make(chan struct{}), dropped: make(chan struct{}), over: make(chan struct{})}
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
	err := r.start(code)
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

func (r *run) start(code []byte) (err error) {
	r.cleared = r.a.processes.KillLeftovers(r.req.Processes)
	if r.lang = r.a.language(r.req.Language); r.lang == nil {
		return refuse(guest.FailInvalid, "this agent runs no %q", r.req.Language)
	}
	r.input = warm.Run{Code: code, Limits: limitsOf(r.req), Modules: r.a.modulesOf(r.req)}
	for _, setting := range r.req.Env {
		r.input.Env = append(r.input.Env, string(setting))
	}
	r.proc, err = r.lang.starter.Start(r.input)
	return err
}

// supervise takes a run from its start to its result.
func (r *run) supervise() {
	defer func() {
		r.a.keepFinished(r)
		close(r.over)
		r.refill()
	}()
	result, pumps := r.runProcess()
	for begins := 1; begins < maxBegins && r.mayBeginAgain(pumps); begins++ {
		r.releaseProcess(pumps)
		var err error
		if r.proc, err = r.lang.starter.StartFresh(r.input); err != nil {
			r.log.fail(err)
			return
		}
		result, pumps = r.runProcess()
	}
	pumps.release()
	r.input.Code, r.input.Env = nil, nil
	if r.req.Final {
		r.a.processes.KillUser()
	} else {
		releaseMemory(keptMemory)
	}
	r.proc.FreeShared()
	result.StdoutBytes, result.StderrBytes = pumps.streams[0].total, pumps.streams[1].total
	r.report(result)

	// Nobody waits for the rest: who sends the result comes first.
	stdruntime.Gosched()
	r.releaseProcess(pumps)
}

// refill lets another process wait in the place of the one that the run may
// have used: when the run is over and the host has released it, because the
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
	r.lang.starter.Refill(r.input)
}

// maxBegins is how often a run is begun, if process after process dies before it
// has begun the code. Other runs of the sandbox can kill some of them; one that
// fails by itself, because of a variable that the run sets perhaps, has its own
// outcome in the end.
const maxBegins = 5

// mayBeginAgain tells, when the process of the run has ended, whether that died
// before it had begun the code. Whoever asked for the run need not know.
func (r *run) mayBeginAgain(pumps *pumps) bool {
	if pumps.released() || r.proc.Begun() {
		return false
	}
	if r.proc.Preceded() && r.proc.Exit().Status.Exited() {
		return false
	}
	// When the sandbox had too much memory, every process was ended, and this one had
	// no part in the use of it.
	r.a.relieving.Lock()
	defer r.a.relieving.Unlock()
	return r.cancelEnd() || !r.ended
}

// preloadMemory is the least memory limit with which interpreters of a session
// wait with modules loaded, in bytes.
const preloadMemory = 512 << 20

// modulesOf returns which of the modules of a run are loaded ahead for the next ones.
func (a *Agent) modulesOf(req *guest.RunRequest) []string {
	if limit := a.memory.Load(); limit > 0 && limit < preloadMemory {
		return nil
	}
	return req.Modules
}

// runProcess waits for the process of the run, and takes all that it writes.
func (r *run) runProcess() (guest.RunResult, *pumps) {
	pumps := startPumps(r.proc.Output(), r, r.proc.Begun)
	stopGuard := r.guard()
	result := r.await()
	stopGuard(&result)
	pumps.finish()
	return result, pumps
}

// releaseProcess frees what the process of a run held. What it has left behind may
// still write.
func (r *run) releaseProcess(pumps *pumps) {
	for _, pu := range pumps.streams {
		if pu.open && !r.req.Final {
			r.a.drains.adopt(pu.pipe)
		} else {
			pu.pipe.Close()
		}
	}
	pumps.waiter.Close()
	r.proc.Release()
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
	case <-r.proc.Done():
		kill = false
	case <-timeout:
		r.endBy(ending{timedOut: true})
		r.interrupt()
	case <-r.killed:
	case <-r.dropped:
	}
	r.ended = kill
	if kill {
		used = r.proc.Kill() // what is killed is not waited for
		<-r.proc.Done()
	}
	var result guest.RunResult
	exit := r.proc.Exit()
	if exit.Status.Signaled() {
		result.Signal = int(exit.Status.Signal())
	} else {
		result.ExitCode = exit.Status.ExitStatus()
	}
	if end := r.ending(); kill || end.limit == runtime.LimitMemory && result.Signal == int(unix.SIGKILL) {
		result.TimedOut, result.Killed, result.Limit = end.timedOut, end.byHost, string(end.limit)
	}
	if result.TimedOut {
		// Whatever it made of its last moment, its time was over.
		result.ExitCode, result.Signal = 0, int(unix.SIGKILL)
	}
	result.DurationNS = int64(max(exit.Duration, 0))
	result.CPUNS = int64(max(exit.CPU+used, 0))
	return result
}

// interruptTime is what a run has, after its time is over, to say where it was.
const interruptTime = 150 * time.Millisecond

// interrupt does to a run what Ctrl-C does on a terminal, and waits a moment
// for the end of its main process: that says where it was, in a traceback, and what
// it had not written yet is written. Processes that the main process waits for are
// interrupted too, or it would go on waiting for them.
func (r *run) interrupt() {
	if !r.lang.interrupted || !r.proc.Begun() {
		return
	}
	r.proc.Interrupt()
	over := time.NewTimer(interruptTime)
	defer over.Stop()
	select {
	case <-r.proc.Done():
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
	byHost   bool // the host has asked for it
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

// cancelEnd cancels that a run must end, if that was because of a limit of the
// sandbox as a whole. It tells whether it did.
func (r *run) cancelEnd() bool {
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

// keepFinished keeps a run that is over until the host has taken it.
func (a *Agent) keepFinished(r *run) {
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
