package cli

import "github.com/agentsandbox/agentsandbox"

// limitFlags are what run and sessions create have in common: the limits of a
// sandbox, and of what runs in it.
type limitFlags struct {
	MemoryMB    int64   `placeholder:"MB" help:"Memory of the sandbox, in MiB."`
	CPUs        float64 `name:"cpus" placeholder:"N" help:"CPUs of the sandbox; fractions are allowed."`
	Processes   int64   `placeholder:"N" help:"Processes and threads that the code may have at once."`
	OpenFiles   int64   `placeholder:"N" help:"Open files of each process."`
	DiskMB      int64   `placeholder:"MB" help:"Room for files, in MiB: a power of two."`
	Inodes      int64   `placeholder:"N" help:"Files, directories and links that the sandbox may hold."`
	OutputBytes int64   `placeholder:"N" help:"How much is kept of each of standard output and standard error, in bytes."`
}

func (f limitFlags) run() agentsandbox.RunLimits {
	return agentsandbox.RunLimits{Processes: f.Processes, OpenFiles: f.OpenFiles, OutputBytes: f.OutputBytes}
}

func (f limitFlags) disk() agentsandbox.DiskLimits {
	return agentsandbox.DiskLimits{DiskMB: f.DiskMB, Inodes: f.Inodes}
}
