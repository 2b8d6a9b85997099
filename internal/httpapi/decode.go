package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
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
	// Not sized by the announced length, which costs the sender nothing.
	var buf bytes.Buffer
	if _, err := buf.ReadFrom(body); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// decodeJSON decodes a body into a struct. It is decoded straight into its type:
// a generic tree first, to validate it, would cost thirty times the memory of a
// hostile body. Fields that the type lacks are ignored.
func decodeJSON(data []byte, into any, mayBeEmpty bool) error {
	data = bytes.TrimLeft(data, " \t\r\n")
	if len(data) == 0 && mayBeEmpty {
		return nil
	}
	return decodeObject(data, into)
}

func decodeObject(data []byte, into any) error {
	switch {
	case len(data) == 0:
		return invalidBody("must be a JSON object, and is empty.")
	case !utf8.Valid(data):
		return invalidBody("must be UTF-8.")
	case !pairedSurrogates(data):
		return invalidBody(`must not escape half of a surrogate pair (\ud800 to \udfff), which is no character.`)
	}
	if data[0] != '{' {
		if !json.Valid(data) {
			return invalidBody("must be a JSON object, and is not JSON.")
		}
		return invalidBody("must be a JSON object, not %s.", article(jsonKind(data)))
	}
	err := json.Unmarshal(data, into)
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &kind):
		field := strings.ReplaceAll(kind.Field, ".[", "[")
		if field == "" {
			field = "body"
		}
		return agentsandbox.Invalid(field, "must be %s, not %s.", wanted(kind.Type), article(kind.Value))
	case errors.As(err, &syntax):
		return invalidBody("is not valid JSON: %s (at byte %d).", syntax, syntax.Offset)
	}
	return invalidBody("cannot be read: %s.", err)
}

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

// stringMap is a map of strings whose decoding names the entry that is not one;
// null is not one either.
type stringMap map[string]string

// UnmarshalJSON implements json.Unmarshaler.
func (m *stringMap) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		return nil
	}
	var values map[string]json.RawMessage
	if err := json.Unmarshal(data, &values); err != nil {
		return err
	}
	*m = make(stringMap, len(values))
	for _, name := range slices.Sorted(maps.Keys(values)) {
		value, err := stringValue(values[name], name)
		if err != nil {
			return err
		}
		(*m)[name] = value
	}
	return nil
}

// stringList is a list of strings whose decoding names the item that is not one.
type stringList []string

// UnmarshalJSON implements json.Unmarshaler.
func (l *stringList) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		return nil
	}
	var values []json.RawMessage
	if err := json.Unmarshal(data, &values); err != nil {
		return err
	}
	*l = make(stringList, len(values))
	for i, v := range values {
		value, err := stringValue(v, "["+strconv.Itoa(i)+"]")
		if err != nil {
			return err
		}
		(*l)[i] = value
	}
	return nil
}

func stringValue(data json.RawMessage, field string) (string, error) {
	if kind := jsonKind(data); kind != "string" {
		return "", &json.UnmarshalTypeError{Value: kind, Type: reflect.TypeFor[string](), Field: field}
	}
	var s string
	err := json.Unmarshal(data, &s)
	return s, err
}

// jsonKind names the kind of a valid JSON value.
func jsonKind(data []byte) string {
	switch data[0] {
	case '"':
		return "string"
	case '{':
		return "object"
	case '[':
		return "array"
	case 't', 'f':
		return "bool"
	case 'n':
		return "null"
	}
	return "number"
}

// wanted says in words what a Go type takes.
func wanted(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Int, reflect.Int64:
		return "a whole number that fits 64 bits"
	case reflect.Float64:
		return "a number"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "a list"
	}
	return "an object"
}

// article turns the name that encoding/json has for a value ("string", "array",
// "number 1.5") into words.
func article(kind string) string {
	kind = clip(kind)
	switch {
	case kind == "null":
		return kind
	case kind == "array":
		return "a list"
	case kind == "object":
		return "an object"
	case kind == "bool":
		return "true or false"
	case strings.HasPrefix(kind, "number "):
		return strings.TrimPrefix(kind, "number ")
	}
	return "a " + kind
}

// clip shortens what a client sent to what an error message should repeat.
func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
