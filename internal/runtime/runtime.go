// Package runtime is the contract between the engine and whatever makes
// sandboxes: [Runtime] makes them, [Snapshots] keeps what they start from,
// [Sandbox] is one of them, [Guest] is what can be done inside. The package holds the vocabulary of that contract; the suite
// that every implementation passes is in runtimetest, a fake for unit tests in
// fake, the real one in gvisor.
//
// It knows nothing of HTTP, tenants, sessions, templates or the store, and no
// library of a language.
package runtime

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

// Errors of a sandbox. Implementations wrap them; callers use errors.Is.
var (
	// ErrSandboxLost says that the sandbox died, or that the conversation with
	// its agent broke. Nothing can be done with it any more but Destroy.
	ErrSandboxLost = errors.New("sandbox lost")
	// ErrNotExist says that nothing is at that path.
	ErrNotExist = errors.New("no such file or directory")
	// ErrPermission says that the user of the sandbox may not do that.
	ErrPermission = errors.New("permission denied")
	// ErrNotRegular says that the path is not a regular file (or directory,
	// where one is asked for): a link, a FIFO, a socket, a device.
	ErrNotRegular = errors.New("not a regular file")
	// ErrSystemPath says that the path leads to a file of the sandbox's kernel, see
	// agentsandbox.SystemPath.
	ErrSystemPath = errors.New("a file of the kernel")
	// ErrNoSpace says that the sandbox's file system is full.
	ErrNoSpace = errors.New("no space left in the sandbox")
	// ErrNotStarted says that a run could not be started: the sandbox has no room
	// or no processes left. The text says which, and what to do.
	ErrNotStarted = errors.New("the code could not be started")
	// ErrRefused says that nobody listens on a port.
	ErrRefused = errors.New("connection refused")
	// ErrInvalid says that a path or an argument cannot be used.
	ErrInvalid = errors.New("invalid argument")
)

// Runtime makes sandboxes from snapshots.
type Runtime interface {
	// Start makes one sandbox of a snapshot, as far as its agent answering and
	// its identity being fresh, and installs the limits, which it reads back. It
	// makes the snapshot first if that is missing, as Snapshots.Make does. A name
	// that is not known is ErrNoSnapshot. On an error nothing is left behind.
	Start(ctx context.Context, spec Spec) (Sandbox, error)

	// Recover deals with what an earlier process of this data directory left
	// behind. Of the sandboxes that are provably ours it takes over those of the
	// ids in keep that are alive, have their limits in force and answer, and
	// destroys the others. It is called once, before Start. With an error, what
	// was adopted is adopted all the same.
	Recover(ctx context.Context, keep []string) (Recovered, error)

	// Close waits for background work. Every sandbox must be destroyed or
	// released before.
	Close() error
}

// Spec says which sandbox to make.
type Spec struct {
	// ID names the sandbox on the host; unique for ever.
	ID string
	// Snapshot is the name of what the sandbox starts from, see Snapshots.
	Snapshot string
	Limits   Limits
	// Network says that the sandbox has a network device, whose link comes from
	// the runtime's Network. Without it there is nothing but loopback, and no
	// resolver.
	Network bool
}

// Limits of a sandbox, installed on the host. Zero values mean no limit, which
// only tests use.
type Limits struct {
	// MemoryBytes is what the sandbox sees as its memory. Past it the runtime
	// ends every process of the user, and the sandbox lives on; a wall some way
	// above it ends the sandbox.
	MemoryBytes int64
	// MilliCPUs is the CPU share: 1000 is one core.
	MilliCPUs int64
	// Tasks bounds processes and threads, those of the sandbox's own kernel
	// included.
	Tasks int64
	// DiskBytes bounds what the sandbox can write to its file system. It is
	// settled when the sandbox is made: SetLimits does not change it. 0 is the
	// runtime's default.
	DiskBytes int64
}

// Sandbox is one isolated machine.
type Sandbox interface {
	Guest

	ID() string

	// SetLimits installs other limits, reads them back, and fails if what is in
	// force is not what was asked for.
	SetLimits(ctx context.Context, limits Limits) error

	// Limits are those that were set last.
	Limits() Limits

	// Usage reads the sandbox's counters on the host, also those of one that has
	// died, until it is destroyed or released.
	Usage() (Usage, error)

	// WorkingSet reads how much memory the sandbox uses now that the host cannot
	// take back, in bytes: without what is cached of files.
	WorkingSet() (int64, error)

	// Done is closed when the sandbox has died or was destroyed.
	Done() <-chan struct{}

	// Destroy ends everything in the sandbox and removes every trace of it from
	// the host. It can be repeated, and by several callers at once.
	Destroy(ctx context.Context) error

	// Release lets go of the sandbox and leaves it alive, with all that runs in
	// it, for the Recover of a later process. Done is closed, every method fails
	// with ErrSandboxLost, and Destroy does nothing.
	Release()
}

// Usage is what a sandbox used so far, read on the host.
type Usage struct {
	MemoryBytes     int64
	MemoryPeakBytes int64
	CPU             time.Duration
	// OOMKills counts kills by the memory limit.
	OOMKills int64
}

// Guest is what the agent does inside a sandbox. Files are touched with the
// rights of the sandbox's user (uid 1000), never root's, and the last element
// of a path is never followed if it is a symbolic link. A path that leads to one
// of agentsandbox.SystemPath, through links or not, is refused.
//
// Every method returns an error that wraps ErrSandboxLost once the sandbox is
// gone, and returns soon after ctx is done.
type Guest interface {
	// Run starts code, or a command. The caller reads Events to the end or
	// closes the Run.
	Run(ctx context.Context, cmd Command) (Run, error)

	// Attach follows a run that an earlier conversation started, from where its
	// output was taken. Of the command, ID, limits and Keep count, and must be
	// what they were. A run that is not there, or whose output after that point
	// is not there any more, is ErrNotExist, from here or from the first Next.
	Attach(ctx context.Context, cmd Command, from Progress) (Run, error)

	// Forget ends a run and forgets it; one that is not there it does not mind.
	Forget(ctx context.Context, id string) error

	// Retain ends and forgets every run but those named.
	Retain(ctx context.Context, ids []string) error

	// ReadFile opens a regular file. The size in the info is the size at the
	// time of opening; the bytes are those that were there to be read.
	ReadFile(ctx context.Context, path string) (agentsandbox.PathInfo, io.ReadCloser, error)

	// WriteFile writes body to a temporary name beside path and renames it when
	// body ends with io.EOF; with any other error nothing is left. Missing
	// directories are made.
	WriteFile(ctx context.Context, path string, body io.Reader) (agentsandbox.PathInfo, error)

	// Stat says what is at a path.
	Stat(ctx context.Context, path string) (agentsandbox.PathInfo, error)

	// List returns up to limit entries of a directory, sorted by name, after
	// the name given.
	List(ctx context.Context, path, after string, limit int) (agentsandbox.PathPage, error)

	// Remove removes what is at a path, a directory with all below it.
	Remove(ctx context.Context, path string) error

	// DialLoopback opens a connection to a port of the sandbox's loopback
	// interface, where servers are that listen for their own machine alone.
	// Nobody listening is ErrRefused. The connection has CloseWrite and no
	// deadlines; Close ends a Read that waits.
	DialLoopback(ctx context.Context, port uint16) (net.Conn, error)
}

// Command is one run of code.
type Command struct {
	// ID names the run, unique in the sandbox: letters, digits, "_" and "-".
	ID       string
	Language agentsandbox.Language
	Code     string
	// Env is added to the sandbox's base environment.
	Env map[string]string
	// Modules are what the code imports of what is worth loading ahead. The next runs
	// that name them may find them loaded; nothing but their speed tells.
	Modules []string `json:"-"`
	// Timeout ends the run with SIGKILL to its process group and descendants;
	// 0: none. The process group of a Python run gets SIGINT first, and has 150 ms
	// to end; the result does not tell.
	Timeout time.Duration
	// OutputLimit bounds the bytes kept of each stream; what is over it is read,
	// counted and dropped. 0: nothing is dropped.
	OutputLimit int64
	// Final says that the sandbox ends after this run: the agent kills every
	// other process of the user when the main process has ended, before it
	// looks for files.
	Final bool
	// Limits hold for this run and what it starts.
	Limits RunLimits
	// CollectDirs are the directories whose new and changed regular files are
	// reported, and Collect bounds how many.
	CollectDirs []string
	Collect     CollectLimits
	// Keep, if set, makes the run one that can be attached to again: it is called
	// from Next before the sandbox is told that it may forget output that Next
	// has returned, and whatever is to outlive this process must be stored when it
	// returns. Its error fails Next. The result is not forgotten before Close.
	Keep func(Progress) error `json:"-"`
}

// RunLimits are what the agent holds a run to. Zero values mean no limit.
type RunLimits struct {
	// CPUTime ends the run when its processes, and those that they have waited
	// for, have used it up.
	CPUTime time.Duration
	// Processes bounds the processes and threads of the user, in the whole
	// sandbox; a run that would go beyond it gets EAGAIN.
	Processes int64
	// OpenFiles bounds the descriptors of each process: EMFILE.
	OpenFiles int64
	// StreamBytes ends the run when it has written more to one stream, kept or
	// not.
	StreamBytes int64
	// Inodes ends the run when there are more files, directories and links in
	// the whole sandbox than that.
	Inodes int64
}

// Limit names the limit that ended a run.
type Limit string

const (
	LimitCPUTime Limit = "cpu_time" // RunLimits.CPUTime
	LimitMemory  Limit = "memory"   // Limits.MemoryBytes of the sandbox
	LimitStream  Limit = "stream"   // RunLimits.StreamBytes
	LimitInodes  Limit = "inodes"   // RunLimits.Inodes
)

// CollectLimits bound what is reported of the files that a run made. 0: none.
type CollectLimits struct {
	Files int   // how many
	Bytes int64 // their sizes, added up
	Depth int   // of directories
	// Time bounds the look for files, and the fetching of what was found.
	Time time.Duration
	// Ignored says that the files of tools are reported, too: version control,
	// virtual environments, caches.
	Ignored bool
}

// Stream names a standard stream.
type Stream uint8

const (
	Stdout Stream = 1
	Stderr Stream = 2
)

// Run is a run under way.
type Run interface {
	// Next waits for the next event; after the one with Result it returns
	// io.EOF. Not safe for concurrent use.
	Next(ctx context.Context) (Event, error)

	// Kill ends the run with SIGKILL to its process group and descendants. The
	// Result still arrives.
	Kill(ctx context.Context) error

	// Close lets go of the run; one that has not ended is killed. A caller that
	// wants the run to go on without it does not call Close.
	Close() error
}

// Event is output or, last, the result. Exactly one of Data and Result is set.
type Event struct {
	Stream Stream
	Data   []byte // valid until the next call of Next
	Result *Result
}

// Result is how a run ended.
type Result struct {
	// ExitCode is the main process's exit status; 0 if a signal ended it.
	ExitCode int
	// Signal is the number of the signal that ended it; 0 for none.
	Signal int
	// TimedOut says that the time limit ended the run.
	TimedOut bool
	// Killed says that Kill ended the run.
	Killed bool
	// Limit is the limit that ended the run, other than its time; empty: none.
	Limit Limit
	// ProcessesFull says that the user had as many processes as it may at some
	// moment of a run that failed, DiskFull that a file system had no room left
	// when it failed.
	ProcessesFull, DiskFull bool
	// SharedMemoryFull says that /dev/shm became full under a run that failed.
	SharedMemoryFull bool
	// Cleared counts the processes that earlier runs had left behind and that were
	// ended before this one, because the user had as many as it may.
	Cleared int
	// MemoryPeakBytes is the most memory that the sandbox held during the run,
	// its files and its own kernel included; 0: it is not known. It is exact
	// where it is the most that the sandbox ever held, and sampled otherwise.
	MemoryPeakBytes int64
	Duration        time.Duration
	// CPU is user and system time of the main process and the children that it
	// waited for.
	CPU time.Duration
	// StdoutBytes and StderrBytes count what was written, kept or not.
	StdoutBytes, StderrBytes int64
	// Changed are the regular files that were made or changed since a run of the
	// sandbox last reported them, sorted by path: by this run, by another that goes
	// on, or by what an earlier one left running. Each change is reported once. What
	// WriteFile wrote counts as reported, and a run that Kill ended reports nothing.
	Changed []agentsandbox.PathInfo
	// Omitted counts those that were left out, and directories that were left
	// out as a whole, by reason.
	Omitted map[agentsandbox.OmittedReason]int
}
