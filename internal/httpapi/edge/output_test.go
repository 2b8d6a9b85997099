package edge

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"testing"
)

// TestOutputIsEncodedAsTextIs: whatever the bytes are, and wherever they are cut
// into pieces, the answer is what encoding/json makes of their text.
func TestOutputIsEncodedAsTextIs(t *testing.T) {
	samples := [][]byte{
		nil, []byte("plain"), []byte("\x00\x01\x1f \"\\/\b\f\n\r\t\x7f<>&"), []byte("é€😀\u2028\u2029\ufffd"),
		[]byte("\xff\xfe\xc0\x80\xed\xa0\x80\xf0\x9f\x98"), bytes.Repeat([]byte("€"), pieceBytes), bytes.Repeat([]byte("x😀"), pieceBytes),
		bytes.Repeat([]byte("\xe2\x82"), pieceBytes), bytes.Repeat([]byte{0x80}, 3*pieceBytes), bytes.Repeat([]byte{0}, 2*pieceBytes+1),
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		b := make([]byte, random.IntN(3*pieceBytes))
		for i := range b {
			b[i] = byte(random.IntN(256))
		}
		samples = append(samples, b)
	}
	type answer struct {
		A   int    `json:"a"`
		Out Output `json:"out,omitzero"`
	}
	for i, b := range samples {
		var want bytes.Buffer
		enc := json.NewEncoder(&want)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(struct {
			A   int    `json:"a"`
			Out string `json:"out"`
		}{7, Text(b)}); err != nil {
			t.Fatal(err)
		}
		rest, p := splitOutput(&answer{7, b})
		small, err := json.Marshal(rest)
		if err != nil {
			t.Fatal(err)
		}
		p.small = bytes.TrimSuffix(small, []byte("}"))
		var got bytes.Buffer
		if err := p.send(func(b []byte) error { _, err := got.Write(b); return err }); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), want.Bytes()) {
			t.Errorf("sample %d, %d bytes: %.100q, want %.100q", i, len(b), got.Bytes(), want.Bytes())
		}
	}
}
