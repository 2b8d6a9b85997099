// Command agentsandbox-birth is the first program of a sandbox's process. It is
// embedded in the server, which starts it; it is of no use on its own.
package main

import "github.com/agentsandbox/agentsandbox/internal/runtime/gvisor/birth"

func main() { birth.Main() }
