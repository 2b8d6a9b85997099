package input

import (
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/agentsandbox/agentsandbox"
)

// Param is a field of a route's input that comes from the path or the query.
type Param struct {
	In, Name string // In is path or query
	// Field is the field, with its tags.
	Field    reflect.StructField
	fallback string // value of a query parameter that is not there
	shape    *Shape
}

// ParamsOf reads the tags of an input type: path:"name" or query:"name", with
// doc, default, minimum, maximum, enum and required as huma has them. It panics
// on a type that Bind does not know, which every start of the program would show.
func ParamsOf(t reflect.Type) []Param {
	var all []Param
	for _, f := range reflect.VisibleFields(t) {
		p := Param{In: "path", Name: f.Tag.Get("path"), Field: f, fallback: f.Tag.Get("default")}
		if p.Name == "" {
			p.In, p.Name = "query", f.Tag.Get("query")
		}
		if p.Name == "" {
			continue
		}
		p.shape = ShapeOf(f.Type, f.Tag)
		kind := f.Type.Kind()
		if kind == reflect.Pointer {
			kind = f.Type.Elem().Kind()
		}
		if kind != reflect.String && kind != reflect.Int && f.Type != reflect.TypeFor[map[string]string]() {
			panic("input: the parameter " + p.Name + " has the type " + f.Type.String() + ", which Bind does not know")
		}
		all = append(all, p)
	}
	return all
}

// Bind fills the parameters of an input. Parameters of the query that the route
// does not declare are refused, as fields of bodies are: one that is misspelled
// would otherwise have no effect.
func Bind(params []Param, r *http.Request, in reflect.Value) error {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return agentsandbox.Invalid("query", "is not well-formed; percent-encode the values.")
	}
	if err := refuseUnknown(params, query); err != nil {
		return err
	}
	for _, p := range params {
		if field := in.FieldByIndex(p.Field.Index); field.Kind() == reflect.Map {
			pairs, err := pairsOf(query, p.Name)
			if err != nil {
				return err
			}
			field.Set(reflect.ValueOf(pairs))
			continue
		}
		value := p.fallback
		if p.In == "path" {
			value = r.PathValue(p.Name)
		} else if given := query[p.Name]; len(given) > 1 {
			return agentsandbox.Invalid(p.Name, "must be given once, not %d times.", len(given))
		} else if len(given) == 1 {
			value = given[0]
		} else if p.fallback == "" {
			continue
		}
		if err := p.set(in.FieldByIndex(p.Field.Index), value); err != nil {
			return err
		}
	}
	return nil
}

// refuseUnknown refuses the first, by name, of the parameters of a query that are
// not declared.
func refuseUnknown(params []Param, query url.Values) error {
	var known []string
	for _, p := range params {
		switch {
		case p.In != "query":
		case p.shape.kind == reflect.Map:
			known = append(known, p.Name+"[name]")
		default:
			known = append(known, p.Name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		declared := name
		if open := strings.IndexByte(name, '['); open >= 0 && strings.HasSuffix(name, "]") {
			declared = name[:open] + "[name]"
		}
		if !slices.Contains(known, declared) {
			return Unknown("query parameter", "", name, known)
		}
	}
	return nil
}

// pairsOf reads a parameter of the form name[key]=value.
func pairsOf(query url.Values, name string) (map[string]string, error) {
	var pairs map[string]string
	for given, values := range query {
		key, ok := strings.CutPrefix(given, name+"[")
		if key, ok = cutLast(key, ok); !ok {
			continue
		}
		if len(values) > 1 {
			return nil, agentsandbox.Invalid(Clip(given), "must be given once, not %d times.", len(values))
		}
		if pairs == nil {
			pairs = map[string]string{}
		}
		pairs[key] = values[0]
	}
	return pairs, agentsandbox.ValidateMetadata(pairs)
}

// cutLast takes the closing bracket away.
func cutLast(key string, ok bool) (string, bool) {
	if !ok {
		return "", false
	}
	return strings.CutSuffix(key, "]")
}

// set gives a field the value of a parameter, which is text.
func (p *Param) set(field reflect.Value, value string) error {
	if field.Kind() == reflect.Pointer {
		field.Set(reflect.New(field.Type().Elem()))
		field = field.Elem()
	}
	refused := agentsandbox.Invalid(p.Name, "must be %s, not %q.", p.shape.wanted(), Shown(value))
	if field.Kind() == reflect.String {
		if p.shape.enum != nil && value != "" && !slices.Contains(p.shape.enum, value) {
			return refused
		}
		field.SetString(value)
		return nil
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n < p.shape.min || n > p.shape.max {
		return refused
	}
	field.SetInt(n)
	return nil
}
