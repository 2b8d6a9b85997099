package runtime

import "github.com/agentsandbox/agentsandbox"

// Recovered is what a new process found of an earlier one.
type Recovered struct {
	// Adopted are the sandboxes that live on, with what ran in them still
	// running.
	Adopted []Sandbox
	// Destroyed are the ids of those that do not.
	Destroyed []string
	// Foreign are the ids of those that another data directory made, of which this
	// one is a copy. Nothing was done to them.
	Foreign []string
}

// Progress is how far the output of a run was taken: what [Guest.Attach] needs
// to go on from there. The zero value is the beginning.
type Progress struct {
	// Sequence numbers the last message that was taken.
	Sequence uint64 `json:"sequence"`
	// Stdout and Stderr count the bytes that were taken of each stream.
	Stdout int64 `json:"stdout,omitempty"`
	Stderr int64 `json:"stderr,omitempty"`
	// Changed are the files that were reported so far.
	Changed []agentsandbox.PathInfo `json:"changed,omitempty"`
}
