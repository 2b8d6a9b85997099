package agentsandbox

// RunLimits bound one run and what it starts. Zero values: the session's limit,
// or the server's default.
type RunLimits struct {
	// CPUTimeMS is the CPU time of all processes of the run, in milliseconds.
	CPUTimeMS int64
	// Processes bounds the processes and threads of the user in the sandbox.
	Processes int64
	// OpenFiles bounds the descriptors of each process.
	OpenFiles int64
	// OutputBytes is how much is kept of each output stream.
	OutputBytes int64
}

// DiskLimits bound the file system of a sandbox. Zero values: the server's
// default.
type DiskLimits struct {
	// DiskMB is the room for files, in MiB: a power of two.
	DiskMB int64
	// Inodes bounds the files, directories and links.
	Inodes int64
}

// The least that can be asked for: with less, no program starts.
const (
	MinProcesses   = 16
	MinOpenFiles   = 32
	MinOutputBytes = 1024
	MinDiskMB      = 64
	MinInodes      = 1024
)

// Validate checks what can be checked without knowing the server's caps.
func (l RunLimits) Validate() error {
	switch {
	case l.CPUTimeMS < 0:
		return Invalid("cpu_time_ms", "must not be negative.")
	case l.Processes != 0 && l.Processes < MinProcesses:
		return Invalid("processes", "must be at least %d, not %d.", MinProcesses, l.Processes)
	case l.OpenFiles != 0 && l.OpenFiles < MinOpenFiles:
		return Invalid("open_files", "must be at least %d, not %d.", MinOpenFiles, l.OpenFiles)
	case l.OutputBytes != 0 && l.OutputBytes < MinOutputBytes:
		return Invalid("output_bytes", "must be at least %d, not %d.", MinOutputBytes, l.OutputBytes)
	}
	return nil
}

// Validate checks what can be checked without knowing the server's caps.
func (l DiskLimits) Validate() error {
	switch {
	case l.DiskMB != 0 && (l.DiskMB < MinDiskMB || l.DiskMB&(l.DiskMB-1) != 0):
		return Invalid("disk_mb", "must be a power of two from %d on, not %d.", MinDiskMB, l.DiskMB)
	case l.Inodes != 0 && l.Inodes < MinInodes:
		return Invalid("inodes", "must be at least %d, not %d.", MinInodes, l.Inodes)
	}
	return nil
}
