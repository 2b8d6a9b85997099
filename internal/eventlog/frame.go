package eventlog

import (
	"encoding/binary"
	"hash/crc32"
	"math"
)

// A log begins with magic, whose last byte is the version of the format. What
// follows are frames, each a head and its data. The head has, big-endian,
//
//	 0  4 bytes  length of the data
//	 4  4 bytes  CRC-32C of the data
//	 8  1 byte   kind
//	 9  7 bytes  number of the event; of a mark, that of the last event before it
//	16  4 bytes  CRC-32C of the 16 bytes before
//
// The head has a checksum of its own, so that a damaged length is not taken for a
// frame that ends beyond the end of the file, which is what a torn write looks like.
const (
	magic    = "evntlog\x01"
	headSize = 20
	// maxNumber is what 7 bytes can hold.
	maxNumber = math.MaxUint64 >> 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// frame is an event, or a mark.
type frame = Event

func appendFrame(to []byte, f frame) []byte {
	var head [headSize]byte
	binary.BigEndian.PutUint32(head[0:], uint32(len(f.Data)))
	binary.BigEndian.PutUint32(head[4:], crc32.Checksum(f.Data, castagnoli))
	binary.BigEndian.PutUint64(head[8:], uint64(f.Kind)<<56|f.Number)
	binary.BigEndian.PutUint32(head[16:], crc32.Checksum(head[:16], castagnoli))
	return append(append(to, head[:]...), f.Data...)
}

// parse returns the frame at the front of b, whose data stays in b, and its size.
// If b is too short, the size is how much of b it takes to go on, and short is true.
// A reason says that b does not begin with a frame.
func parse(b []byte) (f frame, size int, short bool, reason string) {
	if len(b) < headSize {
		return f, headSize, true, ""
	}
	if crc32.Checksum(b[:16], castagnoli) != binary.BigEndian.Uint32(b[16:]) {
		return f, 0, false, "the head of a frame has another checksum"
	}
	length := binary.BigEndian.Uint32(b)
	if length > MaxData {
		return f, 0, false, "a frame is too long"
	}
	size = headSize + int(length)
	if len(b) < size {
		return f, size, true, ""
	}
	f.Data = b[headSize:size:size]
	if crc32.Checksum(f.Data, castagnoli) != binary.BigEndian.Uint32(b[4:]) {
		return f, 0, false, "the data of a frame has another checksum"
	}
	f.Kind, f.Number = Kind(b[8]), binary.BigEndian.Uint64(b[8:])&maxNumber
	return f, size, false, ""
}
