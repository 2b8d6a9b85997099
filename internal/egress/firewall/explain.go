package firewall

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/agentsandbox/agentsandbox/internal/egress"
)

// This file says no in the words of each protocol, so that code in the sandbox
// learns why, and what can be done about it.

const (
	// partBytes and partTime bound what is still read of a connection after the
	// last words: a reset must not overtake them.
	partBytes = 1 << 20
	partTime  = 2 * time.Second
)

// explanation says what refuses, and what to do about it.
func explanation(v Verdict) string {
	text := "agentsandbox: refused by the network policy of this sandbox: " + v.Rule + "."
	if what := advice(v); what != "" {
		text += " " + what
	}
	return text
}

func advice(v Verdict) string {
	switch v.Reason {
	case ReasonOff:
		return "The network of the sandbox is off: ask for a session or a run with another network policy."
	case ReasonNotAllowed:
		if strings.Contains(v.Rule, "of the session") {
			return "Add it to network.allow of the session or the run."
		}
		return "Ask whoever runs the server to allow it."
	case ReasonDenied:
		if strings.HasPrefix(v.Rule, "session") {
			return "Take the entry out of network.deny of the session or the run."
		}
		return "Ask whoever runs the server."
	case ReasonRange:
		return "Only whoever runs the server can open it (egress_open)."
	case ReasonName:
		return "Use the name that was resolved to the address, in the URL and in TLS."
	case ReasonProtocol:
		return "Where names are allowed, only what bears a name that can be read passes; allow the address for anything else."
	}
	return ""
}

// explains tells whether a refused connection is accepted to say so: on the port
// of plain HTTP, where a list refuses. Addresses that nobody may reach are reset
// there too: many programs ask the metadata address of a cloud whether they run
// in it, and take whoever answers for one.
func explains(dst netip.AddrPort, v Verdict) bool {
	if dst.Port() != httpPort {
		return false
	}
	switch v.Reason {
	case ReasonOff, ReasonNotAllowed, ReasonDenied:
		return true
	}
	return false
}

const httpPort = 80

// explain answers the first request of a connection that goes nowhere.
func (g *Gate) explain(ctx context.Context, c egress.Conn, v Verdict) {
	conn, err := c.Accept()
	if err != nil {
		return
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if conn.SetReadDeadline(time.Now().Add(g.limits.Hello)) != nil {
		return
	}
	if _, err := http.ReadRequest(bufio.NewReader(io.LimitReader(conn, maxHeader))); err == nil {
		part(ctx, conn, forbidden403(v))
	}
}

// forbidden403 is the whole answer to a request that cannot be answered in the
// usual way.
func forbidden403(v Verdict) []byte {
	return []byte("HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n" + explanation(v) + "\n")
}

// alertDenied is TLS's for a peer that is refused access (RFC 8446, section 6.2).
var alertDenied = []byte{recordAlert, 3, 3, 0, 2, 2, 49}

const recordAlert = 21

// lastWords are what a connection that bears the wrong name, or none, is told;
// nil where its protocol has no words for that.
func lastWords(s sniffed, v Verdict) []byte {
	switch {
	case s.kind == "tls":
		return alertDenied
	case s.text:
		return forbidden403(v)
	}
	return nil
}

// part says the last words and sees to it that they arrive: what the other side
// still sends is read for a moment, or the end would be a reset.
func part(ctx context.Context, conn net.Conn, last []byte) {
	end, cancel := context.WithTimeout(ctx, partTime)
	defer cancel()
	defer context.AfterFunc(end, func() { conn.Close() })()
	if _, err := conn.Write(last); err != nil {
		return
	}
	if half, ok := conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_, _ = io.CopyN(io.Discard, conn, partBytes)
	}
}
