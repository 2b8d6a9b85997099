package wire

import (
	"math/bits"
	"sync"
)

// Payloads wait in buffers of pooled sizes, powers of two, so that a peer that
// sends awkward lengths makes this side hold at most twice what it sent.
const (
	minBufferBits = 7  // 128 bytes
	maxBufferBits = 16 // MaxPayload
)

var buffers [maxBufferBits + 1]sync.Pool

// newBuffer returns n bytes of undefined content; n is at most MaxPayload.
func newBuffer(n int) []byte {
	if n == 0 {
		return nil
	}
	class := max(bits.Len(uint(n-1)), minBufferBits)
	if b, ok := buffers[class].Get().(*[]byte); ok {
		return (*b)[:n]
	}
	return make([]byte, n, 1<<class)
}

// freeBuffer takes back a buffer of newBuffer. Nobody may use it any more.
func freeBuffer(b []byte) {
	if cap(b) == 0 {
		return
	}
	b = b[:cap(b)]
	buffers[bits.Len(uint(cap(b)-1))].Put(&b)
}
