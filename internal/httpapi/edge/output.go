package edge

import (
	"encoding/json"
	"reflect"
	"strings"
	"unicode/utf8"
)

// Output is text of an answer that may be large, as the bytes that it is shown
// for. It is encoded while it is sent: as JSON, hostile output is six times its
// size. Fields of this type have omitzero and stand at the top of an answer.
type Output []byte

// MarshalJSON implements json.Marshaler, for whoever does not send it in pieces.
func (o Output) MarshalJSON() ([]byte, error) { return appendQuoted(nil, o), nil }

// UnmarshalJSON implements json.Unmarshaler.
func (o *Output) UnmarshalJSON(data []byte) error {
	var s string
	err := json.Unmarshal(data, &s)
	*o = Output(s)
	return err
}

// pieces is an answer in the order in which it is sent: what is small is encoded
// already, each name is followed by its output.
type pieces struct {
	small   []byte // without the last brace
	names   []string
	outputs []Output
}

var outputType = reflect.TypeFor[Output]()

// splitOutput takes the output out of an answer; rest is the answer without it.
func splitOutput(v any) (rest any, p pieces) {
	rv := reflect.Indirect(reflect.ValueOf(v))
	if rv.Kind() != reflect.Struct {
		return v, p
	}
	without := reflect.New(rv.Type()).Elem()
	without.Set(rv)
	for i := range rv.NumField() {
		if f := rv.Type().Field(i); f.Type == outputType {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			p.names = append(p.names, name)
			p.outputs = append(p.outputs, rv.Field(i).Bytes())
			without.Field(i).SetZero()
		}
	}
	if p.names == nil {
		return v, p
	}
	return without.Interface(), p
}

// size is how many bytes of output there are.
func (p *pieces) size() (n int) {
	for _, o := range p.outputs {
		n += len(o)
	}
	return n
}

// pieceBytes is how much output is encoded at a time.
const pieceBytes = 16 << 10

// send writes all of it, a little at a time.
func (p *pieces) send(write func([]byte) error) error {
	if err := write(p.small); err != nil {
		return err
	}
	buf := make([]byte, 0, 6*pieceBytes+64)
	for i, o := range p.outputs {
		buf = append(appendQuoted(append(buf[:0], ','), []byte(p.names[i])), ':', '"')
		for len(o) > 0 {
			n := min(pieceBytes, len(o))
			// A character is not cut: what cannot be seen to end here waits.
			for back := 1; n < len(o) && back < utf8.UTFMax && back < n; back++ {
				if utf8.RuneStart(o[n-back]) {
					if !utf8.FullRune(o[n-back : n]) {
						n -= back
					}
					break
				}
			}
			buf = appendEscaped(buf, o[:n])
			o = o[n:]
			if err := write(buf); err != nil {
				return err
			}
			buf = buf[:0]
		}
		buf = append(buf, '"')
		if err := write(buf); err != nil {
			return err
		}
	}
	return write([]byte("}\n"))
}

func appendQuoted(to, b []byte) []byte {
	return append(appendEscaped(append(to, '"'), b), '"')
}

const hexDigits = "0123456789abcdef"

// appendEscaped writes bytes as the inside of a JSON string, as encoding/json
// does without escapes for HTML; what is not UTF-8 as Text does.
func appendEscaped(to, b []byte) []byte {
	start := 0
	for i := 0; i < len(b); {
		c := b[i]
		if c >= ' ' && c < utf8.RuneSelf && c != '"' && c != '\\' {
			i++
			continue
		}
		n, escaped := 1, ""
		switch c {
		case '"', '\\':
			escaped = `\` + string(rune(c))
		case '\n':
			escaped = `\n`
		case '\r':
			escaped = `\r`
		case '\t':
			escaped = `\t`
		case '\b':
			escaped = `\b`
		case '\f':
			escaped = `\f`
		default:
			if c < ' ' {
				to = append(append(to, b[start:i]...), '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
				i++
				start = i
				continue
			}
			r, size := utf8.DecodeRune(b[i:])
			switch {
			case r == utf8.RuneError && size == 1:
				n, escaped = badPrefix(b[i:]), string(utf8.RuneError)
			case r == '\u2028', r == '\u2029': // which JavaScript took for line ends
				n, escaped = size, `\u202`+string(hexDigits[r&15])
			default:
				i += size
				continue
			}
		}
		to = append(append(to, b[start:i]...), escaped...)
		i += n
		start = i
	}
	return append(to, b[start:]...)
}
