package wire

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// Message is one message of a stream.
type Message struct {
	Kind uint8
	// Payload is valid until the next Recv on the same stream.
	Payload []byte
}

// Stream is one conversation of a connection. Send, End and Reset may be called
// at the same time as Recv; Recv has one caller at a time.
type Stream struct {
	c        *Conn
	id       uint32
	readable chan struct{} // capacity 1
	writable chan struct{} // capacity 1

	// The rest is guarded by c.mu.
	messages   []Message
	current    []byte // the payload that the reader holds
	hasCurrent bool
	taken      int64 // what the reader took and no credit was given for
	sendWindow int64
	recvWindow int64
	sendDone   bool // end or reset was sent
	recvDone   bool // end or reset has come
	ended      bool // end has come
	reset      bool // this side reset the stream: what still comes is dropped
	reason     error
}

// Open begins a stream with its first message. Only the host may.
func (c *Conn) Open(ctx context.Context, kind uint8, payload []byte) (*Stream, error) {
	if len(payload) > MaxPayload {
		return nil, fmt.Errorf("a message of %d bytes; the limit is %d", len(payload), MaxPayload)
	}
	for {
		c.mu.Lock()
		switch {
		case c.err != nil:
			c.mu.Unlock()
			return nil, c.err
		case !c.host:
			c.mu.Unlock()
			return nil, fmt.Errorf("only the host opens streams")
		case c.leaving || c.lastID == math.MaxUint32:
			c.mu.Unlock()
			return nil, ErrClosed
		case len(c.streams) >= MaxStreams:
			c.mu.Unlock()
			return nil, ErrTooManyStreams
		case len(c.out) < maxOut:
			s := c.newStream(c.lastID + 1)
			s.sendWindow -= cost(payload)
			c.queue(header{typ: frameOpen, kind: kind, stream: s.id}, payload)
			c.mu.Unlock()
			return s, nil
		}
		space := c.space
		c.mu.Unlock()
		select {
		case <-space:
		case <-c.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Accept waits for the next stream that the host opened.
func (c *Conn) Accept(ctx context.Context) (*Stream, error) {
	select {
	case s := <-c.accepted:
		return s, nil
	case <-c.done:
		return nil, c.Err()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func cost(payload []byte) int64 { return int64(len(payload)) + messageCost }

// Broken tells whether the whole connection is over.
func (s *Stream) Broken() bool { return s.c.Err() != nil }

// Send queues one message; the payload can be used again when it returns. It
// waits while the peer gives no credit or takes nothing. The error is a
// *ResetError if the peer reset the stream, ErrStreamDone after End or Reset,
// the connection's, or the context's.
func (s *Stream) Send(ctx context.Context, kind uint8, payload []byte) error {
	if len(payload) > MaxPayload {
		return fmt.Errorf("a message of %d bytes; the limit is %d", len(payload), MaxPayload)
	}
	c := s.c
	for {
		c.mu.Lock()
		if err := s.sendError(); err != nil {
			c.mu.Unlock()
			signal(s.writable) // another sender may wait for the same news
			return err
		}
		var wait <-chan struct{}
		switch {
		case s.sendWindow < cost(payload):
			wait = s.writable
		case len(c.out) >= maxOut:
			wait = c.space
		default:
			s.sendWindow -= cost(payload)
			c.queue(header{typ: frameMessage, kind: kind, stream: s.id}, payload)
			if s.sendWindow > messageCost {
				signal(s.writable)
			}
			c.mu.Unlock()
			return nil
		}
		c.mu.Unlock()
		select {
		case <-wait:
		case <-c.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (s *Stream) sendError() error {
	switch {
	case s.reason != nil:
		return s.reason
	case s.sendDone:
		return ErrStreamDone
	}
	return s.c.err
}

// Recv waits for the next message. It returns io.EOF after the peer's end, and
// otherwise errors as Send does.
func (s *Stream) Recv(ctx context.Context) (Message, error) {
	c := s.c
	for {
		c.mu.Lock()
		s.release()
		switch {
		case len(s.messages) > 0:
			m := s.messages[0]
			s.messages[0] = Message{}
			s.messages = s.messages[1:]
			s.current, s.hasCurrent = m.Payload, true
			c.mu.Unlock()
			return m, nil
		case s.reason != nil:
			c.mu.Unlock()
			return Message{}, s.reason
		case s.ended:
			c.mu.Unlock()
			return Message{}, io.EOF
		case c.err != nil:
			c.mu.Unlock()
			return Message{}, c.err
		}
		c.mu.Unlock()
		select {
		case <-s.readable:
		case <-c.done:
		case <-ctx.Done():
			return Message{}, context.Cause(ctx)
		}
	}
}

// release takes back the payload that the reader held, and gives credit for it
// when enough has come together. The caller holds c.mu.
func (s *Stream) release() {
	if !s.hasCurrent {
		return
	}
	s.taken += cost(s.current)
	freeBuffer(s.current)
	s.current, s.hasCurrent = nil, false
	if s.taken < creditStep || s.recvDone || s.c.err != nil {
		return
	}
	s.recvWindow += s.taken
	s.c.queue(header{typ: frameCredit, stream: s.id}, binary.BigEndian.AppendUint32(nil, uint32(s.taken)))
	s.taken = 0
}

// End says that this side sends no more messages. It can be repeated.
func (s *Stream) End() {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.sendDone || s.c.err != nil {
		return
	}
	s.sendDone = true
	s.c.queue(header{typ: frameEnd, stream: s.id}, nil)
	s.retire()
}

// Reset ends the stream in both directions, and tells the peer why; text is cut
// at MaxResetText. On a stream that has ended it does nothing.
func (s *Stream) Reset(text []byte) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.reset || s.reason != nil || s.c.err != nil || s.sendDone && s.recvDone {
		return
	}
	s.reset = true
	s.sendDone = true
	s.reason = ErrStreamDone
	s.dropQueue()
	s.c.queue(header{typ: frameReset, stream: s.id}, text[:min(len(text), MaxResetText)])
	signal(s.readable)
	signal(s.writable)
	s.retire()
}

// takeMessage keeps a message for the reader, or drops it after a reset. The
// caller holds c.mu.
func (s *Stream) takeMessage(h header, payload []byte) (kept bool, err error) {
	if s.recvDone {
		return false, h.fault("a message after the end of its stream")
	}
	s.recvWindow -= cost(payload)
	if s.recvWindow < 0 {
		return false, h.fault("the message is larger than the credit of its stream")
	}
	if s.reset {
		return false, nil
	}
	s.messages = append(s.messages, Message{Kind: h.kind, Payload: payload})
	signal(s.readable)
	return true, nil
}

// dropQueue forgets the messages that nobody took. The one that the reader
// holds stays its own. The caller holds c.mu.
func (s *Stream) dropQueue() {
	for _, m := range s.messages {
		freeBuffer(m.Payload)
	}
	s.messages = nil
}

// retire forgets the stream when both directions have ended. The caller holds
// c.mu.
func (s *Stream) retire() {
	if s.sendDone && s.recvDone {
		delete(s.c.streams, s.id)
	}
}
