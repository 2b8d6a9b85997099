package firewall

import (
	"bytes"
	"errors"
	"io"
)

// What is neither TLS nor HTTP passes to an address that is allowed for a name's
// sake, because databases and the like must work. A server of HTTP may still make
// a request of it: one that passes over a first line which makes no sense, say.
// So what such a connection sends is looked at until the server has answered, and
// the answer must not be HTTP.

var (
	errLateRequest    = errors.New("a request of HTTP after something else, which cannot be judged")
	errUnjudgedAnswer = errors.New("the server speaks HTTP, and what it was asked could not be judged")
)

var httpMark = []byte("HTTP/")

// lines reads what a sandbox sends, and fails at a line that asks for something
// by HTTP.
type lines struct {
	io.Reader
	answer *answer

	over  bool
	first []byte // of the line under way
	last  []byte
	long  bool // there is more between first and last
}

const (
	lineStart = 64 // bytes in which a method must end
	lineEnd   = 32 // and in which a version stands
)

// Read implements io.Reader.
func (l *lines) Read(b []byte) (int, error) {
	n, err := l.Reader.Read(b)
	if l.over = l.over || l.answer.begun.Load(); l.over {
		return n, err
	}
	for _, c := range b[:n] {
		if c == '\n' {
			if l.asks() {
				return 0, errLateRequest
			}
			l.first, l.last, l.long = l.first[:0], l.last[:0], false
			continue
		}
		if len(l.first) < lineStart {
			l.first = append(l.first, c)
		} else if l.last = append(l.last, c); len(l.last) > lineEnd {
			l.last, l.long = append(l.last[:0], l.last[1:]...), true
		}
	}
	return n, err
}

// asks tells whether the line is one that begins a request: a method, a target
// and a version.
func (l *lines) asks() bool {
	line := append(bytes.Clone(l.first), l.last...)
	for i, c := range line {
		if isSpace(c) {
			line[i] = ' '
		}
	}
	words := bytes.Fields(upperASCII(line))
	if len(words) == 0 || len(words) < 3 && !l.long || !isToken(words[0]) {
		return false
	}
	return bytes.HasPrefix(words[len(words)-1], httpMark)
}

// isToken tells whether a word could be a method (RFC 9110, section 5.6.2).
func isToken(word []byte) bool {
	for _, c := range word {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), c) < 0 {
			return false
		}
	}
	return len(word) > 0
}
