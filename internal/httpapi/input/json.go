package input

import (
	"bytes"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/agentsandbox/agentsandbox"
)

// JSON decodes a body into a struct of that shape. It is decoded straight
// into its type: a generic tree first, to validate it, would cost thirty times
// the memory of a hostile body.
func JSON(data []byte, into any, s *Shape, mayBeEmpty bool) error {
	data = bytes.TrimPrefix(data, []byte(ByteOrderMark))
	switch {
	case len(bytes.TrimLeft(data, jsonSpace)) == 0 && mayBeEmpty:
		return nil
	case !utf8.Valid(data):
		return InvalidBody("must be UTF-8.")
	case !pairedSurrogates(data):
		return InvalidBody(`must not escape half of a surrogate pair (\ud800 to \udfff), which is no character.`)
	}
	d := decoder{data: data}
	return d.body(s, reflect.ValueOf(into).Elem())
}

// ByteOrderMark may stand before JSON: editors and shells of Windows write it.
const ByteOrderMark = "\ufeff"

const jsonSpace = " \t\r\n"

// InvalidBody refuses a body as a whole.
func InvalidBody(format string, args ...any) error {
	message := fmt.Sprintf(format, args...)
	return &agentsandbox.Error{
		Code:    agentsandbox.CodeInvalidRequest,
		Message: "The body " + message,
		Details: []agentsandbox.Detail{{Field: "body", Message: message}},
	}
}

// pairedSurrogates tells whether every \uXXXX escape of a surrogate has its
// other half: encoding/json would replace a lone one without a word.
func pairedSurrogates(data []byte) bool {
	if !bytes.Contains(data, []byte(`\ud`)) && !bytes.Contains(data, []byte(`\uD`)) {
		return true
	}
	for i := 0; i < len(data); {
		if data[i] != '\\' {
			i++
			continue
		}
		r, ok := escaped(data[i:])
		switch {
		case !ok:
			i += 2
		case !utf16.IsSurrogate(r):
			i += 6
		default:
			low, ok := escaped(data[i+6:])
			if !ok || utf16.DecodeRune(r, low) == utf8.RuneError {
				return false
			}
			i += 12
		}
	}
	return true
}

// escaped reads \uXXXX at the start of data.
func escaped(data []byte) (rune, bool) {
	if len(data) < 6 || data[0] != '\\' || data[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(data[2:6]), 16, 16)
	return rune(n), err == nil
}

// Clip shortens what a client sent to what an error message should repeat.
func Clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// Shown makes what a client sent fit to be repeated in a message.
func Shown(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, Clip(s))
}
