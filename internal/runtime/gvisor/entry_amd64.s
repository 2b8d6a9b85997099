#include "textflag.h"

// The entry point of programs that are linked with -E=agentsandbox_entry.
//
// gVisor registers the process for membarrier(2) as it starts. With more than one
// thread, and a Go program has several by then, the kernel lets every processor
// come to rest first, which takes 5 to 14 ms. A process that is registered already
// is not made to wait, and one that has a single thread neither. Before the first
// instruction of Go's there is a single thread.
//
// The registers that Go's own entry point looks at are left alone: the stack
// pointer. An error is ignored: gVisor's own attempt will meet it again.
TEXT agentsandbox_entry(SB),NOSPLIT|NOFRAME,$0
	MOVQ $324, AX // membarrier
	MOVQ $16, DI  // MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED
	XORL SI, SI
	XORL DX, DX
	SYSCALL
	JMP  _rt0_amd64_linux(SB)
