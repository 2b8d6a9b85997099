package httpapi

import (
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/agentsandbox/agentsandbox"
)

// param is a field of a route's input that comes from the path or the query.
type param struct {
	index    []int
	in, name string
	fallback string // value of a query parameter that is not there
	shape    *shape
	doc      *huma.Param
}

// paramsOf reads the tags of an input type: path:"name" or query:"name", with
// doc, default, minimum, maximum, enum and required as huma has them. It panics
// on a type that bind does not know, which every start of the program would show.
func paramsOf(t reflect.Type, registry huma.Registry) []param {
	var all []param
	for _, f := range reflect.VisibleFields(t) {
		p := param{index: f.Index, in: "path", name: f.Tag.Get("path"), fallback: f.Tag.Get("default"), shape: shapeOf(f.Type, f.Tag)}
		if p.name == "" {
			p.in, p.name = "query", f.Tag.Get("query")
		}
		if p.name == "" {
			continue
		}
		kind := f.Type.Kind()
		if kind == reflect.Pointer {
			kind = f.Type.Elem().Kind()
		}
		if kind != reflect.String && kind != reflect.Int && f.Type != reflect.TypeFor[stringMap]() {
			panic("httpapi: parameter " + p.name + " has the type " + f.Type.String() + ", which bind does not know")
		}
		schema := huma.SchemaFromField(registry, f, p.name)
		schema.Nullable = false
		p.doc = &huma.Param{
			Name: p.name, In: p.in, Description: schema.Description, Schema: schema,
			Required: p.in == "path" || f.Tag.Get("required") == "true",
		}
		schema.Description = ""
		if kind == reflect.Map {
			explode := true
			p.doc.Style, p.doc.Explode = "deepObject", &explode
		}
		all = append(all, p)
	}
	return all
}

// bind fills the parameters of an input. Parameters of the query that the route
// does not declare are refused, as fields of bodies are: one that is misspelled
// would otherwise have no effect.
func bind(params []param, r *http.Request, in reflect.Value) error {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return agentsandbox.Invalid("query", "is not well-formed; percent-encode the values.")
	}
	if err := refuseUnknown(params, query); err != nil {
		return err
	}
	for _, p := range params {
		if field := in.FieldByIndex(p.index); field.Kind() == reflect.Map {
			pairs, err := pairsOf(query, p.name)
			if err != nil {
				return err
			}
			field.Set(reflect.ValueOf(pairs))
			continue
		}
		value := p.fallback
		if p.in == "path" {
			value = r.PathValue(p.name)
		} else if given := query[p.name]; len(given) > 1 {
			return agentsandbox.Invalid(p.name, "must be given once, not %d times.", len(given))
		} else if len(given) == 1 {
			value = given[0]
		} else if p.fallback == "" {
			continue
		}
		if err := p.set(in.FieldByIndex(p.index), value); err != nil {
			return err
		}
	}
	return nil
}

// refuseUnknown refuses the first, by name, of the parameters of a query that are
// not declared.
func refuseUnknown(params []param, query url.Values) error {
	var known []string
	for _, p := range params {
		switch {
		case p.in != "query":
		case p.shape.kind == reflect.Map:
			known = append(known, p.name+"[name]")
		default:
			known = append(known, p.name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		declared := name
		if open := strings.IndexByte(name, '['); open >= 0 && strings.HasSuffix(name, "]") {
			declared = name[:open] + "[name]"
		}
		if !slices.Contains(known, declared) {
			return unknown("query parameter", "", name, known)
		}
	}
	return nil
}

// pairsOf reads a parameter of the form name[key]=value.
func pairsOf(query url.Values, name string) (stringMap, error) {
	var pairs stringMap
	for given, values := range query {
		key, ok := strings.CutPrefix(given, name+"[")
		if key, ok = cutLast(key, ok); !ok {
			continue
		}
		if len(values) > 1 {
			return nil, agentsandbox.Invalid(clip(given), "must be given once, not %d times.", len(values))
		}
		if pairs == nil {
			pairs = stringMap{}
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
func (p *param) set(field reflect.Value, value string) error {
	if field.Kind() == reflect.Pointer {
		field.Set(reflect.New(field.Type().Elem()))
		field = field.Elem()
	}
	refused := agentsandbox.Invalid(p.name, "must be %s, not %q.", p.shape.wanted(), shown(value))
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

// pageInput is the input of every paged list.
type pageInput struct {
	Limit  int `query:"limit" default:"50" minimum:"1" maximum:"100" doc:"How many items to show."`
	Offset int `query:"offset" default:"0" minimum:"0" doc:"How many items to leave out, counted from the newest. Items that come or go between two pages shift it; a cursor stays at its place."`
	cursorInput
}

type cursorInput struct {
	Cursor string `query:"cursor" doc:"The next_cursor of the page before, in the same list with the same filter. Every item that exists all the while is shown exactly once. Not beside an offset."`
}

func (in pageInput) page() (agentsandbox.Page, error) {
	p := agentsandbox.Page{Limit: in.Limit, Offset: in.Offset, Cursor: in.Cursor}
	return p, p.Validate()
}

// metadataInput is the filter of lists whose items have metadata.
type metadataInput struct {
	Metadata stringMap `query:"metadata" doc:"Show only those with each of these pairs among their metadata, as metadata[name]=value."`
}

// PageInfo is what every paged answer says of itself.
type PageInfo struct {
	Total  int `json:"total" doc:"How many items there are in all."`
	Limit  int `json:"limit" doc:"The limit that was applied."`
	Offset int `json:"offset" doc:"The offset that was applied."`
	// Never null: clients tell the end of a list by the empty text.
	NextCursor string `json:"next_cursor" doc:"What to give as cursor to see the next page; empty at the end of the list."`
}
