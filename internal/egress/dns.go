package egress

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
)

const (
	dnsPort = 53
	// dnsQueries bounds the queries of a link that are answered at once; those
	// above it are dropped, and asked again by whoever asked.
	dnsQueries = 64
	// dnsIdle ends a stream of queries on which none came.
	dnsIdle = 10 * time.Second
	// maxDatagram bounds a query that comes in one packet, in bytes.
	maxDatagram = 64 << 10
)

// serveDNS begins to answer on the gateway's addresses.
func (l *Link) serveDNS() error {
	slots := make(chan struct{}, dnsQueries)
	for _, at := range []struct {
		address  tcpip.Address
		protocol tcpip.NetworkProtocolNumber
	}{{stackAddress(gateway4), ipv4.ProtocolNumber}, {stackAddress(gateway6), ipv6.ProtocolNumber}} {
		c, err := gonet.DialUDP(l.stack, &tcpip.FullAddress{NIC: nic, Addr: at.address, Port: dnsPort}, nil, at.protocol)
		if err != nil {
			return err
		}
		l.owned.Go(func() { l.serveDatagrams(c, slots) })
	}
	return nil
}

// serveDatagrams answers queries until the link ends.
func (l *Link) serveDatagrams(c *gonet.UDPConn, slots chan struct{}) {
	defer context.AfterFunc(l.ctx, func() { c.Close() })()
	defer c.Close()
	room := make([]byte, maxDatagram)
	for {
		n, from, err := c.ReadFrom(room)
		if l.ctx.Err() != nil {
			return
		}
		if err != nil {
			continue // a refused answer is reported here; the next query is another matter
		}
		l.counts.queries.Add(1)
		select {
		case slots <- struct{}{}:
		default:
			l.counts.queriesDropped.Add(1)
			continue
		}
		query := append([]byte(nil), room[:n]...)
		l.owned.Go(func() {
			defer func() { <-slots }()
			if answer := l.handler.DNS(l.ctx, query, false); answer != nil {
				_, _ = c.WriteTo(answer, from) // as lost as a packet can be
			}
		})
	}
}

// serveStream answers queries that come over TCP, each with its length in front
// (RFC 1035, section 4.2.2), one after the other.
func (l *Link) serveStream(r *request) {
	c, err := r.Accept()
	if err != nil {
		return
	}
	defer c.Close()
	for {
		_ = c.SetDeadline(time.Now().Add(dnsIdle)) // gonet's never fails
		query, err := readQuery(c)
		if err != nil {
			return
		}
		l.counts.queries.Add(1)
		answer := l.handler.DNS(l.ctx, query, true)
		if answer == nil {
			return
		}
		_ = c.SetDeadline(time.Now().Add(dnsIdle))
		if err := writeAnswer(c, answer); err != nil {
			return
		}
	}
}

func readQuery(c net.Conn) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		return nil, err
	}
	query := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(c, query)
	return query, err
}

func writeAnswer(c net.Conn, answer []byte) error {
	const longest = 1<<16 - 1
	if len(answer) > longest {
		return errors.New("an answer that is too long for DNS")
	}
	framed := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(answer)), uint16(len(answer)))
	_, err := c.Write(append(framed, answer...))
	return err
}
