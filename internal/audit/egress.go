package audit

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

// Actions of the audit log about the network of a session or of a run in a
// sandbox of its own.
const (
	actionRefuse = "refuseEgress" // the first refusal of a kind; the outcome is the reason
	actionSecret = "useSecret"    // the first use of a secret at a host
	actionCount  = "countEgress"  // how many there were of all
)

const (
	// firstRows bounds the rows about first refusals, and about first uses, of one
	// session: hostile code makes up kinds. All of them count.
	firstRows = 16
	// countEvery is how often a session that lives on has its counts written.
	countEvery = time.Hour
	// flushEvery is how late the row about a first refusal may be.
	flushEvery = time.Second
)

// EgressNotes is what the audit log shall have of a sandbox's network: the first
// refusal of each kind and the first use of each secret at each host, and how
// many there were. It is bounded, and counts what it leaves out.
type EgressNotes struct {
	// Notes are in the order in which their kinds were first seen: later ones have
	// the same at the front, with higher counts.
	Notes []EgressNote
	// Others counts refusals of further kinds, by reason, and OtherUses those of
	// secrets at further hosts, by name.
	Others, OtherUses map[string]int64
}

// EgressNote is one kind of refusal, or one use of a secret.
type EgressNote struct {
	// First is the first of its kind, and its Count how often there has been one.
	First agentsandbox.NetworkEntry
	// Subject tells kinds of one reason apart: a class of addresses, a name, an
	// address, or a rule. It may be anything that code in a sandbox made up.
	Subject string
	// Secret is the name of the secret that went to the host First.Name; "" for a
	// refusal.
	Secret string
}

// Network notes what sandboxes do with their network.
type Network interface {
	// Notes returns what reads the notes of a sandbox, also when that is gone; nil for
	// a sandbox without a network device.
	Notes(sandbox string) func() EgressNotes
}

// Egress writes rows about what sandboxes do with their network. Make one with
// NewEgress. Between Start and Stop it writes what is new by itself.
type Egress struct {
	log     *Log
	network Network

	flushing sync.WaitGroup
	stopping chan struct{}
	stop     func()

	mu        sync.Mutex
	bySandbox map[string]*egress
}

// egress is what one sandbox does, and what the log has of it.
type egress struct {
	tenant, object string
	// firsts says that rows about first refusals and uses are written; a run has one
	// row, at its end.
	firsts bool
	notes  func() EgressNotes

	mu             sync.Mutex // held while rows are written
	over           bool
	seen           int   // notes that were looked at
	refusals, uses int   // rows about first ones
	counted        int64 // what the last counts added up to
	countedAt      time.Time
}

// NewEgress makes the audit of a network, which may be nil: then there is nothing to
// tell.
func NewEgress(log *Log, network Network) *Egress {
	stopping := make(chan struct{})
	return &Egress{
		log: log, network: network, stopping: stopping, stop: sync.OnceFunc(func() { close(stopping) }), bySandbox: map[string]*egress{},
	}
}

// Start begins to write what is new, every second.
func (e *Egress) Start() {
	e.flushing.Go(func() {
		ticker := time.NewTicker(flushEvery)
		defer ticker.Stop()
		for {
			select {
			case <-e.stopping:
				return
			case <-ticker.C:
			}
			e.flushNew()
		}
	})
}

// Stop ends what Start began. It can be called again. Sandboxes that live on are
// flushed by whoever lets go of them.
func (e *Egress) Stop() {
	e.stop()
	e.flushing.Wait()
}

// WatchSession has the log told of the sandbox of a session, until Flush: of each first
// refusal and use of a secret at once, and of how many there were once an hour.
func (e *Egress) WatchSession(sandbox, tenant, session string) {
	e.watch(sandbox, &egress{tenant: tenant, object: session, firsts: true})
}

// WatchRun has the log told of the sandbox of a single run: of how many refusals and
// uses there were, in one row at Flush.
func (e *Egress) WatchRun(sandbox, tenant, execution string) {
	e.watch(sandbox, &egress{tenant: tenant, object: execution})
}

func (e *Egress) watch(sandbox string, of *egress) {
	if e.network == nil {
		return
	}
	if of.notes = e.network.Notes(sandbox); of.notes == nil {
		return
	}
	of.countedAt = e.log.now()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.bySandbox[sandbox] = of
}

// Flush writes what is left to say of a sandbox. It can be repeated.
func (e *Egress) Flush(sandbox string) {
	e.mu.Lock()
	of := e.bySandbox[sandbox]
	delete(e.bySandbox, sandbox)
	e.mu.Unlock()
	if of != nil {
		e.write(of, true)
	}
}

// flushNew writes what is new of all sandboxes.
func (e *Egress) flushNew() {
	e.mu.Lock()
	all := slices.Collect(maps.Values(e.bySandbox))
	e.mu.Unlock()
	for _, of := range all {
		e.write(of, false)
	}
}

func (e *Egress) write(of *egress, last bool) {
	of.mu.Lock()
	defer of.mu.Unlock()
	if of.over {
		return
	}
	of.over = last
	notes := of.notes()
	if of.firsts {
		for _, n := range notes.Notes[of.seen:] {
			e.writeFirst(of, n)
		}
	}
	of.seen = len(notes.Notes)
	now := e.log.now()
	if !last && now.Sub(of.countedAt) < countEvery {
		return
	}
	of.countedAt = now
	if sum := sumOf(notes); sum > of.counted {
		of.counted = sum
		e.append(of, actionCount, agentsandbox.AuditOK, countsOf(notes))
	}
}

func (e *Egress) writeFirst(of *egress, n EgressNote) {
	switch {
	case n.Secret != "" && of.uses < firstRows:
		of.uses++
		e.append(of, actionSecret, agentsandbox.AuditOK, useText(n))
	case n.Secret == "" && of.refusals < firstRows:
		of.refusals++
		e.append(of, actionRefuse, n.First.Reason, refusalText(n))
	}
}

func (e *Egress) append(of *egress, action, outcome, detail string) {
	_ = e.log.Append(context.Background(), agentsandbox.AuditEntry{ // logged there
		Tenant: of.tenant, Action: action, ObjectID: of.object, Outcome: outcome, Detail: detail,
	})
}
