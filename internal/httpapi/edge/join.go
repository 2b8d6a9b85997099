package edge

import (
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

// Join answers with 101 and joins the client's connection to one into a sandbox,
// whose bytes come from a reader.
func (c *Call) Join(header http.Header, inside net.Conn, from io.Reader) error {
	conn, buffered, err := c.w.control.Hijack()
	if err != nil {
		return &agentsandbox.Error{Code: agentsandbox.CodeInvalidRequest, Message: "Another protocol needs HTTP/1.1.", Err: err}
	}
	defer conn.Close()
	c.w.status = http.StatusSwitchingProtocols
	_ = conn.SetDeadline(time.Now().Add(c.edge.limits.StallTimeout))
	head := &strings.Builder{}
	head.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	_ = header.Write(head) // a Builder takes everything
	if _, err := io.WriteString(conn, head.String()+"\r\n"); err != nil {
		return nil // the client is gone
	}
	_ = conn.SetDeadline(time.Time{})
	if ended, ok := inside.(interface{ Done() <-chan struct{} }); ok {
		over := make(chan struct{})
		defer close(over)
		go func() { // a client that takes nothing must not hold what has ended
			select {
			case <-ended.Done():
				_ = conn.SetDeadline(time.Now().Add(lastBytes))
			case <-over:
			}
		}()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		copyHalf(conn, from, conn, inside)
	}()
	copyHalf(inside, buffered.Reader, conn, inside)
	<-done
	return nil
}

// lastBytes bounds how long a client may take for the last bytes of a connection
// whose other end has ended.
const lastBytes = 5 * time.Second

// copyHalf copies one direction and passes its end on; a failure ends both.
func copyHalf(to net.Conn, from io.Reader, ends ...net.Conn) {
	_, err := io.Copy(struct{ io.Writer }{to}, from)
	if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
		err = half.CloseWrite()
	}
	if err != nil {
		for _, end := range ends {
			_ = end.Close()
		}
	}
}
