package agentsandbox

import "time"

// NetworkReport is what a sandbox did with its network since it was made, or
// since the server was started.
type NetworkReport struct {
	// Policy is what is in force.
	Policy NetworkPolicy
	// Device says that the sandbox has a network device at all.
	Device      bool
	Connections int64 // accepted
	Open        int64 // now
	BytesIn     int64 // to the sandbox
	BytesOut    int64 // from it
	Queries     int64 // of DNS
	// Refusals counts what was refused, cut or failed, by reason.
	Refusals map[string]int64
	// Names counts how often each name was asked for; NamesLeftOut is how many
	// queries were for names beyond those that are counted.
	Names        map[string]int64
	NamesLeftOut int64
	// Log has the last decisions, oldest first; LogLeftOut counts older ones.
	Log        []NetworkEntry
	LogLeftOut int64
}

// NetworkEntry is one decision about a name or a connection.
type NetworkEntry struct {
	// At is when it happened first, and Count how often in a row.
	At    time.Time
	Count int
	// Kind is dns, tcp, tls or http: what it was recognised as.
	Kind    string
	Name    string // that was asked for, or that the connection bears
	Address string
	Port    uint16
	// Verdict is allowed, refused, cut or failed.
	Verdict string
	// Reason is one of a closed set, and Rule the entry or range that decided.
	Reason, Rule string
}

// NetworkRefusal is a kind of thing that the network refused to a run, and how
// often.
type NetworkRefusal struct {
	// Host is the name, or the address where there was none.
	Host string `json:"host" doc:"The name that was asked for, or the address where there was none."`
	// Port is 0 where a name was not resolved.
	Port uint16 `json:"port" doc:"The port; 0 where a name was not resolved."`
	// Reason is one of a closed set, and Rule the entry or range that decided.
	Reason string `json:"reason" doc:"Why, as one of a closed set of words, such as not_allowed."`
	Rule   string `json:"rule" doc:"The entry or the range that refused, for people."`
	Count  int64  `json:"count" doc:"How often."`
}

// BoundSecret is a secret of a session, and what stands for it in its sandbox.
type BoundSecret struct {
	Secret
	Placeholder string
}
