package input

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/agentsandbox/agentsandbox"
)

// decoder reads one JSON text into a Go value of a known shape. It differs from
// encoding/json in what it refuses: fields that the shape lacks, names that
// differ in case only, names given twice, more than the shape has room for. It
// stops at the first fault, so that the rest of a hostile body costs nothing, and
// its errors name the field. Numbers are exact: 5000.0 and 5e3 are the whole
// number 5000, as in JSON Schema.
type decoder struct {
	data []byte
	at   int
}

// body reads the whole text, which is one object.
func (d *decoder) body(s *Shape, into reflect.Value) error {
	switch c := d.peek(); {
	case c == 0 && d.at >= len(d.data):
		return InvalidBody("must be a JSON object, and is empty.")
	case c != '{':
		kind, err := d.kind()
		if err != nil {
			return InvalidBody("must be a JSON object, and is not JSON.")
		}
		return InvalidBody("must be a JSON object, not %s.", kind)
	}
	if err := d.object(s, into, ""); err != nil {
		return err
	}
	if d.peek(); d.at < len(d.data) {
		return d.malformed("something follows the object")
	}
	return nil
}

// value reads any value. path is the field's, from the top.
func (d *decoder) value(s *Shape, into reflect.Value, path string) error {
	c := d.peek()
	if into.Kind() == reflect.Pointer {
		into.Set(reflect.New(into.Type().Elem()))
		into = into.Elem()
	}
	switch {
	case c == '{' && s.kind == reflect.Struct:
		return d.object(s, into, path+".")
	case c == '{' && s.kind == reflect.Map:
		return d.entries(s, into, path)
	case c == '[' && s.kind == reflect.Slice:
		return d.list(s, into, path)
	case c == '"' && s.kind == reflect.String:
		return d.text(s, into, path)
	case (c == 't' || c == 'f') && s.kind == reflect.Bool:
		into.SetBool(c == 't')
		_, err := d.kind()
		return err
	case c == '-' || c >= '0' && c <= '9':
		return d.number(s, into, path)
	}
	kind, err := d.kind()
	if err != nil {
		return err
	}
	return agentsandbox.Invalid(path, "must be %s, not %s.", s.wanted(), kind)
}

// object reads the fields of a struct. null is the same as a field left out.
func (d *decoder) object(s *Shape, into reflect.Value, prefix string) error {
	given := make([]string, 0, min(len(s.names), 16))
	return d.pairs(func(name string) error {
		m := s.named[name]
		if m == nil {
			return Unknown("field", prefix, name, s.names)
		}
		if slices.Contains(given, name) {
			return agentsandbox.Invalid(prefix+name, "is given twice.")
		}
		given = append(given, name)
		if d.peek() == 'n' {
			_, err := d.kind()
			return err
		}
		return d.value(m.Shape, into.FieldByIndex(m.index), prefix+name)
	})
}

// entries reads a map.
func (d *decoder) entries(s *Shape, into reflect.Value, path string) error {
	into.Set(reflect.MakeMap(into.Type()))
	return d.pairs(func(name string) error {
		field := path + "." + Shown(name)
		key := reflect.ValueOf(name).Convert(into.Type().Key())
		switch {
		case into.MapIndex(key).IsValid():
			return agentsandbox.Invalid(field, "is given twice.")
		case into.Len() >= s.most:
			return agentsandbox.Invalid(path, "must have at most %d entries.", s.most)
		}
		item := reflect.New(into.Type().Elem()).Elem()
		if err := d.value(s.elem, item, field); err != nil {
			return err
		}
		into.SetMapIndex(key, item)
		return nil
	})
}

// pairs reads an object and calls each with every name, when the value is next.
func (d *decoder) pairs(each func(name string) error) error {
	d.at++ // the opening brace
	if d.peek() == '}' {
		d.at++
		return nil
	}
	for {
		if d.peek() != '"' {
			return d.malformed("a name in quotes is missing")
		}
		token, err := d.quoted()
		if err != nil {
			return err
		}
		name, err := d.unquote(token)
		if err != nil {
			return err
		}
		if d.peek() != ':' {
			return d.malformed("a colon is missing")
		}
		d.at++
		if err := each(name); err != nil {
			return err
		}
		if more, err := d.another('}'); !more || err != nil {
			return err
		}
	}
}

// list reads a list.
func (d *decoder) list(s *Shape, into reflect.Value, path string) error {
	d.at++ // the opening bracket
	into.Set(reflect.MakeSlice(into.Type(), 0, 0))
	if d.peek() == ']' {
		d.at++
		return nil
	}
	for {
		if into.Len() >= s.most {
			return agentsandbox.Invalid(path, "must have at most %d items.", s.most)
		}
		item := reflect.New(into.Type().Elem()).Elem()
		if err := d.value(s.elem, item, path+"["+strconv.Itoa(into.Len())+"]"); err != nil {
			return err
		}
		into.Set(reflect.Append(into, item))
		if more, err := d.another(']'); !more || err != nil {
			return err
		}
	}
}

// another tells whether a comma comes next, or the end.
func (d *decoder) another(end byte) (bool, error) {
	switch d.peek() {
	case ',':
		d.at++
		return true, nil
	case end:
		d.at++
		return false, nil
	}
	return false, d.malformed(fmt.Sprintf("a comma or %q is missing", end))
}

func (d *decoder) text(s *Shape, into reflect.Value, path string) error {
	token, err := d.quoted()
	if err != nil {
		return err
	}
	if s.most > 0 && len(token)-2 > s.most {
		return agentsandbox.Invalid(path, "must be at most %d bytes long.", s.most)
	}
	value, err := d.unquote(token)
	if err != nil {
		return err
	}
	// "" is the same as a field left out.
	if s.enum != nil && value != "" && !slices.Contains(s.enum, value) {
		return agentsandbox.Invalid(path, "must be %s, not %q.", s.wanted(), Shown(value))
	}
	into.SetString(value)
	return nil
}

func (d *decoder) number(s *Shape, into reflect.Value, path string) error {
	token, err := d.numeral()
	if err != nil {
		return err
	}
	refused := agentsandbox.Invalid(path, "must be %s, not %s.", s.wanted(), Clip(token))
	switch s.kind {
	case reflect.Int, reflect.Int64:
		n, ok := wholeNumber(token)
		if !ok || n < s.min || n > s.max {
			return refused
		}
		into.SetInt(n)
	case reflect.Uint16:
		n, ok := wholeNumber(token)
		if !ok || n < s.min || n > s.max {
			return refused
		}
		into.SetUint(uint64(n))
	case reflect.Float64:
		f, err := strconv.ParseFloat(token, 64)
		mantissa, _, _ := strings.Cut(strings.ToLower(token), "e")
		if tiny := f == 0 && strings.ContainsAny(mantissa, "123456789"); err != nil || tiny || f < s.least || math.IsInf(f, 0) {
			return refused
		}
		into.SetFloat(f)
	default:
		return agentsandbox.Invalid(path, "must be %s, not a number.", s.wanted())
	}
	return nil
}

// wholeNumber reads a JSON number that is one, however it is written, without
// rounding; false when it is none, or does not fit.
func wholeNumber(token string) (int64, bool) {
	digits, exponent, hasExponent := strings.Cut(strings.ToLower(token), "e")
	shift := 0
	if hasExponent {
		// One that does not fit is as good as the nearest that does.
		shift, _ = strconv.Atoi(exponent)
		shift = max(-math.MaxInt32, min(math.MaxInt32, shift))
	}
	digits, negative := strings.CutPrefix(digits, "-")
	whole, fraction, _ := strings.Cut(digits, ".")
	shift -= len(fraction)
	digits = strings.TrimLeft(whole+fraction, "0")
	if digits == "" {
		return 0, true
	}
	trimmed := strings.TrimRight(digits, "0")
	shift += len(digits) - len(trimmed)
	const most = 19 // digits of an int64
	if shift < 0 || len(trimmed)+shift > most {
		return 0, false
	}
	sign := ""
	if negative {
		sign = "-"
	}
	n, err := strconv.ParseInt(sign+trimmed+strings.Repeat("0", shift), 10, 64)
	return n, err == nil
}

// peek passes over white space and returns what is next; 0 at the end.
func (d *decoder) peek() byte {
	for d.at < len(d.data) {
		switch c := d.data[d.at]; c {
		case ' ', '\t', '\r', '\n':
			d.at++
		default:
			return c
		}
	}
	return 0
}

// kind says in words what is next, and passes over it if it is a literal.
func (d *decoder) kind() (string, error) {
	switch c := d.peek(); {
	case c == '"':
		return "a string", nil
	case c == '{':
		return "an object", nil
	case c == '[':
		return "a list", nil
	case c == '-' || c >= '0' && c <= '9':
		token, err := d.numeral()
		return Clip(token), err
	}
	for _, literal := range []string{"true", "false", "null"} {
		if bytes.HasPrefix(d.data[d.at:], []byte(literal)) {
			d.at += len(literal)
			return literal, nil
		}
	}
	return "", d.malformed("a value is missing")
}

// quoted passes over a string and returns it with its quotes.
func (d *decoder) quoted() ([]byte, error) {
	start := d.at
	for i := start + 1; i < len(d.data); i++ {
		switch c := d.data[i]; {
		case c == '\\':
			i++
		case c == '"':
			d.at = i + 1
			return d.data[start:d.at], nil
		case c < ' ':
			d.at = i
			return nil, d.malformed("a control character stands in a string unescaped")
		}
	}
	d.at = len(d.data)
	return nil, d.malformed("it ends within a string")
}

func (d *decoder) unquote(token []byte) (string, error) {
	if bytes.IndexByte(token, '\\') < 0 {
		return string(token[1 : len(token)-1]), nil
	}
	var s string
	if err := json.Unmarshal(token, &s); err != nil {
		d.at -= len(token)
		return "", d.malformed("a string has an escape that is none")
	}
	return s, nil
}

// numeral passes over a number and returns it.
func (d *decoder) numeral() (string, error) {
	start := d.at
	for d.at < len(d.data) && strings.IndexByte("+-.0123456789eE", d.data[d.at]) >= 0 {
		d.at++
	}
	token := d.data[start:d.at]
	if !json.Valid(token) {
		d.at = start
		return "", d.malformed("a number is not well-formed")
	}
	return string(token), nil
}

func (d *decoder) malformed(why string) error {
	return InvalidBody("is not valid JSON: %s, at byte %d.", why, d.at+1)
}
