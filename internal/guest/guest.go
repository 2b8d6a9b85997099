// Package guest is the conversation between the host and the guest agent: the
// messages of the protocol, and [Client], the host's side of it, which
// implements [runtime.Guest]. The agent's side is package agent, the framing
// below both is package wire, and package assets holds what goes into an image.
//
// The package knows nothing of how a sandbox is made, and nothing of gVisor.
// The client believes nothing that the agent says: paths, names, sizes, counts
// and the order of messages are checked, and an agent that breaks a rule loses
// the conversation ([runtime.ErrSandboxLost]), because whoever took over the
// agent must not reach the host.
package guest

import "github.com/agentsandbox/agentsandbox"

// What both sides, and whoever builds an image, agree on.
const (
	// AgentPath is where the agent stands in an image. It is process 1 there.
	AgentPath = "/usr/lib/agentsandbox/agent"
	// LauncherDir holds what lets interpreters wait for their scripts;
	// LauncherPath is the Python module that does so.
	LauncherDir  = "/usr/lib/agentsandbox/launch"
	LauncherPath = LauncherDir + "/sitecustomize.py"
	// PreloadPath is what loads modules into an interpreter that waits.
	PreloadPath = LauncherDir + "/preload.py"
	// LinesPath is what every Python of a sandbox does with its output when it starts.
	LinesPath = LauncherDir + "/lines.py"
	// ShellLauncherPath lets a Bash wait for its script.
	ShellLauncherPath = LauncherDir + "/wait.sh"
	// ScriptDir is where the code of a run is written. The run sees it in the
	// workspace, as ScriptName with the extension of its language, which listings
	// of the workspace do not have.
	ScriptDir  = "/run/agentsandbox"
	ScriptName = "__script__"
	// ConversationFD is the descriptor of the agent on which it talks to the host.
	ConversationFD = 3
	// DoorDir is where the agent listens for another conversation:
	// AttachCommand of the agent's program, run as root inside, hands it one,
	// which is its own ConversationFD.
	DoorDir       = "/run/agentsandbox-door"
	AttachCommand = "attach"
	// ReleaseMemory is an option of prctl(2) that the kernel of a sandbox takes from
	// the agent: it returns to the host what its own heap does not need any more. It
	// is far from any of Linux's.
	ReleaseMemory = 0x41534d01
	// ProbeCommand of the agent's program says what code in a sandbox can do.
	ProbeCommand = "probe"

	// UserID, GroupID, UserName and Home are those of the user whose code runs.
	UserID   = 1000
	GroupID  = 1000
	UserName = "user"
	Home     = "/home/user"
)

// Kinds of messages. A document is JSON, cut into parts where it is longer than
// a message: all but its last part are of KindPart.
//
// Reserved for what later versions do: 20 bytes for standard input, 21 end of
// standard input, 22 size of a terminal, 23 a signal to deliver, 24 an event of
// a file watch. A pseudo-terminal's output is
// KindStdout.
const (
	KindPart    = 1 // part of a document that goes on
	KindRequest = 2 // end of a Request, the first thing on every stream
	KindReply   = 3 // end of the reply to a request
	KindData    = 4 // bytes of a file, or of a run's code
	KindAbort   = 5 // a file that is being written is to be dropped
	KindKill    = 6 // end the run of this stream
	KindAck     = 7 // 8 bytes: the host has everything up to this number

	// Kinds of what a run produced. The payload begins with 8 bytes, the number
	// of the message in its run, from 1 and without gaps: the agent keeps each
	// until the host has acknowledged it.
	KindStdout  = 8  // bytes
	KindStderr  = 9  // bytes
	KindChanged = 10 // a list of Entry, in one message
	KindResult  = 11 // a RunResult, in one message; the last

	KindConn = 25 // bytes of a dialled connection, in both directions
)

// Methods of the agent.
const (
	MethodIdentify = "identify"         // Identity; an empty reply
	MethodPrepare  = "prepare_snapshot" // Modules; an empty reply
	MethodRun      = "run"              // Run; code as data; what the run produced
	MethodAttach   = "attach"           // Run, with ID and After; what the run produced since
	MethodForget   = "forget"           // Run, with ID; an empty reply
	MethodRetain   = "retain"           // Retain; an empty reply
	MethodStat     = "stat"             // Path; an Entry
	MethodRead     = "read"             // Path; an Entry, then data
	MethodWrite    = "write"            // Path, then data until the end; an Entry
	MethodList     = "list"             // Path, After, Limit; a Page
	MethodRemove   = "remove"           // Path; an empty reply
	MethodDial     = "dial"             // Port; an empty reply, then bytes in both directions
	MethodRelieve  = "relieve"          // an empty reply, when every process of the user is gone
)

// Bounds of what the two sides say to each other.
const (
	// MaxRequest and MaxReply bound documents, in bytes.
	MaxRequest = 1 << 20
	MaxReply   = 8 << 20
	// MaxCode bounds the code of a run, in bytes.
	MaxCode = 64 << 20
	// MaxListLimit bounds the entries of a page.
	MaxListLimit = 1000
	// MaxChanged bounds the files that one run can report, whatever the limits
	// of the request.
	MaxChanged = 1 << 16
	// MaxRunID bounds the name of a run, in bytes.
	MaxRunID = 128
	// MaxHostname bounds a host name, in bytes.
	MaxHostname = 63

	sequenceSize = 8
	// AckEvery is how many bytes of output the host takes before it
	// acknowledges them. The agent keeps at least twice as much.
	AckEvery = 64 << 10
)

// Request is the first document of every stream. Names and paths are bytes,
// base64 in JSON: they need not be UTF-8.
type Request struct {
	Method   string      `json:"method"`
	Path     []byte      `json:"path,omitempty"`
	After    []byte      `json:"after,omitempty"`
	Limit    int         `json:"limit,omitempty"`
	Port     uint16      `json:"port,omitempty"`
	Run      *RunRequest `json:"run,omitempty"`
	Identity *Identity   `json:"identity,omitempty"`
	Modules  []string    `json:"modules,omitempty"`
	// Retain names the runs that are not to be forgotten.
	Retain []string `json:"retain,omitempty"`
}

// RunRequest asks for one run.
type RunRequest struct {
	ID       string `json:"id"`
	Language string `json:"language,omitempty"`
	// CodeBytes says how much code follows as data.
	CodeBytes int64    `json:"code_bytes,omitempty"`
	Env       [][]byte `json:"env,omitempty"` // NAME=value
	// Modules are what the next runs may find loaded ahead, because this one imports
	// it. An agent that does not know the field ignores it.
	Modules     []string `json:"modules,omitempty"`
	TimeoutNS   int64    `json:"timeout_ns,omitempty"`
	OutputLimit int64    `json:"output_limit,omitempty"`
	Final       bool     `json:"final,omitempty"`
	CollectDirs [][]byte `json:"collect_dirs,omitempty"`
	Files       int      `json:"files,omitempty"`
	Bytes       int64    `json:"bytes,omitempty"`
	Depth       int      `json:"depth,omitempty"`
	CollectNS   int64    `json:"collect_ns,omitempty"`
	// CollectIgnored asks for the files of tools, too.
	CollectIgnored bool `json:"collect_ignored,omitempty"`
	// Limits of the run: 0 is none.
	CPUTimeNS   int64 `json:"cpu_time_ns,omitempty"`
	Processes   int64 `json:"processes,omitempty"`
	OpenFiles   int64 `json:"open_files,omitempty"`
	StreamLimit int64 `json:"stream_limit,omitempty"` // bytes, kept or not
	Inodes      int64 `json:"inodes,omitempty"`       // of the whole sandbox
	// After is the number of the last message that the host has; for attach.
	After uint64 `json:"after,omitempty"`
}

// RunResult is how a run ended.
type RunResult struct {
	ExitCode int  `json:"exit_code"`
	Signal   int  `json:"signal,omitempty"`
	TimedOut bool `json:"timed_out,omitempty"`
	Killed   bool `json:"killed,omitempty"`
	// Limit is the runtime.Limit that ended the run, if it was another than its
	// time.
	Limit string `json:"limit,omitempty"`
	// ProcessesFull says that the user had as many processes as it may while the
	// run was under way, DiskFull that the file system was full when it ended, and
	// SharedMemoryFull that /dev/shm became full under it.
	ProcessesFull bool `json:"processes_full,omitempty"`
	DiskFull      bool `json:"disk_full,omitempty"`

	SharedMemoryFull bool `json:"shared_memory_full,omitempty"`
	// Cleared counts processes of earlier runs that were ended before this one,
	// because they left it no room.
	Cleared     int   `json:"cleared,omitempty"`
	DurationNS  int64 `json:"duration_ns"`
	CPUNS       int64 `json:"cpu_ns"`
	StdoutBytes int64 `json:"stdout_bytes"`
	StderrBytes int64 `json:"stderr_bytes"`
	Changed     int   `json:"changed"` // entries that were sent before
	// Omitted counts files that were left out, and directories that were left
	// out as a whole, by reason.
	Omitted map[agentsandbox.OmittedReason]int `json:"omitted,omitempty"`
}

// Entry is what is at a path.
type Entry struct {
	// Name is the name in its directory, or the whole path where the reply is
	// not about one directory.
	Name   []byte `json:"name"`
	Kind   string `json:"kind"`
	Size   int64  `json:"size"`
	Mode   uint32 `json:"mode"`
	Sec    int64  `json:"sec"`  // time of change, seconds since 1970
	Nsec   int64  `json:"nsec"` // and nanoseconds
	Target []byte `json:"target,omitempty"`
}

// Page is part of a directory.
type Page struct {
	Entries []Entry `json:"entries"`
	More    bool    `json:"more,omitempty"`
}

// Identity is what makes a sandbox another one than the snapshot it came from.
type Identity struct {
	// Hostname is 1 to 63 letters, digits and "-".
	Hostname string `json:"hostname"`
	// MachineID is 32 hexadecimal digits, for /etc/machine-id.
	MachineID string `json:"machine_id"`
	// MemoryBytes is the sandbox's memory limit; 0: none is known.
	MemoryBytes int64 `json:"memory_bytes,omitempty"`
	// Resolver is the address of the DNS server, for /etc/resolv.conf; empty: there
	// is none.
	Resolver string `json:"resolver,omitempty"`
	// AloneMS is how long the sandbox goes on without a conversation, in
	// milliseconds; then it ends itself. 0: for ever.
	AloneMS int64 `json:"alone_ms,omitempty"`
	// Entropy is mixed into the sandbox's random number generator.
	Entropy []byte `json:"entropy,omitempty"`
}
