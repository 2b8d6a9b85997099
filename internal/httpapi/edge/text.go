package edge

import (
	"strings"
	"unicode/utf8"
)

// Text shows bytes as UTF-8: every maximal part of them that cannot begin a
// character becomes one U+FFFD, as the Unicode Standard recommends (chapter 3,
// "U+FFFD Substitution of Maximal Subparts") and as browsers and Python do.
func Text(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	var s strings.Builder
	s.Grow(len(b) + len(b)/8)
	for start, i := 0, 0; ; {
		r, n := utf8.DecodeRune(b[i:])
		if r != utf8.RuneError || n > 1 {
			i += n
			continue
		}
		s.Write(b[start:i])
		if n == 0 {
			return s.String()
		}
		s.WriteRune(utf8.RuneError)
		i += badPrefix(b[i:])
		start = i
	}
}

// badPrefix is the length of the maximal subpart at the start of bytes that are
// not a character: a lead byte with those of its continuation bytes that fit,
// or a single byte.
func badPrefix(b []byte) int {
	lead := b[0]
	var length int
	low, high := byte(0x80), byte(0xBF) // what the second byte may be
	switch {
	case lead >= 0xC2 && lead <= 0xDF:
		length = 2
	case lead >= 0xE0 && lead <= 0xEF:
		length = 3
	case lead >= 0xF0 && lead <= 0xF4:
		length = 4
	default:
		return 1
	}
	switch lead {
	case 0xE0:
		low = 0xA0
	case 0xED:
		high = 0x9F
	case 0xF0:
		low = 0x90
	case 0xF4:
		high = 0x8F
	}
	n := 1
	for n < min(length, len(b)) && b[n] >= low && b[n] <= high {
		n++
		low, high = 0x80, 0xBF
	}
	return n
}
