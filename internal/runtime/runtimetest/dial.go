package runtimetest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// dialTests are about servers that listen on the loopback interface.
var dialTests = map[string]func(*testing.T, *box){
	"Dial/a server on the loopback interface": func(t *testing.T, b *box) {
		for _, address := range []string{"127.0.0.1", "::1"} {
			port := b.serve(address, `
while data := c.recv(65536): c.sendall(data)
c.sendall(b'bye'); c.close()`)
			c := b.dial(port)
			if _, err := io.WriteString(c, "hello "); err != nil {
				t.Fatal(err)
			}
			if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(c); err != nil || string(got) != "hello bye" {
				t.Errorf("%s: %q, %v", address, got, err)
			}
			if err := errors.Join(c.Close(), c.Close()); err != nil {
				t.Error(err)
			}
		}
	},
	"Dial/nobody listens": func(t *testing.T, b *box) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		free := l.Addr().(*net.TCPAddr).Port
		l.Close() // nobody on this machine either, for the runtime that is no other
		if c, err := b.DialLoopback(b.ctx(), uint16(free)); !errors.Is(err, runtime.ErrRefused) {
			t.Errorf("%v, %v", c, err)
		}
		if _, err := b.DialLoopback(b.ctx(), 0); !errors.Is(err, runtime.ErrInvalid) {
			t.Error(err)
		}
	},
	"Dial/much in both directions": func(t *testing.T, b *box) {
		const size = 8 << 20
		port := b.serve("127.0.0.1", `
data = b''
while part := c.recv(1 << 20): data += part
c.sendall(data[::-1]); c.close()`)
		sent := bytes.Repeat([]byte("0123456789abcdef"), size/16)
		c := b.dial(port)
		go func() {
			_, _ = c.Write(sent)
			_ = c.(interface{ CloseWrite() error }).CloseWrite()
		}()
		got, err := io.ReadAll(c)
		for i, j := 0, len(got)-1; i < j; i, j = i+1, j-1 {
			got[i], got[j] = got[j], got[i]
		}
		if err != nil || sha256.Sum256(got) != sha256.Sum256(sent) {
			t.Errorf("%d bytes came back, %v", len(got), err)
		}
		c.Close()
	},
	"Dial/what was written before the close arrives": func(t *testing.T, b *box) {
		port := b.serve("127.0.0.1", `
import time
time.sleep(.2)
data = b''
while part := c.recv(1 << 20): data += part
open('got', 'w').write(str(len(data))); c.close()`)
		c := b.dial(port)
		if _, err := c.Write(make([]byte, 100_000)); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if out := b.must(bash("until test -s got; do sleep 0.01; done; cat got")); out != "100000" {
			t.Errorf("%q bytes", out)
		}
		if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, net.ErrClosed) {
			t.Errorf("after the close: %d, %v", n, err)
		}
	},
	"Dial/a close ends a read, and the end of the sandbox too": func(t *testing.T, b *box) {
		port := b.serve("127.0.0.1", "import time\ntime.sleep(1000)")
		first, second := b.dial(port), b.dial(port)
		ended := make(chan error, 2)
		for _, c := range []net.Conn{first, second} {
			go func() {
				_, err := c.Read(make([]byte, 1))
				ended <- err
			}()
		}
		first.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		if err := b.Destroy(b.ctx()); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, runtime.ErrSandboxLost) {
			t.Error(err)
		}
	},
}

// serve starts a server that does something with its connections, one at a time in
// threads of their own, and returns its port.
func (b *box) serve(address, each string) uint16 {
	b.t.Helper()
	code := "import socket, threading\n" +
		"s = socket.create_server(('" + address + "', 0), family=socket.AF_INET6 if ':' in '" + address + "' else socket.AF_INET)\n" +
		"print(s.getsockname()[1], flush=True)\n" +
		"def each(c):\n" + strings.ReplaceAll("\n"+each, "\n", "\n    ") + "\n" +
		"while True: threading.Thread(target=each, args=(s.accept()[0],), daemon=True).start()\n"
	b.put("/workspace/server.py", code)
	out := b.must(bash("rm -f port; nohup python3 server.py > port 2> failure & until test -s port; do sleep 0.01; done; cat port"))
	port, err := strconv.ParseUint(strings.TrimSpace(out), 10, 16)
	if err != nil {
		b.t.Fatal(err)
	}
	return uint16(port)
}

func (b *box) dial(port uint16) net.Conn {
	b.t.Helper()
	c, err := b.DialLoopback(b.ctx(), port)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { c.Close() })
	return c
}
