package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/guest/wire"
)

// dialTimeout bounds how long a server on the loopback interface may take to
// accept a connection.
const dialTimeout = 10 * time.Second

// loopbackAddresses are where a server is looked for that listens for this machine
// alone. They are never another machine.
var loopbackAddresses = []string{"127.0.0.1", "::1"}

// serveDial relays a connection to a port of the loopback interface: bytes in both
// directions, each of which can end by itself.
func (a *Agent) serveDial(ctx context.Context, s *wire.Stream, port uint16) error {
	if port == 0 {
		return refuse(guest.FailInvalid, "there is no port 0")
	}
	conn, err := dialLoopback(ctx, port)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	type empty struct{}
	if err := guest.SendDocument(ctx, s, guest.KindReply, empty{}); err != nil {
		return err
	}
	var sending sync.WaitGroup
	sending.Go(func() { sendAll(ctx, s, conn) })
	err = receiveAll(ctx, s, conn)
	if err != nil {
		conn.Close() // ends the other direction too
		s.Reset(guest.Failure{Code: guest.FailOther, Text: err.Error()}.Encode())
	}
	sending.Wait()
	return nil
}

func dialLoopback(ctx context.Context, port uint16) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	refused := true
	var errs []error
	for _, address := range loopbackAddresses {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(address, strconv.Itoa(int(port))))
		if tcp, ok := conn.(*net.TCPConn); ok && err == nil {
			return tcp, nil
		}
		// A sandbox may have no IPv6.
		refused = refused && (errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.ENETUNREACH))
		errs = append(errs, err)
	}
	if refused {
		return nil, refuse(guest.FailRefused, "nobody listens on port %d of the loopback interface", port)
	}
	return nil, errors.Join(errs...)
}

// sendAll sends what the server writes, to its end.
func sendAll(ctx context.Context, s *wire.Stream, from *net.TCPConn) {
	buf := make([]byte, wire.MaxPayload/2)
	for {
		n, err := from.Read(buf)
		if n > 0 && s.Send(ctx, guest.KindConn, buf[:n]) != nil {
			from.Close() // the host has gone
			return
		}
		switch {
		case err == io.EOF:
			s.End()
			return
		case err != nil:
			s.Reset(guest.Failure{Code: guest.FailOther, Text: err.Error()}.Encode())
			return
		}
	}
}

// receiveAll writes what the host sends, to its end.
func receiveAll(ctx context.Context, s *wire.Stream, to *net.TCPConn) error {
	for {
		m, err := s.Recv(ctx)
		switch {
		case err == io.EOF:
			return to.CloseWrite()
		case err != nil:
			return fmt.Errorf("receive from the host: %w", err)
		case m.Kind != guest.KindConn:
			return refuse(guest.FailInvalid, "a message of kind %d among the bytes of a connection", m.Kind)
		}
		if _, err := to.Write(m.Payload); err != nil {
			return err
		}
	}
}
