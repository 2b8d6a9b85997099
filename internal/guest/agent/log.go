package agent

import (
	"context"
	"sync"

	"github.com/agentsandbox/agentsandbox/internal/guest"
)

const (
	// logBytes is how much of a run the agent keeps for the host to fetch. When
	// it is full, the pipes are not read until the host has acknowledged some.
	logBytes = 8 * guest.AckEvery
	// recordCost is counted for each record besides its payload.
	recordCost = 64
)

// record is one numbered message of a run.
type record struct {
	seq     uint64
	kind    uint8
	payload []byte // with the number in front, as it is sent
}

// outputLog keeps what a run produced until the host has acknowledged it.
type outputLog struct {
	mu      sync.Mutex
	records []record
	bytes   int
	last    uint64 // number of the latest record
	acked   uint64
	// dropped says that nobody will fetch what comes.
	dropped bool
	failure error         // why there will be no result
	changed chan struct{} // closed and renewed whenever something changes
}

func newOutputLog() *outputLog {
	return &outputLog{changed: make(chan struct{})}
}

// announce wakes everybody who waits. The caller holds mu.
func (l *outputLog) announce() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// append adds a record with a copy of payload, as soon as there is room.
func (l *outputLog) append(kind uint8, payload []byte) {
	l.mu.Lock()
	for l.bytes >= logBytes && !l.dropped {
		changed := l.changed
		l.mu.Unlock()
		<-changed
		l.mu.Lock()
	}
	defer l.mu.Unlock()
	if l.dropped {
		return
	}
	l.last++
	r := record{seq: l.last, kind: kind}
	r.payload = append(guest.AppendSequence(make([]byte, 0, len(payload)+8), l.last), payload...)
	l.records = append(l.records, r)
	l.bytes += len(r.payload) + recordCost
	l.announce()
}

// next waits for the record after a number.
func (l *outputLog) next(ctx context.Context, after uint64) (record, error) {
	for {
		l.mu.Lock()
		if after < l.last && after >= l.acked {
			r := l.records[after-l.acked]
			l.mu.Unlock()
			return r, nil
		}
		if l.failure != nil {
			l.mu.Unlock()
			return record{}, l.failure
		}
		changed := l.changed
		l.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return record{}, context.Cause(ctx)
		}
	}
}

// fail says that no result will come, and why.
func (l *outputLog) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failure = err
	l.announce()
}

// ack forgets the records up to a number. A number that was never given out is
// an error.
func (l *outputLog) ack(seq uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if seq > l.last {
		return refuse(guest.FailInvalid, "message %d was acknowledged, the latest is %d", seq, l.last)
	}
	for l.acked < seq {
		l.bytes -= len(l.records[0].payload) + recordCost
		l.records[0] = record{}
		l.records = l.records[1:]
		l.acked++
	}
	l.announce()
	return nil
}

// has tells whether what comes after a number can still be had.
func (l *outputLog) has(after uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return after >= l.acked && after <= l.last
}

// drop forgets everything, now and in the future.
func (l *outputLog) drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropped = true
	l.records, l.bytes, l.acked = nil, 0, l.last
	l.announce()
}
