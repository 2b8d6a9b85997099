package firewall

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	maxFirst = 8 << 10  // bytes until a line of HTTP must be told from anything else
	maxHello = 64 << 10 // bytes of a TLS hello
)

// sniffed is what the first bytes of a connection are.
type sniffed struct {
	kind  string // tcp, tls or http
	name  string // of a TLS hello; may be empty
	raw   []byte // all that was read
	fault string // why they cannot be judged
	text  bool   // an answer in HTTP may be understood
}

// sniff reads the first bytes that the sandbox sends until they can be told
// apart. It waits without bound for the first one, and Limits.Hello from there
// on. When names need not match, it looks for TLS alone, which shows in the first
// byte, and finds no fault.
func (f *flow) sniff(strict bool) (sniffed, error) {
	s := sniffed{kind: "tcp"}
	buf := make([]byte, 2048)
	for {
		n, err := f.local.Read(buf)
		if n > 0 && len(s.raw) == 0 {
			if e := f.local.SetReadDeadline(time.Now().Add(f.gate.limits.Hello)); e != nil {
				return s, e
			}
		}
		s.raw = append(s.raw, buf[:n]...)
		kind, decided := classify(s.raw, strict)
		if decided {
			s.kind = kind
			break
		}
		if len(s.raw) >= maxFirst {
			s.fault, s.text = fmt.Sprintf("a first line of more than %d bytes, which cannot be judged", maxFirst), true
			break
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			s.fault = "the first bytes were not complete in time"
			break
		}
		if err == io.EOF {
			// Whatever it was to be, nothing more comes.
			break
		}
		if err != nil {
			return s, err
		}
	}
	switch s.kind {
	case "tls":
		hello, err := readHello(s.raw, f.local)
		s.raw = hello.raw
		s.name = strings.ToLower(strings.TrimSuffix(hello.name, "."))
		if err != nil {
			s.fault = "no TLS hello that can be read"
		}
	case "h2c":
		s.kind, s.fault, s.text = "tcp", "HTTP/2 without TLS", true
	}
	return s, f.local.SetReadDeadline(time.Time{})
}

// Methods whose requests of HTTP/0.9 have no version to be recognised by.
var methods = []string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "PROPFIND"}

// spaces are what some server takes for white space: Python's splits a request
// line at all of them.
const spaces = "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0"

func isSpace(c byte) bool { return strings.IndexByte(spaces, c) >= 0 }

// classify tells TLS, HTTP and HTTP/2 from anything else, and whether that is
// final. What some server could take for HTTP counts as HTTP, where a strict
// parser will have the say. Anything else is known by a first word that no method
// is, because it has bytes that do not print, or by a whole line without a
// version; a line that is never whole stays undecided.
func classify(b []byte, strict bool) (kind string, decided bool) {
	if len(b) == 0 {
		return "tcp", false
	}
	if b[0] == 0x16 {
		return "tls", true
	}
	if !strict {
		return "tcp", true
	}
	start := 0
	for start < len(b) && isSpace(b[start]) {
		start++
	}
	line, _, ended := bytes.Cut(b[start:], []byte("\n"))
	upper := upperASCII(line)
	end := 0
	for end < len(upper) && !isSpace(upper[end]) {
		if upper[end] <= ' ' || upper[end] >= 0x7f {
			return "tcp", true
		}
		end++
	}
	word, more := string(upper[:end]), end < len(upper)
	switch {
	case more && word == "PRI":
		return "h2c", true
	case more && slices.Contains(methods, word), bytes.Contains(upper, httpMark):
		return "http", true
	}
	return "tcp", ended
}

// upperASCII leaves bytes alone that are no letters of ASCII, valid UTF-8 or not.
func upperASCII(b []byte) []byte {
	upper := bytes.Clone(b)
	for i, c := range upper {
		if 'a' <= c && c <= 'z' {
			upper[i] = c - 'a' + 'A'
		}
	}
	return upper
}

// hello is what a TLS client said first.
type hello struct {
	name string
	raw  []byte
}

var errSeen = errors.New("hello seen")

// readHello reads a TLS hello, of which the first bytes are given, by the parser
// that knows every form of it: that of crypto/tls.
func readHello(first []byte, rest io.Reader) (hello, error) {
	var raw bytes.Buffer
	var h hello
	seen := false
	source := io.TeeReader(io.LimitReader(io.MultiReader(bytes.NewReader(first), rest), maxHello), &raw)
	server := tls.Server(helloConn{Reader: source}, &tls.Config{
		GetConfigForClient: func(info *tls.ClientHelloInfo) (*tls.Config, error) {
			h.name, seen = info.ServerName, true
			return nil, errSeen
		},
	})
	err := server.Handshake()
	h.raw = raw.Bytes()
	if n := len(h.raw); n < len(first) {
		h.raw = append(h.raw, first[n:]...)
	}
	if seen {
		return h, nil
	}
	return h, err
}

// helloConn reads, and says nothing.
type helloConn struct {
	net.Conn
	io.Reader
}

func (c helloConn) Read(b []byte) (int, error)       { return c.Reader.Read(b) }
func (c helloConn) Write(b []byte) (int, error)      { return len(b), nil }
func (c helloConn) Close() error                     { return nil }
func (c helloConn) SetDeadline(time.Time) error      { return nil }
func (c helloConn) SetWriteDeadline(time.Time) error { return nil }
