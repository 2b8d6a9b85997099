// Package egress is the network of sandboxes: a user-space TCP/IP stack in the
// daemon for each of them, and nothing on the host's own network.
//
// It owns the link between a sandbox's kernel and the daemon, from raw frames
// up to connections and DNS queries. What becomes of these is a Handler's
// decision; the package knows no policy. It must not know gVisor's runtime,
// sessions or stores.
//
// Every frame is written by a kernel that hostile code may have taken over. A
// frame that makes no sense is counted and dropped; it never fails a call, and
// one sandbox's frames never reach another's link.
package egress

import (
	"context"
	"net"
	"net/netip"
)

// Handler decides and carries out what a sandbox's connections become.
type Handler interface {
	// TCP is called in its own goroutine for each connection a sandbox opens,
	// before it is accepted. It either calls c.Accept and moves bytes until
	// done, or c.Refuse. A connection that it returns from without either is
	// refused. ctx ends with the link.
	TCP(ctx context.Context, c Conn)
	// DNS answers one query in wire format, of at most 64 KiB, that came over
	// UDP or TCP. nil means no answer. It may be called from several goroutines
	// at once.
	DNS(ctx context.Context, query []byte, overTCP bool) []byte
}

// Conn is a connection that a sandbox asks for. It is decided once, by Accept
// or by Refuse; what comes second does nothing.
type Conn interface {
	// Destination is the address that the sandbox dialled.
	Destination() netip.AddrPort
	// Source is the sandbox's own end.
	Source() netip.AddrPort
	// Accept completes the handshake. The connection has CloseWrite, and the
	// caller closes it. It fails when the sandbox went away meanwhile, or when
	// the connection was decided before.
	Accept() (net.Conn, error)
	// Refuse answers with a reset at once: code in the sandbox sees "connection
	// refused".
	Refuse()
}

// RefuseAll is a Handler for sandboxes that have a device and may reach
// nothing: each connection is refused, and no name is known.
type RefuseAll struct{}

// TCP implements Handler.
func (RefuseAll) TCP(_ context.Context, c Conn) { c.Refuse() }

// DNS implements Handler: it answers each query with REFUSED.
func (RefuseAll) DNS(_ context.Context, query []byte, _ bool) []byte { return refuseQuery(query) }
