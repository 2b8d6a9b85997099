package cli

import (
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"

	"github.com/agentsandbox/agentsandbox"
)

type forwardCommand struct {
	ID    string  `arg:"" name:"session" help:"Id of the session."`
	Port  uint16  `arg:"" help:"Port in the session."`
	Local *uint16 `arg:"" optional:"" help:"Port on this machine; left out, the same one; 0, a free one."`
	connection
}

// Help is the text between the summary and the flags.
func (c *forwardCommand) Help() string {
	return `Listens on 127.0.0.1 and passes every connection on to the port of the session, until it is interrupted. The server in the session may listen on any of its addresses, or on 127.0.0.1 alone.

Examples:

    agentsandbox forward ses_… 8888
    agentsandbox forward ses_… 5432 15432`
}

// Run passes connections on until the verb is interrupted.
func (c *forwardCommand) Run(a *app) error {
	service, err := c.service(a)
	if err != nil {
		return err
	}
	if err := agentsandbox.ValidatePort(c.Port, 0); err != nil {
		return err
	}
	// A session that is not there must be known now, not at the first connection.
	if _, err := service.Session(a.ctx, c.ID); err != nil {
		return err
	}
	local := c.Port
	if c.Local != nil {
		local = *c.Local
	}
	var listen net.ListenConfig
	l, err := listen.Listen(a.ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(local))))
	if err != nil {
		return fmt.Errorf("%w: name another port of this machine after that of the session", err)
	}
	if err := a.print(fmt.Sprintf("%s leads to port %d of %s\n", l.Addr(), c.Port, neutral(c.ID))); err != nil {
		return err
	}
	defer context.AfterFunc(a.ctx, func() { _ = l.Close() })()
	var open sync.WaitGroup
	defer open.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			if a.ctx.Err() != nil {
				return a.ctx.Err()
			}
			return err
		}
		open.Go(func() {
			defer conn.Close()
			if err := c.pass(a, service, conn); err != nil && a.ctx.Err() == nil {
				a.note("%s", explain(err)[0])
			}
		})
	}
}

// pass joins a connection to one of the port, until both directions have ended.
func (c *forwardCommand) pass(a *app, service agentsandbox.Service, here net.Conn) error {
	there, err := service.DialPort(a.ctx, c.ID, c.Port)
	if err != nil {
		return err
	}
	defer there.Close()
	defer context.AfterFunc(a.ctx, func() { _, _ = here.Close(), there.Close() })()
	var halves sync.WaitGroup
	halves.Go(func() { copyHalf(here, there) })
	halves.Go(func() { copyHalf(there, here) })
	halves.Wait()
	return nil
}

// copyHalf copies one direction and passes its end on; where that cannot be, and
// after a failure, it ends both.
func copyHalf(to, from net.Conn) {
	_, err := io.Copy(to, from)
	if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil && half.CloseWrite() == nil {
		return
	}
	_, _ = to.Close(), from.Close()
}
