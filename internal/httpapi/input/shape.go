package input

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/agentsandbox/agentsandbox"
)

// Bounds of what stands in a JSON body where a type does not set its own, so
// that a body costs no more than it says. Objects nest as deep as the types do:
// a field that is not known is refused before its value is read.
const (
	MaxItems       = 1000
	MaxStringBytes = agentsandbox.MaxEnvBytes
	// wholeBody is the value of the tag maxBytes of a string that only the limit of
	// the whole body bounds.
	wholeBody = "body"
)

// Shape is what a JSON value has to be for a Go type to take it. It is made once
// for each type, from the type and the tags that the OpenAPI document is made
// from: minimum, maximum, enum, maxItems, maxProperties.
type Shape struct {
	kind     reflect.Kind
	named    map[string]*member // of an object
	names    []string           // the same, in the order of the type
	elem     *Shape             // of a list, and of the values of a map
	most     int                // items of a list, entries of a map, bytes of a string; 0: no bound
	enum     []string
	min, max int64   // of a whole number
	least    float64 // of any other number
}

type member struct {
	index []int
	*Shape
}

// Object is the shape of an object without fields.
func Object() *Shape { return &Shape{kind: reflect.Struct} }

// ShapeOf panics on a type that it does not know, which every start of the
// program would show.
func ShapeOf(t reflect.Type, tag reflect.StructTag) *Shape {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	s := &Shape{kind: t.Kind()}
	switch t.Kind() {
	case reflect.Struct:
		s.members(t)
	case reflect.String:
		s.most = MaxStringBytes
		if tag.Get("maxBytes") == wholeBody {
			s.most = 0
		}
		if enum := tag.Get("enum"); enum != "" {
			s.enum = strings.Split(enum, ",")
		}
	case reflect.Bool:
	case reflect.Int, reflect.Int64, reflect.Uint16:
		s.min, s.max = math.MinInt64, math.MaxInt64
		if t.Kind() == reflect.Uint16 {
			s.min, s.max = 0, math.MaxUint16
		}
		s.min = numberTag(tag, "minimum", s.min)
		s.max = numberTag(tag, "maximum", s.max)
	case reflect.Float64:
		s.least = math.Inf(-1)
		if tag.Get("minimum") != "" {
			s.least = float64(numberTag(tag, "minimum", 0))
		}
	case reflect.Slice:
		s.most = int(numberTag(tag, "maxItems", MaxItems))
		s.elem = ShapeOf(t.Elem(), tag)
	case reflect.Map:
		if t.Key().Kind() != reflect.String {
			panic("input: the keys of " + t.String() + " are not strings")
		}
		s.most = int(numberTag(tag, "maxProperties", MaxItems))
		s.elem = ShapeOf(t.Elem(), tag)
	default:
		panic("input: shapeOf does not know the type " + t.String())
	}
	return s
}

func (s *Shape) members(t reflect.Type) {
	s.named = map[string]*member{}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		s.named[name] = &member{f.Index, ShapeOf(f.Type, f.Tag)}
		s.names = append(s.names, name)
	}
}

func numberTag(tag reflect.StructTag, name string, otherwise int64) int64 {
	value := tag.Get(name)
	if value == "" {
		return otherwise
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		panic(fmt.Sprintf("input: the tag %s is %q, which is no whole number", name, value))
	}
	return n
}

// wanted says in words what is right.
func (s *Shape) wanted() string {
	switch s.kind {
	case reflect.String:
		if s.enum != nil {
			return anyOf(s.enum)
		}
		return "a string"
	case reflect.Int, reflect.Int64, reflect.Uint16:
		return fmt.Sprintf("a whole number from %d to %d", s.min, s.max)
	case reflect.Float64:
		if math.IsInf(s.least, -1) {
			return "a number"
		}
		return fmt.Sprintf("a number of at least %v", s.least)
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		if s.elem.kind == reflect.Struct {
			return "a list of objects"
		}
		if s.elem.kind == reflect.String && s.elem.enum == nil {
			return "a list of strings"
		}
		return "a list of which each item is " + s.elem.wanted()
	case reflect.Map:
		return "an object of which each value is " + s.elem.wanted()
	}
	return "an object"
}

// anyOf writes a list of values as one would say it: python or bash.
func anyOf(values []string) string {
	last := len(values) - 1
	if last == 0 {
		return values[0]
	}
	return strings.Join(values[:last], ", ") + " or " + values[last]
}

// Unknown refuses a name that is none of those known, and suggests the nearest of
// them. prefix is what stands before the name, such as "network.".
func Unknown(what, prefix, name string, known []string) error {
	field := prefix + Shown(name)
	if name == "" {
		field = prefix + `""`
	}
	if near := nearest(name, known); near != "" {
		return agentsandbox.Invalid(field, "is not a %s that this server knows. Did you mean %s?", what, prefix+near)
	}
	if len(known) == 0 {
		return agentsandbox.Invalid(field, "is not a %s that this server knows: there is none here.", what)
	}
	return agentsandbox.Invalid(field, "is not a %s that this server knows. It knows %s.", what, strings.Join(known, ", "))
}

// nearest finds the known name that was probably meant; "" when none is near.
func nearest(name string, known []string) string {
	const longest = 64 // names that are longer are no misspelling
	if len(name) > longest {
		return ""
	}
	plain := plainName(name)
	best, distance := "", 1+max(1, len(plain)/3)
	for _, candidate := range known {
		other := plainName(candidate)
		d := editDistance(plain, other)
		if len(plain) >= 3 && (strings.HasPrefix(other, plain) || strings.HasPrefix(plain, other) && len(other) >= 3) {
			d = min(d, 1)
		}
		if d < distance {
			best, distance = candidate, d
		}
	}
	return best
}

// plainName is a name without case, what separates words in it, and brackets.
func plainName(name string) string {
	name, _, _ = strings.Cut(name, "[")
	return strings.NewReplacer("_", "", "-", "", " ", "").Replace(strings.ToLower(name))
}

// editDistance counts the letters to insert, remove, replace or swap with their
// neighbour to make one name of another.
func editDistance(a, b string) int {
	before, row := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	older := slices.Clone(row)
	for i := 1; i <= len(a); i++ {
		older, before, row = before, row, older
		row[0] = i
		for j := 1; j <= len(b); j++ {
			differ := 1
			if a[i-1] == b[j-1] {
				differ = 0
			}
			row[j] = min(before[j]+1, row[j-1]+1, before[j-1]+differ)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], older[j-2]+1)
			}
		}
	}
	return row[len(b)]
}
