// Package wire carries many independent conversations (streams) over one byte
// stream between the host and the guest agent.
//
// It owns framing, flow control and the end of streams. It must not know what
// the messages mean: that is the business of package guest. Each end believes
// that the other is hostile: every length is bounded, memory per stream is
// bounded by its window, and whatever does not follow the protocol ends the
// connection with a [ProtocolError] that names the frame.
//
// # The protocol
//
// The host sends a hello, the agent answers with its own; both are 16 bytes:
// the magic "asbxwire", the version (2 bytes), 6 zero bytes. Frames follow in
// both directions. All numbers are big-endian.
//
//	byte 0      frame type
//	byte 1      kind of the message (open and message frames), otherwise 0
//	bytes 2-3   0
//	bytes 4-7   stream id
//	bytes 8-11  length of the payload
//
//	type     payload               meaning
//	open     a message             the host begins a stream, with its first message
//	message  a message             one message on a stream, at most 64 KiB
//	end      none                  the sender sends no more messages on the stream
//	reset    at most 4 KiB         the stream is over in both directions; says why
//	credit   4 bytes               the sender of the frame has room for so much more
//	goodbye  none, stream 0        no frame follows; the peer answers with its own
//
// Only the host opens streams, with ids that grow by one from 1. A stream ends
// when each side has sent end or reset; a reset is answered with one, unless
// the answering side has ended already. Credit and reset for a stream that has
// ended may cross the end on the wire, so a bounded number of them is ignored.
//
// In each direction of a stream the sender may have [Window] bytes on the way.
// A message costs its length and [messageCost], so that empty ones are not
// free. The receiver gives credit back when its reader has taken messages.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Version of the protocol. Both ends must speak the same.
const Version = 1

// Bounds of the protocol.
const (
	// MaxPayload bounds the payload of a message, in bytes.
	MaxPayload = 64 << 10
	// MaxResetText bounds the reason that a reset carries, in bytes.
	MaxResetText = 4 << 10
	// Window is how much of one stream may be on the way in one direction.
	Window = 256 << 10
	// MaxStreams bounds the streams that are open at once.
	MaxStreams = 1024

	messageCost = 64
	headerSize  = 12
	helloSize   = 16
	// creditStep is how much the reader of a stream has taken before credit is
	// given back: late enough that short streams cost no frame at all.
	creditStep = Window / 4
	// maxOut bounds the bytes that wait to be written; senders wait above it.
	// Frames other than messages go in regardless: there are few of them for
	// each stream.
	maxOut = 512 << 10
)

const magic = "asbxwire"

type frameType uint8

const (
	frameOpen frameType = iota + 1
	frameMessage
	frameEnd
	frameReset
	frameCredit
	frameGoodbye
)

func (t frameType) String() string {
	switch t {
	case frameOpen:
		return "open"
	case frameMessage:
		return "message"
	case frameEnd:
		return "end"
	case frameReset:
		return "reset"
	case frameCredit:
		return "credit"
	case frameGoodbye:
		return "goodbye"
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// Reasons for which a connection or a stream is over.
var (
	// ErrGoodbye says that the host ended the connection in order.
	ErrGoodbye = errors.New("the conversation ended in order")
	// ErrClosed says that this side closed the connection.
	ErrClosed = errors.New("the connection was closed")
	// ErrStreamDone says that this side has ended or reset the stream.
	ErrStreamDone = errors.New("the stream was ended on this side")
	// ErrTooManyStreams says that MaxStreams streams are open.
	ErrTooManyStreams = errors.New("too many streams are open")
)

// VersionError says that the peer speaks another version of the protocol.
type VersionError struct{ Peer uint16 }

func (e *VersionError) Error() string {
	return fmt.Sprintf("the peer speaks version %d of the guest protocol, this side version %d: build the agent and the daemon from the same source", e.Peer, Version)
}

// ProtocolError says which frame of the peer broke the rules.
type ProtocolError struct {
	Reason string
	Frame  string // what the frame said of itself; empty for a hello
}

func (e *ProtocolError) Error() string {
	if e.Frame == "" {
		return "guest protocol: " + e.Reason
	}
	return "guest protocol: " + e.Reason + " (" + e.Frame + ")"
}

// ResetError says that the peer reset the stream; Text is what it gave as the
// reason, in the peer's own words.
type ResetError struct{ Text []byte }

func (e *ResetError) Error() string {
	return fmt.Sprintf("the peer reset the stream: %q", e.Text)
}

type header struct {
	typ    frameType
	kind   uint8
	zero   uint16
	stream uint32
	length uint32
}

func (h header) String() string {
	return fmt.Sprintf("frame %s, kind %d, stream %d, %d bytes", h.typ, h.kind, h.stream, h.length)
}

func (h header) fault(reason string) error {
	return &ProtocolError{Reason: reason, Frame: h.String()}
}

func (h header) append(b []byte) []byte {
	b = append(b, byte(h.typ), h.kind, 0, 0)
	b = binary.BigEndian.AppendUint32(b, h.stream)
	return binary.BigEndian.AppendUint32(b, h.length)
}

func parseHeader(b *[headerSize]byte) header {
	return header{
		typ:    frameType(b[0]),
		kind:   b[1],
		zero:   binary.BigEndian.Uint16(b[2:]),
		stream: binary.BigEndian.Uint32(b[4:]),
		length: binary.BigEndian.Uint32(b[8:]),
	}
}

// check rejects what is wrong with a header by itself, before its payload is
// read.
func (h header) check() error {
	if h.zero != 0 {
		return h.fault("bytes 2 and 3 of a header must be zero")
	}
	bound := uint32(0)
	switch h.typ {
	case frameOpen, frameMessage:
		bound = MaxPayload
	case frameReset:
		bound = MaxResetText
	case frameCredit:
		bound = 4
		if h.length != 4 {
			return h.fault("a credit has 4 bytes")
		}
	case frameEnd, frameGoodbye:
	default:
		return h.fault("unknown frame type")
	}
	switch {
	case h.length > bound:
		return h.fault(fmt.Sprintf("the payload must be at most %d bytes", bound))
	case h.kind != 0 && h.typ != frameOpen && h.typ != frameMessage:
		return h.fault("only messages have a kind")
	case (h.stream == 0) != (h.typ == frameGoodbye):
		return h.fault("goodbye and no other frame is on stream 0")
	}
	return nil
}

func appendHello(b []byte, version uint16) []byte {
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint16(b, version)
	return append(b, 0, 0, 0, 0, 0, 0)
}

// readHello reads and checks the peer's hello and nothing after it.
func readHello(r io.Reader) error {
	var b [helloSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return fmt.Errorf("read the peer's hello: %w", err)
	}
	if string(b[:len(magic)]) != magic {
		return &ProtocolError{Reason: fmt.Sprintf("the peer's hello begins with %q", b[:len(magic)])}
	}
	if v := binary.BigEndian.Uint16(b[len(magic):]); v != Version {
		return &VersionError{Peer: v}
	}
	for _, z := range b[len(magic)+2:] {
		if z != 0 {
			return &ProtocolError{Reason: "the last 6 bytes of a hello must be zero"}
		}
	}
	return nil
}
