package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// The far side of the network's rows: a web server in a network namespace, in a
// range for tests of devices, that the server is told to open.
const (
	nearAddress, farAddress = "198.18.78.1", "198.18.78.2"
	farNamespace            = "asbx-bench"
	connections             = 1000
)

// downloadCode reads as much as it is told and prints what it got and how long it took.
const downloadCode = `
import socket, time
began = time.monotonic()
c = socket.create_connection(("%s", 80))
c.sendall(b"GET /%d HTTP/1.0\r\n\r\n")
got, buffer = 0, bytearray(1 << 20)
while n := c.recv_into(buffer): got += n
print('{"bytes": %%d, "seconds": %%f}' %% (got, time.monotonic() - began))
`

// connectCode opens connections until it has as many as it is told, all at once.
const connectCode = `
import socket, time
began = time.monotonic()
held = [socket.create_connection(("%s", 80)) for _ in range(%d)]
opened = time.monotonic() - began
for c in held: c.sendall(b"GET /1 HTTP/1.0\r\n\r\n")
good = sum(c.recv(64).startswith(b"HTTP/1.0 200") for c in held)
print('{"bytes": %%d, "seconds": %%f}' %% (good, opened))
`

// network measures one download, and many connections at once, of one sandbox,
// what many idle ones take, and what a network adds to a restore. It needs root
// and ip(8).
func network(o options, dir string) error {
	far, err := newFarSide()
	if err != nil {
		return err
	}
	defer far.close()
	s, err := start(o.binary, filepath.Join(dir, "network"), "--egress-open", farAddress, "--preload", "none", "--pool-size", "1")
	if err != nil {
		return err
	}
	defer s.stop()
	size := int64(o.transferMB) << 20
	bytes, seconds, err := s.measured(fmt.Sprintf(downloadCode, farAddress, size))
	if err != nil || bytes < size {
		return fmt.Errorf("%d of %d bytes arrived: %w", bytes, size, err)
	}
	good, opening, err := s.measured(fmt.Sprintf(connectCode, farAddress, connections))
	if err != nil || good != connections {
		return fmt.Errorf("%d of %d connections worked: %w", good, connections, err)
	}
	fmt.Printf("\n## Network of a sandbox\n\n| what | measured |\n|---|---|\n| one download of %d MiB | %.0f MB/s |\n| %d connections at once | all answered, opened in %.1f s |\n",
		o.transferMB, float64(bytes)/1e6/seconds, connections, opening)
	if err := idleNetworks(o, dir); err != nil {
		return err
	}
	return restoreCost(o, dir)
}

// measured runs code that prints a number and seconds as JSON.
func (s *server) measured(code string) (n int64, seconds float64, err error) {
	body, err := json.Marshal(map[string]string{"code": code})
	if err != nil {
		return 0, 0, err
	}
	var answer struct{ Stdout, Stderr string }
	if err := s.do(http.MethodPost, "/v1/execute", "application/json", strings.NewReader(string(body)), &answer); err != nil {
		return 0, 0, err
	}
	var result struct {
		Bytes   int64
		Seconds float64
	}
	if err := json.Unmarshal([]byte(answer.Stdout), &result); err != nil {
		return 0, 0, fmt.Errorf("%w: %s%s", err, answer.Stdout, answer.Stderr)
	}
	return result.Bytes, result.Seconds, nil
}

// farSide is a web server in a namespace: GET /N has N zeros.
type farSide struct {
	name   string
	server *http.Server
}

func newFarSide() (*farSide, error) {
	f := &farSide{name: fmt.Sprintf("%s-%d", farNamespace, os.Getpid())}
	near, far := fmt.Sprintf("asbxb%dn", os.Getpid()%1_000_000), fmt.Sprintf("asbxb%df", os.Getpid()%1_000_000)
	for _, line := range []string{
		"netns add " + f.name, "link add " + near + " type veth peer name " + far + " netns " + f.name,
		"addr add " + nearAddress + "/30 dev " + near, "link set " + near + " up",
		"-n " + f.name + " addr add " + farAddress + "/30 dev " + far, "-n " + f.name + " link set " + far + " up",
	} {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			f.close()
			return nil, fmt.Errorf("ip %s: %w: %s", line, err, out)
		}
	}
	l, err := f.listen()
	if err != nil {
		f.close()
		return nil, err
	}
	f.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var size int64
		_, _ = fmt.Sscanf(r.URL.Path, "/%d", &size)
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = io.CopyN(w, zeros{}, size)
	})}
	go func() { _ = f.server.Serve(l) }() // until close
	return f, nil
}

// listen makes a listener that belongs to the namespace, from a thread that ends
// with this: it could not come back.
func (f *farSide) listen() (net.Listener, error) {
	type made struct {
		l   net.Listener
		err error
	}
	result := make(chan made, 1)
	go func() {
		runtime.LockOSThread()
		ns, err := os.Open(filepath.Join("/run/netns", f.name))
		if err != nil {
			result <- made{nil, err}
			return
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- made{nil, fmt.Errorf("setns: %w", err)}
			return
		}
		l, err := net.Listen("tcp", net.JoinHostPort(farAddress, "80"))
		result <- made{l, err}
	}()
	m := <-result
	return m.l, m.err
}

func (f *farSide) close() {
	if f.server != nil {
		_ = f.server.Close()
	}
	_ = exec.Command("ip", "netns", "del", f.name).Run() // the link goes with it
}
