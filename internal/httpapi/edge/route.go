package edge

import (
	"net/http"
	"reflect"
	"strings"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/input"
)

// Route declares an endpoint: what it needs of the caller and what it tells the
// document about itself.
type Route struct {
	Method, Path string
	// ID names the operation, in the audit log and in documents.
	ID string
	// What a document says of it.
	Tag, Summary, Description string
	// Scope that the caller's key must have; empty: no key is needed.
	Scope agentsandbox.Scope
	// Status of success; 0: 200, or 204 when there is nothing to say.
	Status int
	// Codes that this route can answer with, beyond those that all routes share.
	Codes []agentsandbox.Code
	// Headers of a success, name to meaning. They are kept with the answer to a
	// request with an Idempotency-Key.
	Headers map[string]string
	// EmptyBody allows the JSON body to be left out.
	EmptyBody bool
	// Upload and Download describe bodies that are not JSON.
	Upload, Download *Content
	// Secret says that a success holds what must not be kept anywhere.
	Secret bool
	// Resume makes the answer of a POST again from what it made, when the answer
	// itself was not kept; nil where doing it again is the same.
	Resume func(c *Call, object, digest string) (any, error)
	// Anew says that a repeated request is served anew when what the first one made
	// is gone and was never told of: it had no effect that lasts.
	Anew bool
	// Digest reads an upload, and says only which one it is.
	Digest func(c *Call) (string, error)
	// Quiet keeps requests that machines send every few seconds out of the log.
	Quiet bool

	params             []input.Param
	bodyType, jsonType reflect.Type
	serve              func(*Call) error
}

// Made is implemented by answers that tell of a new object.
type Made interface{ ObjectID() string }

// Content describes a body that is streamed.
type Content struct {
	MediaType, Description string
	// Form names the part of a multipart body that holds the bytes.
	Form string
	// Fields are the other parts that may stand before it, with what they mean.
	Fields map[string]string
	// Ranges says that Range and If-None-Match are understood.
	Ranges bool
}

// Nothing is the answer of a route that has nothing to say.
type Nothing struct{}

// WithHeaders is implemented by answers that set headers of their own.
type WithHeaders interface{ SetHeaders(http.Header) }

// Params are the parameters of the path and the query.
func (rt *Route) Params() []input.Param { return rt.params }

// BodyType is the type of the JSON body that the route reads; nil for none.
func (rt *Route) BodyType() reflect.Type { return rt.bodyType }

// AnswerType is the type of the JSON that the route answers; nil for none.
func (rt *Route) AnswerType() reflect.Type { return rt.jsonType }

// Answer makes a route whose answer is JSON (or Nothing). Of the input, fields
// with a tag path or query are parameters, and the field Body is the JSON body.
func Answer[I, O any](rt Route, serve func(c *Call, in *I) (*O, error)) Route {
	empty := reflect.TypeFor[O]() == reflect.TypeFor[Nothing]()
	if rt.Status == 0 {
		rt.Status = http.StatusOK
		if empty {
			rt.Status = http.StatusNoContent
		}
	}
	if !empty {
		rt.jsonType = reflect.TypeFor[O]()
	}
	return endpoint(rt, func(c *Call, in *I) error {
		out, err := serve(c, in)
		if err != nil {
			return err
		}
		if h, ok := any(out).(WithHeaders); ok {
			h.SetHeaders(c.w.Header())
		}
		if m, ok := any(out).(Made); ok {
			c.object = m.ObjectID()
		}
		if empty {
			if err := c.settle(rt.Status, nil); err != nil {
				return err
			}
			c.w.WriteHeader(rt.Status)
			return nil
		}
		return c.WriteJSON(rt.Status, out)
	})
}

// Stream makes a route that writes its own answer. An error that it returns
// after the first byte cuts the connection.
func Stream[I any](rt Route, serve func(c *Call, in *I) error) Route {
	if rt.Status == 0 {
		rt.Status = http.StatusOK
	}
	return endpoint(rt, serve)
}

// Plain makes a route that needs no key and stands in no document.
func Plain(path string, serve http.HandlerFunc) Route {
	return Route{Method: http.MethodGet, Path: path, serve: func(c *Call) error {
		serve(c.w, c.r)
		return nil
	}}
}

// Metrics makes the route that shows what is in the edge's registry.
func Metrics(path string) Route {
	return Route{Method: http.MethodGet, Path: path, Quiet: true, serve: func(c *Call) error {
		promhttp.HandlerFor(c.edge.registry, promhttp.HandlerOpts{}).ServeHTTP(c.w, c.r)
		return nil
	}}
}

// endpoint is the way of every request to its route: who asks, may they, what
// do they say, and only then what is to be done.
func endpoint[I any](rt Route, serve func(c *Call, in *I) error) Route {
	t := reflect.TypeFor[I]()
	rt.params = input.ParamsOf(t)
	bodyField, hasBody := t.FieldByName("Body")
	// A route without a body takes an empty object for one.
	shape := input.Object()
	if hasBody {
		rt.bodyType = bodyField.Type
		shape = input.ShapeOf(bodyField.Type, bodyField.Tag)
	}
	declared := rt
	rt.serve = func(c *Call) error {
		var in I
		v := reflect.ValueOf(&in).Elem()
		if err := c.admit(&declared); err != nil {
			return err
		}
		if err := input.Bind(declared.params, c.r, v); err != nil {
			return err
		}
		body, err := c.bodyOf(&declared, shape)
		if err != nil {
			return err
		}
		if declared.Method == http.MethodPost {
			if answered, err := c.claimKey(&declared, body); answered || err != nil {
				return err
			}
		}
		if hasBody {
			into := v.FieldByIndex(bodyField.Index).Addr().Interface()
			if err := input.JSON(body, into, shape, declared.EmptyBody); err != nil {
				return err
			}
		}
		return serve(c, &in)
	}
	return rt
}

// handle serves a request that matched the route.
func (rt *Route) handle(_ http.ResponseWriter, r *http.Request) {
	c := callOf(r)
	c.route, c.quiet = rt.Path, rt.Quiet
	c.streamed, c.secret = rt.Upload != nil, rt.Secret
	if rt.changes() {
		c.action, c.objectParam = rt.ID, firstParam(rt.Path)
	}
	for name := range rt.Headers {
		c.keptHeaders = append(c.keptHeaders, name)
	}
	if err := rt.serve(c); err != nil {
		c.Fail(err)
	}
}

// changes tells whether a route's requests are written to the audit log.
func (rt *Route) changes() bool {
	return rt.Scope != "" && rt.Method != http.MethodGet && rt.Method != http.MethodHead
}

// firstParam is the name of the first parameter of a path, which names the object
// that a route acts on; "" for none.
func firstParam(path string) string {
	_, after, _ := strings.Cut(path, "{")
	name, _, _ := strings.Cut(after, "}")
	return strings.TrimSuffix(name, "...")
}
