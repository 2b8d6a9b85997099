package warm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/guest/proc"
	"github.com/agentsandbox/agentsandbox/internal/guest/script"
)

// Python gives runs their interpreters. It keeps one waiting, and where runs import
// modules that are worth it, a second one that has them loaded.
type Python struct {
	opts  Options
	slot  slot[*interpreter]
	forks *forks         // nil: no interpreters with modules
	wg    sync.WaitGroup // goroutines that wait for launchers

	mu      sync.Mutex
	modules []string // what those that wait in a snapshot load ahead
}

// interpreter is a Python process. It has to be Python 3.11 or later, the first that
// knows -P. sys.flags.safe_path is the one difference that code can see: without -P,
// sys.path would begin with the directory of the script's path, which is not the
// workspace where there is no stage.
type interpreter struct {
	*waiting
	modules  []string    // what it has loaded ahead
	sites    string      // the user's packages when it was started
	server   *forkServer // what forked it; nil: it was started
	borrowed bool        // whether the server's script is its own
}

// NewPython makes a Python of which nothing waits yet. With forks, sessions have
// interpreters with modules: for that, this program has to be process 1, which
// becomes the parent of orphans.
func NewPython(opts Options, withForks bool) *Python {
	p := &Python{opts: opts}
	p.slot = slot[*interpreter]{what: "interpreter", missing: "no interpreter waits: the next run starts its own", log: opts.Logger}
	if withForks {
		p.forks = newForks(p)
	}
	return p
}

// Close ends what waits. No run may be under way.
func (p *Python) Close() {
	if p.forks != nil {
		p.forks.close()
	}
	p.slot.close()
	p.slot.wait()
	p.wg.Wait()
}

// Start gives a run the interpreter that waits, if that is as good as one that is
// started now, and otherwise a fresh one.
func (p *Python) Start(run Run) (proc.Process, error) {
	if slices.ContainsFunc(run.Env, readAtStart) {
		return p.StartFresh(run)
	}
	if p.forks != nil && len(run.Modules) > 0 {
		if made := p.forks.start(run); made != nil {
			return made, nil
		}
	}
	it := p.slot.take()
	if it == nil {
		return p.StartFresh(run)
	}
	made, err := p.handOver(it, run)
	switch {
	case err == nil:
		return made, nil
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		p.slot.put(it)
		return nil, notStarted("write the script", err)
	}
	it.discard()
	return p.StartFresh(run)
}

// StartFresh starts an interpreter for a run.
func (p *Python) StartFresh(run Run) (proc.Process, error) {
	it, err := p.launch(run.Env, nil)
	if err != nil {
		return nil, err
	}
	if err := it.script.Write(run.Code); err != nil {
		it.discard()
		return nil, notStarted("write the script", err)
	}
	if err := it.Limit(run.Limits); err != nil {
		it.discard()
		return nil, err
	}
	made := it.process(it.removeScript)
	own, _ := lookup(run.Env, "PYTHONPATH")
	made.preceded = own != ""
	p.sendStarting(it, run.Env)
	return made, nil
}

// handOver gives a run to an interpreter that waits, or that will: one that is on its
// way is there sooner than one that is started now.
func (p *Python) handOver(it *interpreter, run Run) (*process, error) {
	starting := !it.isReady()
	if starting && len(it.modules) > 0 {
		return nil, errors.New("it has not loaded its modules yet")
	}
	if !starting && !it.waits || it.Exited() || it.sites != p.userSites() {
		return nil, errors.New("it is of no use any more")
	}
	if err := it.writeScript(run.Code); err != nil {
		return nil, err
	}
	if err := it.Limit(run.Limits); err != nil {
		return nil, err // and another one is tried
	}
	made := it.process(it.removeScript)
	it.Continue() // another run of the user may have stopped it
	if starting {
		p.sendStarting(it, run.Env)
		return made, nil
	}
	_ = it.control.SetWriteDeadline(time.Now().Add(handoverTime))
	return made, it.sendRun(p.opts.Workspace, run.Env)
}

// Refill starts an interpreter that waits in place of the one that a run has used, if
// there is none, without waiting for it.
func (p *Python) Refill(run Run) {
	p.fill()
	if p.forks != nil && len(run.Modules) > 0 {
		p.forks.refill(run.Modules)
	}
}

func (p *Python) fill() {
	p.mu.Lock()
	modules := p.modules
	p.mu.Unlock()
	p.slot.fill(func() (*interpreter, error) { return p.launch(nil, modules) })
}

// Preload has the interpreters that wait load modules ahead, as far as they are
// installed, until stop is called. That leaves the one that waits then. No interpreter
// may be on its way.
func (p *Python) Preload(modules []string) (stop func()) {
	p.setModules(modules)
	if it := p.slot.take(); it != nil {
		it.discard()
	}
	return func() { p.setModules(nil) }
}

func (p *Python) setModules(modules []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.modules = modules
}

// Await makes sure that an interpreter waits, fully started.
func (p *Python) Await(ctx context.Context) error {
	p.fill()
	it, err := p.slot.await(ctx)
	if err != nil || it.waits {
		return err
	}
	var said []byte
	if p.slot.remove(it) {
		said = make([]byte, 16<<10)
		said = said[:it.out.Stderr.ReadNow(said)]
		it.discard()
	}
	return guest.Failure{
		Code: guest.FailNotStarted,
		Text: fmt.Sprintf("the interpreter %s ended before it was ready: %s", p.opts.Program, guest.Tail(said)),
	}
}

// Rehearse lets the interpreter that waits touch what a run will need, which after a
// restore is not mapped yet: the run would do so while somebody waits.
func (p *Python) Rehearse() {
	p.slot.withReady(func(it *interpreter) { _ = it.send("") })
}

// launch starts an interpreter that will wait for its script, with modules that it
// has loaded by then.
func (p *Python) launch(env, modules []string) (*interpreter, error) {
	sites := p.userSites()
	w, err := launch(&p.opts, func(s script.Script) proc.Program {
		pythonPath := p.opts.LauncherDir
		if own, ok := lookup(env, "PYTHONPATH"); ok && own != "" {
			pythonPath += ":" + own
		}
		return proc.Program{
			Args: []string{p.opts.Program, "-P", s.Name()},
			Env:  merge(merge(p.opts.Env, env), []string{"PYTHONPATH=" + pythonPath}),
		}
	})
	if err != nil {
		return nil, err
	}
	it := &interpreter{waiting: w, modules: modules, sites: sites}
	// It is the first message on a socket that nobody reads yet, and goes into its
	// buffer. If the interpreter has ended already, who waits for it will see.
	_ = it.send(strings.Join(modules, "\x00"))
	p.wg.Go(it.awaitReady)
	return it, nil
}

// discard ends an interpreter that no run has been given.
func (it *interpreter) discard() {
	it.end()
	it.removeScript()
}

// writeScript writes what the interpreter is to run, or nothing at all.
func (it *interpreter) writeScript(code []byte) error {
	if it.server != nil && !it.server.lendScript() {
		return errors.New("another run has the script")
	}
	it.borrowed = it.server != nil
	err := it.script.Write(code)
	if err != nil {
		it.returnScript()
	}
	return err
}

// returnScript empties the script and lets another fork of the same server have it.
func (it *interpreter) returnScript() {
	if it.borrowed {
		it.borrowed = false
		it.script.Clear()
		it.server.takeScriptBack()
	}
}

// removeScript removes what the interpreter has run, or would have.
func (it *interpreter) removeScript() {
	if it.server == nil {
		it.script.Remove()
		return
	}
	it.returnScript()
	it.server.removeUser()
}

// sendStarting sends an interpreter that is starting its run. It may print before
// it listens, so the run has to be read meanwhile.
func (p *Python) sendStarting(it *interpreter, env []string) {
	p.wg.Go(func() { _ = it.sendRun(p.opts.Workspace, env) })
}

// sendRun sends the launcher the settings of a run, which makes it begin.
func (it *interpreter) sendRun(workspace string, env []string) error {
	settings := append([]string{workspace}, without(env, "PYTHONPATH")...)
	if own, ok := lookup(env, "PYTHONPATH"); ok {
		settings = append(settings, "PYTHONPATH="+own)
	} else {
		settings = append(settings, "PYTHONPATH")
	}
	return it.send(strings.Join(settings, "\x00"))
}

// send sends the launcher a message.
func (it *interpreter) send(body string) error {
	message := append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
	_, err := it.control.Write(message)
	return err
}
