package runtime

import (
	"net/netip"
	"os"
)

// Network makes the links of sandboxes: what a sandbox has for a network device,
// and where its packets end.
type Network interface {
	// Connect makes the link of a sandbox that is about to be made.
	Connect(id string) (Link, error)
	// Adopt makes a link again of the daemon's end of one, which an earlier
	// process had. It takes the file over, and closes it if it fails. Connections
	// that were open are reset.
	Adopt(id string, host *os.File) (Link, error)
}

// Link is a cable between a sandbox and the daemon.
type Link interface {
	// Device hands over the sandbox's end, once; the caller closes it. It is a
	// datagram socket on which each message is one IP packet without a header in
	// front, its checksums left out in both directions. nil after the first call,
	// and of a link that was adopted.
	Device() *os.File
	// Duplicate returns another descriptor of the daemon's end, which can outlive
	// the daemon; the caller closes it.
	Duplicate() (*os.File, error)
	// Interface says what the sandbox's end looks like.
	Interface() Interface
	// Close ends the link with all its connections and waits until nothing of it
	// is at work. It can be repeated.
	Close() error
}

// Interface is what a sandbox sees of its link.
type Interface struct {
	MTU       int // bytes
	Addresses []netip.Prefix
	// Gateways are the ways to all other addresses, at most one for each of IPv4
	// and IPv6.
	Gateways []netip.Addr
	// Resolver answers the sandbox's DNS queries.
	Resolver netip.Addr
}
