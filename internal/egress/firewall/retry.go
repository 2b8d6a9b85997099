package firewall

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"time"
)

// A TLS server may ask for a second hello (HelloRetryRequest, RFC 8446, section
// 4.1.4), which goes over the connection in clear as the first did, and which must
// bear the same name. Not every server holds clients to that, so we do.

// Of TLS: types of records, and the lengths and places of what is looked at.
const (
	recordHandshake = 22
	recordHeader    = 5
	messageHeader   = 4 // of a handshake message: type and length
	typeServerHello = 2
	// answerLength covers a ServerHello up to the end of its random bytes.
	answerRandom = recordHeader + messageHeader + 2
	answerLength = answerRandom + sha256.Size
)

// retryRandom marks a ServerHello as the wish for another hello.
var retryRandom = sha256.Sum256([]byte("HelloRetryRequest"))

// Answers of a server to a hello.
const (
	answerNone int32 = iota
	answerRetry
	answerOther
)

// answer reads from a server, and knows how it answered before anybody else does.
type answer struct {
	io.Reader
	first []byte
	kind  atomic.Int32
	begun atomic.Bool // the server has said something
	// listening: the answer must not be HTTP.
	listening atomic.Bool
}

// listen makes an answer in HTTP an error, and reports whether it is not too late
// for that.
func (a *answer) listen() bool {
	a.listening.Store(true)
	return !a.begun.Load()
}

func (a *answer) Read(b []byte) (int, error) {
	n, err := a.Reader.Read(b)
	if n > 0 && !a.begun.Swap(true) && a.listening.Load() {
		// Less than the mark is held back until more is there.
		for err == nil && n < len(httpMark) && bytes.HasPrefix(httpMark, b[:n]) {
			var more int
			more, err = a.Reader.Read(b[n:])
			n += more
		}
		if bytes.HasPrefix(b[:n], httpMark) {
			return 0, errUnjudgedAnswer
		}
	}
	if a.kind.Load() == answerNone && n > 0 {
		a.first = append(a.first, b[:min(n, answerLength-len(a.first))]...)
		switch {
		case len(a.first) == answerLength && a.first[0] == recordHandshake && a.first[recordHeader] == typeServerHello &&
			bytes.Equal(a.first[answerRandom:], retryRandom[:]):
			a.kind.Store(answerRetry)
		case len(a.first) == answerLength || a.first[0] != recordHandshake:
			a.kind.Store(answerOther)
		}
	}
	return n, err
}

var (
	errOtherName = errors.New("the second TLS hello has another name than the first")
	errUnread    = errors.New("no second TLS hello that can be read")
	errUnasked   = errors.New("a second TLS hello that the server did not ask for")
)

// guard reads what a sandbox sends after its hello, and holds a second one until
// it is known to have the same name.
type guard struct {
	flow   *flow
	source io.Reader
	answer *answer
	name   string

	over bool   // nothing is looked at any more
	held []byte // looked at, and not read yet
	rest int    // bytes of the record that may pass
}

// hold splits the first bytes of a connection behind the hello, and returns what
// reads the rest. Without a whole hello there, it is an error.
func (f *flow) hold(first *sniffed, a *answer) (*guard, error) {
	end, ok := helloEnd(first.raw)
	if !ok {
		return nil, errUnasked
	}
	g := &guard{flow: f, source: io.MultiReader(bytes.NewReader(first.raw[end:]), f.local), answer: a, name: first.name}
	first.raw = first.raw[:end]
	return g, nil
}

// helloEnd finds where the records of a hello end, which must be where it does.
func helloEnd(raw []byte) (end int, ok bool) {
	var message []byte
	for len(raw)-end >= recordHeader && raw[end] == recordHandshake {
		length := int(binary.BigEndian.Uint16(raw[end+3:]))
		if len(raw)-end-recordHeader < length {
			return 0, false
		}
		message = append(message, raw[end+recordHeader:][:length]...)
		end += recordHeader + length
		if len(message) < messageHeader {
			continue
		}
		if want := messageHeader + int(binary.BigEndian.Uint32(message)&0xffffff); len(message) >= want {
			return end, len(message) == want
		}
	}
	return 0, false
}

// Read implements io.Reader.
func (g *guard) Read(b []byte) (int, error) {
	for len(g.held) == 0 && g.rest == 0 && !g.over {
		if err := g.next(); err != nil {
			return 0, err
		}
	}
	switch {
	case len(g.held) > 0:
		n := copy(b, g.held)
		g.held = g.held[n:]
		return n, nil
	case g.over:
		return g.source.Read(b)
	}
	n, err := g.source.Read(b[:min(len(b), g.rest)])
	g.rest -= n
	return n, err
}

// next looks at the beginning of a record.
func (g *guard) next() error {
	header := make([]byte, recordHeader)
	n, err := io.ReadFull(g.source, header)
	if err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			// Less than a header is no hello.
			g.held, g.over = header[:n], true
			return nil
		}
		return err
	}
	kind := g.answer.kind.Load()
	switch {
	case kind == answerOther:
		g.held, g.over = header, true
	case header[0] != recordHandshake:
		g.held, g.rest = header, int(binary.BigEndian.Uint16(header[3:]))
	case kind == answerNone:
		// A client has nothing in clear to say before the server has answered.
		return errUnasked
	default:
		if err := g.flow.local.SetReadDeadline(time.Now().Add(g.flow.gate.limits.Hello)); err != nil {
			return err
		}
		second, err := readHello(header, g.source)
		switch {
		case err != nil:
			return errUnread
		case !strings.EqualFold(strings.TrimSuffix(second.name, "."), g.name):
			return errOtherName
		}
		g.held, g.over = second.raw, true
		return g.flow.local.SetReadDeadline(time.Time{})
	}
	return nil
}
