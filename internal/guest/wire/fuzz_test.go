package wire

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"testing"
)

// FuzzReader gives both roles any bytes after the hello: the connection ends
// or waits for more, and never keeps more than the windows allow.
func FuzzReader(f *testing.F) {
	f.Add(true, frame(header{typ: frameMessage, kind: 3, stream: 1}, 1, 2, 3))
	f.Add(false, append(frame(header{typ: frameOpen, stream: 1}, 1), frame(header{typ: frameGoodbye})...))
	f.Add(false, append(frame(header{typ: frameOpen, stream: 1}, 1), frame(header{typ: frameReset, stream: 1})...))
	f.Add(true, frame(header{typ: frameCredit, stream: 1}, binary.BigEndian.AppendUint32(nil, 70)...))
	f.Fuzz(func(t *testing.T, host bool, input []byte) {
		c := newConn(struct {
			io.Reader
			io.WriteCloser
		}{bytes.NewReader(input), discard{}}, host, Options{})
		if host {
			for range 3 {
				s, err := c.Open(context.Background(), 1, nil)
				if err != nil {
					t.Fatal(err)
				}
				if s.id == 3 {
					s.Reset(nil)
				}
			}
		}
		c.read()
		for _, s := range c.streams {
			held := int64(0)
			for _, m := range s.messages {
				held += cost(m.Payload)
			}
			if held > Window {
				t.Fatalf("stream %d holds %d bytes", s.id, held)
			}
		}
		if len(c.streams) > MaxStreams {
			t.Fatalf("%d streams", len(c.streams))
		}
	})
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) Close() error                { return nil }

func BenchmarkRoundTrip(b *testing.B) {
	host, agent := connect(b, Options{})
	h, a := open(b, host, agent)
	go func() {
		for {
			m, err := a.Recv(context.Background())
			if err != nil || a.Send(context.Background(), m.Kind, m.Payload) != nil {
				return
			}
		}
	}()
	payload := make([]byte, 100)
	for b.Loop() {
		if err := h.Send(context.Background(), 1, payload); err != nil {
			b.Fatal(err)
		}
		if _, err := h.Recv(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkThroughput(b *testing.B) {
	host, agent := connect(b, Options{})
	h, a := open(b, host, agent)
	payload := make([]byte, MaxPayload)
	go func() {
		for a.Send(context.Background(), 1, payload) == nil {
		}
	}()
	b.SetBytes(MaxPayload)
	for b.Loop() {
		if _, err := h.Recv(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}
