package gvisor

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/egress"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
	"github.com/agentsandbox/agentsandbox/internal/runtime/gvisor/birth"
)

// outside stands for all that a sandbox can reach: every port 80 says hello, on
// port 7 is an echo, and on 9 as many zeroes as are asked for; all else is
// refused. Its DNS knows one address for every name.
type outside struct{ served atomic.Int64 }

func (o *outside) TCP(_ context.Context, c egress.Conn) {
	port := c.Destination().Port()
	if port != 7 && port != 9 && port != 80 {
		c.Refuse()
		return
	}
	s, err := c.Accept()
	if err != nil {
		return
	}
	defer s.Close()
	o.served.Add(1)
	switch port {
	case 7:
		_, _ = io.Copy(s, s)
	case 9:
		var size int64
		_, _ = fmt.Fscanln(s, &size)
		_, _ = io.CopyN(s, zeroes{}, size)
	case 80:
		_, _ = fmt.Fprintf(s, "hello from %s", c.Destination())
	}
	_ = s.(interface{ CloseWrite() error }).CloseWrite()
}

// DNS answers with 203.0.113.9 to questions for A, and with nothing to others.
func (o *outside) DNS(_ context.Context, query []byte, _ bool) []byte {
	const header, answer = 12, "c00c00010001000000000004cb007109"
	end := header
	for end < len(query) && query[end] != 0 {
		end += int(query[end]) + 1
	}
	if end += 5; end > len(query) {
		return nil
	}
	reply := append([]byte{}, query[:end]...)
	reply[2], reply[3] = 0x81, 0x80
	copy(reply[6:header], []byte{0, 0, 0, 0, 0, 0})
	if reply[end-3] == 1 { // the type is A
		reply[7] = 1
		record, _ := hex.DecodeString(answer)
		reply = append(reply, record...)
	}
	return reply
}

type zeroes struct{}

func (zeroes) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// newNetworkHost is a host whose sandboxes can have a network.
func newNetworkHost(t *testing.T) (*host, *egress.Gateway, *outside) {
	t.Helper()
	o := &outside{}
	gateway := egress.New(egress.Options{Handler: func(string) egress.Handler { return o }})
	t.Cleanup(func() { must(t, gateway.Close()) })
	return newHostWith(t, func(opts *Options) { opts.Network = gateway }), gateway, o
}

// startLinked makes a sandbox with a network that ends with the test.
func (h *host) startLinked() runtime.Sandbox {
	h.t.Helper()
	spec := h.spec(testLimits)
	spec.Network = true
	sb, err := h.Start(h.t.Context(), spec)
	must(h.t, err)
	h.t.Cleanup(func() { must(h.t, sb.Destroy(context.Background())) })
	return sb
}

func TestNetworkDevice(t *testing.T) {
	h, gateway, o := newNetworkHost(t)
	sb := h.startLinked()
	got := python(t, sb, `
import socket, urllib.request
print(sorted(name for _, name in socket.if_nameindex()))
print(open("/etc/resolv.conf").read().strip())
print(sorted({a[4][0] for a in socket.getaddrinfo("example.org", 80)}))
print(socket.create_connection(("example.org", 80)).recv(100).decode())
print(socket.create_connection(("2001:db8::1", 80)).recv(100).decode())
for address in "203.0.113.9", "192.0.0.1", "169.254.169.254", "2001:db8::1":
    try:
        socket.create_connection((address, 22), 20)
    except ConnectionRefusedError:
        print("refused")
`)
	want := `['eth0', 'lo']
nameserver 192.0.0.1
['203.0.113.9']
hello from 203.0.113.9:80
hello from [2001:db8::1]:80
refused
refused
refused
refused`
	if got != want {
		t.Errorf("in the sandbox:\n%s\nwant\n%s", got, want)
	}
	st := gateway.Link(sb.ID()).Stats()
	if st.Accepted != 2 || o.served.Load() != 2 || st.Queries == 0 || st.Malformed+st.Spoofed > 0 {
		t.Errorf("counted %+v, served %d", st, o.served.Load())
	}
	must(t, sb.Destroy(t.Context()))
	if gateway.Link(sb.ID()) != nil {
		t.Error("the link of a destroyed sandbox is there")
	}
}

func TestNoNetworkDevice(t *testing.T) {
	h, gateway, _ := newNetworkHost(t)
	h.startLinked() // of the same snapshot
	sb := h.start(testLimits)
	got := python(t, sb, `
import socket
print([name for _, name in socket.if_nameindex()], repr(open("/etc/resolv.conf").read()))
for address in "203.0.113.9", "192.0.0.1", "2001:db8::1":
    try:
        socket.create_connection((address, 80), 20)
    except OSError as e:
        print(e.strerror)
try:
    socket.getaddrinfo("example.org", 80)
except socket.gaierror:
    print("no such name")
`)
	want := "['lo'] ''\n" + strings.Repeat("Network is unreachable\n", 3) + "no such name"
	if got != want {
		t.Errorf("in the sandbox:\n%s\nwant\n%s", got, want)
	}
	if gateway.Link(sb.ID()) != nil {
		t.Error("a sandbox without a network has a link")
	}
}

func TestNetworkThatIsNotThere(t *testing.T) {
	h := newHost(t)
	spec := h.spec(testLimits)
	spec.Network = true
	if _, err := h.Start(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "none to give") {
		t.Errorf("a sandbox with a network: %v", err)
	}
}

// The bytes are checked by the sandbox: what is said of throughput is in the
// benchmark.
func TestNetworkDownload(t *testing.T) {
	h, _, _ := newNetworkHost(t)
	got := python(t, h.startLinked(), download(64<<20))
	if !strings.HasPrefix(got, fmt.Sprint(64<<20)) {
		t.Errorf("the sandbox got %q bytes", got)
	}
}

// download fetches that many bytes, and prints how many came in how many
// seconds.
func download(bytes int) string {
	return fmt.Sprintf(`
import socket, time
s = socket.create_connection(("203.0.113.9", 9))
s.sendall(b"%d\n")
room, n, began = bytearray(1 << 20), 0, time.monotonic()
while (k := s.recv_into(room)) > 0:
    n += k
print(n, time.monotonic() - began)
`, bytes)
}

func TestDialIntoASandbox(t *testing.T) {
	h, gateway, _ := newNetworkHost(t)
	sb := h.startLinked()
	python(t, sb, `
import subprocess, sys, socket
subprocess.Popen([sys.executable, "-m", "http.server", "8080", "--directory", "/usr/share"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
while True:
    try:
        socket.create_connection(("127.0.0.1", 8080)).close()
        break
    except ConnectionRefusedError:
        pass
`)
	c, err := gateway.Link(sb.ID()).Dial(t.Context(), 8080)
	must(t, err)
	defer c.Close()
	_, err = io.WriteString(c, "GET / HTTP/1.0\r\n\r\n")
	must(t, err)
	page, err := io.ReadAll(c)
	if err != nil || !strings.Contains(string(page), "200 OK") || !strings.Contains(string(page), "doc") {
		t.Errorf("the server in the sandbox answers %q, %v", page, err)
	}
}

// No other process than the sandbox's own has anything of its link, and another
// sandbox that was started later does not either.
func TestLinksAreNotInherited(t *testing.T) {
	h, _, _ := newNetworkHost(t)
	first, second := h.startLinked().(*sandbox), h.startLinked().(*sandbox)
	inode := fmt.Sprintf("socket:[%d]", h.readRecord(first.ID()).Link)
	for fd, target := range descriptors(t, fmt.Sprintf("/proc/%d", second.m.process.pid)) {
		if target == inode {
			t.Errorf("descriptor %s of a sandbox is another one's link", fd)
		}
	}
	if got := descriptors(t, fmt.Sprintf("/proc/%d", first.m.process.pid))[fmt.Sprint(birth.KeptLinkFD)]; got != inode {
		t.Errorf("the sandbox's process keeps %q, and not %s", got, inode)
	}
	file, err := first.m.link.Duplicate()
	must(t, err)
	defer file.Close()
	if flags, err := unix.FcntlInt(file.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("a duplicate is inherited: %d, %v", flags, err)
	}
}

func (h *host) readRecord(id string) record {
	h.t.Helper()
	text, err := os.ReadFile(filepath.Join(h.stateDir, recordsDir, id+recordSuffix))
	must(h.t, err)
	var rec record
	must(h.t, json.Unmarshal(text, &rec))
	return rec
}

// A daemon that is killed loses its end of every link. The next one takes it out
// of the sandbox's process.
func TestLinkIsAdopted(t *testing.T) {
	h, gateway, o := newNetworkHost(t)
	sb := h.startLinked()
	rec := h.readRecord(sb.ID())
	machine := sb.(*sandbox).m
	if rec.Link == 0 {
		t.Fatal("the record does not name the link")
	}
	must(t, machine.link.Close()) // as the death of the daemon does
	if gateway.Link(rec.ID) != nil {
		t.Fatal("the link is still there")
	}
	other := rec
	other.Link++
	if _, err := h.adoptLink(other, machine.process); err == nil || !strings.Contains(err.Error(), "another socket") {
		t.Errorf("a socket that the record does not name: %v", err)
	}
	link, err := h.adoptLink(rec, machine.process)
	must(t, err)
	machine.link = link // it ends with the sandbox
	before := o.served.Load()
	got := python(t, sb, `
import socket
print(socket.gethostbyname("example.org"), socket.create_connection(("203.0.113.9", 80)).recv(100).decode())
`)
	if want := "203.0.113.9 hello from 203.0.113.9:80"; got != want || o.served.Load() != before+1 {
		t.Errorf("after the adoption: %q, want %q", got, want)
	}
	if none, err := h.adoptLink(record{ID: "x"}, machine.process); none != nil || err != nil {
		t.Errorf("a sandbox without a network: %v, %v", none, err)
	}
	if a := link.Interface().Resolver; a != netip.MustParseAddr("192.0.0.1") {
		t.Errorf("the resolver of the adopted link is %s", a)
	}
}
