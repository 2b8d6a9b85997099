package guest

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"

	"github.com/agentsandbox/agentsandbox/internal/guest/wire"
)

// A Receiver is where documents come from: a stream.
type Receiver interface {
	Recv(ctx context.Context) (wire.Message, error)
}

// A Sender is where documents go to: a stream.
type Sender interface {
	Send(ctx context.Context, kind uint8, payload []byte) error
}

// SendDocument sends v as JSON; its last part has the given kind.
func SendDocument(ctx context.Context, to Sender, kind uint8, v any) error {
	doc, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode a message: %w", err)
	}
	for len(doc) > wire.MaxPayload {
		if err := to.Send(ctx, KindPart, doc[:wire.MaxPayload]); err != nil {
			return err
		}
		doc = doc[wire.MaxPayload:]
	}
	return to.Send(ctx, kind, doc)
}

// RecvDocument receives a document of a kind into v, at most limit bytes of
// JSON. What the peer did wrong is a *BreachError; the stream's end, where a
// document is due, is one too.
func RecvDocument(ctx context.Context, from Receiver, kind uint8, limit int, v any) error {
	var doc []byte
	for {
		m, err := from.Recv(ctx)
		switch {
		case err == io.EOF:
			return breach("the stream ended where a message of kind %d was due", kind)
		case err != nil:
			return err
		case m.Kind != KindPart && m.Kind != kind:
			return breach("a message of kind %d where kind %d was due", m.Kind, kind)
		case len(doc)+len(m.Payload) > limit:
			return breach("a document of more than %d bytes", limit)
		}
		if m.Kind == kind && doc == nil {
			return decode(m.Payload, v)
		}
		doc = append(doc, m.Payload...)
		if m.Kind == kind {
			return decode(doc, v)
		}
	}
}

func decode(doc []byte, v any) error {
	if err := json.Unmarshal(doc, v); err != nil {
		return breach("a document that cannot be read: %v", err)
	}
	return nil
}

// recvEnd makes sure that nothing follows.
func recvEnd(ctx context.Context, from Receiver) error {
	m, err := from.Recv(ctx)
	switch err {
	case io.EOF:
		return nil
	case nil:
		return breach("a message of kind %d where the stream should have ended", m.Kind)
	}
	return err
}

// AppendSequence appends the number of a run's message to b.
func AppendSequence(b []byte, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(b, seq)
}

// ParseSequence takes the number off the front of a payload.
func ParseSequence(payload []byte) (seq uint64, rest []byte, err error) {
	if len(payload) < sequenceSize {
		return 0, nil, breach("a payload of %d bytes has no number", len(payload))
	}
	return binary.BigEndian.Uint64(payload), payload[sequenceSize:], nil
}

// MaxChunk bounds what follows the number in one message of a run.
const MaxChunk = wire.MaxPayload - sequenceSize

// BreachError says which rule of the protocol the peer broke.
type BreachError struct{ Reason string }

func (e *BreachError) Error() string { return "guest protocol: " + e.Reason }

func breach(format string, args ...any) error {
	return &BreachError{Reason: fmt.Sprintf(format, args...)}
}
