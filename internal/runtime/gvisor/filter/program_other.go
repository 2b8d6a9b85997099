//go:build !amd64

package filter

import "gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"

// programs has nothing for this architecture: gVisor works the filter out.
var programs []precompiledseccomp.Program
