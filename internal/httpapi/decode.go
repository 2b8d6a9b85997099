package httpapi

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/agentsandbox/agentsandbox"
)

// readBody reads a JSON body, whole.
func (c *call) readBody() ([]byte, error) {
	body, err := c.body("The body", c.api.limits.BodyBytes, 0)
	if err != nil {
		return nil, err
	}
	body.until = time.Now().Add(c.api.limits.BodyTimeout)
	// Not sized by the announced length, which costs the sender nothing. What has
	// arrived is counted twice: it is there as bytes, and decoded.
	var buf bytes.Buffer
	for {
		n, err := buf.ReadFrom(io.LimitReader(body, bodyStep))
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return buf.Bytes(), nil
		}
		if err := c.occupy(2 * int(n)); err != nil {
			c.w.Header().Set("Connection", "close") // or the answer would wait for the rest
			return nil, err
		}
	}
}

// bodyStep is how much of a body is read before it is counted.
const bodyStep = 64 << 10

// maxNoBody is how much of a body is looked at where none belongs.
const maxNoBody = 4 << 10

// readNoBody reads the body of a request that has none to say: nothing, or an
// empty object, which some clients send with everything.
func (c *call) readNoBody(s *shape) error {
	if c.r.Body == nil || c.r.Body == http.NoBody {
		return nil
	}
	body, err := c.body("The body", maxNoBody, 0)
	if err == nil {
		var buf bytes.Buffer
		body.until = time.Now().Add(c.api.limits.BodyTimeout)
		if _, err = buf.ReadFrom(body); err == nil {
			return decodeJSON(buf.Bytes(), &nothing{}, s, true)
		}
	}
	if agentsandbox.CodeOf(err) == agentsandbox.CodeTooLarge {
		return invalidBody("must be left out: nothing of it would be used.")
	}
	return err
}

// decodeJSON decodes a body into a struct of that shape. It is decoded straight
// into its type: a generic tree first, to validate it, would cost thirty times
// the memory of a hostile body.
func decodeJSON(data []byte, into any, s *shape, mayBeEmpty bool) error {
	data = bytes.TrimPrefix(data, []byte(byteOrderMark))
	switch {
	case len(bytes.TrimLeft(data, jsonSpace)) == 0 && mayBeEmpty:
		return nil
	case !utf8.Valid(data):
		return invalidBody("must be UTF-8.")
	case !pairedSurrogates(data):
		return invalidBody(`must not escape half of a surrogate pair (\ud800 to \udfff), which is no character.`)
	}
	d := decoder{data: data}
	return d.body(s, reflect.ValueOf(into).Elem())
}

// byteOrderMark may stand before JSON: editors and shells of Windows write it.
const byteOrderMark = "\ufeff"

const jsonSpace = " \t\r\n"

func invalidBody(format string, args ...any) error {
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

// clip shortens what a client sent to what an error message should repeat.
func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
