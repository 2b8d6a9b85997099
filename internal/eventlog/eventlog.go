// Package eventlog keeps what happened in an execution: its output and the other
// events of it, in order and numbered from 1, in one log for each execution. The
// log is the one truth of a run. Streams replay and follow it, the record and the
// answer read their output from it, and it outlives the death of the server.
//
// The package owns one directory, in which nothing else writes, and the format of
// the logs. It knows nothing of HTTP, sandboxes or the store, and not what is in
// an event, output and gaps aside.
//
// # The way of a log
//
//	log := dir.Create(id, limit)          // or dir.Resume, of a run of an earlier server
//	log.Append(eventlog.Started, data)    // if log.Last() is 0
//	log.Append(eventlog.Stdout, output)   // one event for each message of the sandbox
//	log.Commit(progress)                  // before the sandbox is told to forget (runtime.Command.Keep)
//	log.Finish(stdoutBytes, stderrBytes)  // the run is over: log.Totals is what was kept
//	sealed, err := log.Seal(last...)      // the last events, of which the very last is Ended
//	                                      // sealed goes into the row, with the outcome
//	log.Publish()                         // readers see the last events, then io.EOF
//	log.Close()
//
// Anybody reads with [Dir.Events] and [Dir.Output], under way or ended, given the
// [Sealed] of the row.
//
// # What is safe when
//
// A log begins in memory; a run that prints little never has a file. Commit writes
// what there is to the file, unsynced, with the place in the sandbox's own log up
// to which it was taken. A server that dies loses what came after the last Commit;
// the sandbox still has it, because it was not told to forget. Resume cuts the file
// at the last Commit and says from where to attach, and the sandbox repeats the
// rest. Readers may have been shown these events already, and must find them under
// the same numbers. So the caller makes one event of each message of the sandbox,
// whatever else happens.
//
// The host's death is not survived before the end: it takes the sandbox along. At
// the end, Seal returns a log of up to [InlineBytes] as bytes, for the row, and
// syncs the file of a larger one. The last events are readable after Publish only:
// what they say, files for example, is true when the row is written, and not before.
//
// # Memory
//
// What is written to the file is not kept in memory. Readers read the file, of which
// the page cache of the kernel has the newest part: one copy for all readers, within
// one bound for all logs, given up under pressure, and outside of the heap. What is
// not written yet, up to spillBytes for each log, is in memory, and readers read it
// in place, without a copy. There is no queue: a reader that stops holds the piece of
// the log that it is at, one that waits nothing, and nobody waits for either.
//
// # How it fails
//
// A log whose file cannot be written, on a full disk perhaps, goes on in memory:
// Commit fails, what was written stays as it was, and the next Commit tries again.
// All such logs together may hold Options.UnwrittenBytes of output; what is more is
// cut. Output that was cut, by the limit or for that reason, is told by one Gap.
//
// A torn end of a file is what a death in the middle of a write leaves, and is cut
// by Resume. Anything else that is not as it was written is a [DamageError]. A log
// that is removed under its readers is [ErrRemoved].
package eventlog

import (
	"errors"
	"fmt"
)

// Kind says what an event tells. The numbers are part of the format.
type Kind uint8

const (
	Started Kind = 1
	Stdout  Kind = 2 // Data is output as it was written
	Stderr  Kind = 3
	File    Kind = 4
	Gap     Kind = 5 // Data is a Missing, as JSON
	Ended   Kind = 6 // the last event of a log

	// mark is no event: it says up to where the sandbox's own log was taken.
	mark Kind = 255
)

// Event is one event of a log.
type Event struct {
	// Number counts from 1 without gaps, except before a Gap.
	Number uint64
	Kind   Kind
	Data   []byte
}

// Missing is what a Gap tells: how many bytes of each stream are not in the log.
// Both are 0 where it is not known.
type Missing struct {
	Stdout int64 `json:"stdout,omitempty"`
	Stderr int64 `json:"stderr,omitempty"`
}

const (
	// MaxData bounds the data of one event, in bytes.
	MaxData = 16 << 20
	// InlineBytes is the size up to which Seal returns a log as bytes. It leaves
	// 64 KiB of output room for the frames around it and the other events.
	InlineBytes = 80 << 10
	// spillBytes is how much of a log stays in memory that nobody commits.
	spillBytes = 256 << 10
	// lostNumbers is more than the events that fit between two commits: the sandbox
	// waits when it has 512 KiB that were not committed, and counts 64 bytes for each.
	lostNumbers = 1 << 14
)

var (
	// ErrRemoved says that the log was removed.
	ErrRemoved = errors.New("the event log was removed")
	// ErrLeft says that the writer has let go of a log that has not ended.
	ErrLeft = errors.New("nobody writes the event log any more")
	// ErrSealed says that a log takes no more events.
	ErrSealed = errors.New("the event log is sealed")
)

// DamageError says where a log is not as it was written.
type DamageError struct {
	File   string
	Offset int64
	Reason string
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("event log %s is damaged at byte %d: %s", e.File, e.Offset, e.Reason)
}

// Sealed is a log that has ended, as its row has it. The zero value is none.
type Sealed struct {
	// Size is that of the log, in bytes.
	Size int64
	// Stdout and Stderr are how many bytes of output the log has.
	Stdout, Stderr int64
	// Inline is the log; nil: it is in the file.
	Inline []byte
}

// Totals says what became of the output of a run.
type Totals struct{ Stdout, Stderr Total }

// Total is that of one stream.
type Total struct {
	// Kept is how many bytes the log has of the Written that there were.
	Kept, Written int64
	// Last is the last byte that was kept.
	Last byte
}
