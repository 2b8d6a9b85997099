package edge

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
)

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// maxPooledBytes keeps one large answer from staying in memory for good.
const maxPooledBytes = 1 << 20

// WriteJSON writes a whole answer. Nothing is sent when it cannot be encoded.
func (c *Call) WriteJSON(status int, v any) error {
	buf, _ := buffers.Get().(*bytes.Buffer)
	defer func() {
		if buf.Cap() <= maxPooledBytes {
			buf.Reset()
			buffers.Put(buf)
		}
	}()
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	rest, parts := splitOutput(v)
	if err := enc.Encode(rest); err != nil {
		buf.Reset()
		return fmt.Errorf("encode the answer: %w", err)
	}
	h := c.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	if err := c.OccupyAnswer(buf.Len()); err != nil {
		buf.Reset()
		return err
	}
	if parts.names == nil {
		return c.writeEncoded(status, buf.Bytes())
	}
	parts.small = bytes.Clone(bytes.TrimSuffix(buf.Bytes(), []byte("}\n")))
	buf.Reset()
	if parts.size() > maxWholeBytes {
		if err := c.settle(status, nil); err != nil {
			return err
		}
		c.w.WriteHeader(status)
		// As below, nobody is left to be told of a failed write.
		_ = parts.send(func(b []byte) error { _, err := c.w.Write(b); return err })
		return nil
	}
	if err := parts.send(func(b []byte) error { _, err := buf.Write(b); return err }); err != nil {
		return err
	}
	return c.writeEncoded(status, buf.Bytes())
}

// maxWholeBytes is how much output an answer may have that is encoded before it
// is sent, so that its length stands in its header.
const maxWholeBytes = 128 << 10

// WriteBody writes a whole answer that is not JSON.
func (c *Call) WriteBody(status int, mediaType string, body []byte) error {
	c.w.Header().Set("Content-Type", mediaType)
	return c.writeEncoded(status, body)
}

// writeEncoded writes a whole answer whose header is set; an empty one has no
// body.
func (c *Call) writeEncoded(status int, body []byte) error {
	if err := c.settle(status, body); err != nil {
		return err
	}
	if len(body) == 0 {
		c.w.WriteHeader(status)
		return nil
	}
	c.w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	c.w.WriteHeader(status)
	// A failed write leaves nobody to be told; finish notes it, and the length
	// that was announced makes net/http close the connection.
	_, _ = c.w.Write(body)
	return nil
}
