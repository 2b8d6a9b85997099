package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/httpserver"
	"github.com/agentsandbox/agentsandbox/internal/idempotency"
)

// call is one request on its way.
type call struct {
	api       *api
	w         *answerWriter
	r         *http.Request
	requestID string
	started   time.Time

	// What the request holds of the server's room, and its place among those of
	// its key.
	held  int64
	leave func()
	// The body, once somebody reads it.
	opened *bodyReader

	// For the log and the metrics.
	route string
	keyID string
	// For the audit log.
	tenant, action, object string
	// For a request with an Idempotency-Key: the claim, while it is held, and
	// what settle has to know.
	claim                               *idempotency.Claim
	digest                              string
	streamed, secret, replayed, settled bool

	code  agentsandbox.Code // of an error answer
	cause error             // of an internal one
	gone  bool              // the client went away before its answer
}

type callKey struct{}

func callOf(r *http.Request) *call {
	c, ok := r.Context().Value(callKey{}).(*call)
	if !ok {
		panic("httpapi: a route was reached without its call")
	}
	c.r = r
	return c
}

// Context acts for the caller and ends when the client goes away.
func (c *call) Context() context.Context { return c.r.Context() }

// route declares an endpoint: what it needs of the caller and what it tells the
// document about itself.
type route struct {
	method, path string
	id           string // operationId
	tag          string
	summary      string
	description  string
	// scope that the caller's key must have; empty: no key is needed.
	scope agentsandbox.Scope
	// status of success; 0: 200, or 204 when there is nothing to say.
	status int
	// codes that this route can answer with, beyond those that all routes share.
	codes []agentsandbox.Code
	// headers of a success, name to meaning.
	headers map[string]string
	// emptyBody allows the JSON body to be left out.
	emptyBody bool
	// upload and download describe bodies that are not JSON.
	upload, download *content
	// secret says that a success holds what must not be kept anywhere.
	secret bool
	// resume makes the answer of a POST again from what it made, when the answer
	// itself was not kept; nil where doing it again is the same.
	resume func(ctx context.Context, object, digest string) (any, error)
	// anew says that a repeated request is served anew when what the first one made
	// is gone and was never told of: it had no effect that lasts.
	anew bool
	// digest reads an upload, and says only which one it is.
	digest func(c *call) (string, error)
}

// made is implemented by answers that tell of a new object.
type made interface{ objectID() string }

// content describes a body that is streamed.
type content struct {
	mediaType, description string
	// form names the part of a multipart body that holds the bytes.
	form string
	// fields are the other parts that may stand before it, with what they mean.
	fields map[string]string
	// ranges says that Range and If-None-Match are understood.
	ranges bool
}

// nothing is the answer of a route that has nothing to say.
type nothing struct{}

// withHeaders is implemented by answers that set headers of their own.
type withHeaders interface{ setHeaders(http.Header) }

// answer adds a route whose answer is JSON (or nothing).
func answer[I, O any](a *api, rt route, serve func(c *call, in *I) (*O, error)) {
	empty := reflect.TypeFor[O]() == reflect.TypeFor[nothing]()
	if rt.status == 0 {
		rt.status = http.StatusOK
		if empty {
			rt.status = http.StatusNoContent
		}
	}
	var body reflect.Type
	if !empty {
		body = reflect.TypeFor[O]()
	}
	endpoint(a, rt, body, func(c *call, in *I) error {
		out, err := serve(c, in)
		if err != nil {
			return err
		}
		if h, ok := any(out).(withHeaders); ok {
			h.setHeaders(c.w.Header())
		}
		if m, ok := any(out).(made); ok {
			c.object = m.objectID()
		}
		if empty {
			if err := c.settle(rt.status, nil); err != nil {
				return err
			}
			c.w.WriteHeader(rt.status)
			return nil
		}
		return c.writeJSON(rt.status, out)
	})
}

// stream adds a route that writes its own answer. An error that it returns
// after the first byte cuts the connection.
func stream[I any](a *api, rt route, serve func(c *call, in *I) error) {
	if rt.status == 0 {
		rt.status = http.StatusOK
	}
	endpoint(a, rt, nil, serve)
}

// endpoint is the way of every request to its route: who asks, may they, what
// do they say, and only then what is to be done.
func endpoint[I any](a *api, rt route, answerType reflect.Type, serve func(c *call, in *I) error) {
	in := reflect.TypeFor[I]()
	params := paramsOf(in, a.document.Components.Schemas)
	bodyField, hasBody := in.FieldByName("Body")
	a.describe(rt, params, bodyField.Type, answerType)
	// A route without a body takes an empty object for one.
	bodyShape := &shape{kind: reflect.Struct}
	if hasBody {
		bodyShape = shapeOf(bodyField.Type, bodyField.Tag)
	}

	a.mux.HandleFunc(rt.method+" "+rt.path, func(_ http.ResponseWriter, r *http.Request) {
		c := callOf(r)
		c.route = rt.path
		c.streamed, c.secret = rt.upload != nil, rt.secret
		if rt.changes() {
			c.action = rt.id
		}
		var in I
		if err := func() error {
			if err := c.admit(&rt); err != nil {
				return err
			}
			if c.action != "" && a.auditReady != nil {
				if err := a.auditReady(c.Context()); err != nil {
					return err
				}
			}
			v := reflect.ValueOf(&in).Elem()
			if err := bind(params, c.r, v); err != nil {
				return err
			}
			var body []byte
			var err error
			switch {
			case hasBody:
				body, err = c.readBody()
			case rt.upload == nil:
				err = c.readNoBody(bodyShape)
			}
			if err != nil {
				return err
			}
			if rt.method == http.MethodPost {
				if answered, err := c.claimKey(&rt, body); answered || err != nil {
					return err
				}
			}
			if hasBody {
				if err := decodeJSON(body, v.FieldByIndex(bodyField.Index).Addr().Interface(), bodyShape, rt.emptyBody); err != nil {
					return err
				}
			}
			return serve(c, &in)
		}(); err != nil {
			c.fail(err)
		}
	})
}

// plain adds a handler that is no part of the documented API.
func (a *api) plain(path string, serve http.HandlerFunc) {
	a.mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
		callOf(r).route = path
		serve(w, r)
	})
}

// admit finds out who asks and whether they may.
func (c *call) admit(rt *route) error {
	if rt.scope == "" {
		return nil
	}
	value, err := bearer(c.r.Header)
	if err != nil {
		return err
	}
	p, err := c.api.authenticate(c.Context(), value)
	if err != nil {
		return err
	}
	c.keyID, c.tenant = p.KeyID, p.Tenant
	httpserver.MarkKnown(c.Context())
	if err := c.api.limiter.request(p.KeyID, c.w.Header()); err != nil {
		return err
	}
	if !p.Has(rt.scope) {
		return agentsandbox.Errorf(agentsandbox.CodeForbidden,
			"This key lacks the scope %q; use a key that has it.", rt.scope)
	}
	if rt.status != http.StatusSwitchingProtocols { // whose connections are counted elsewhere
		if c.leave, err = c.api.limiter.enter(p.KeyID); err != nil {
			return err
		}
	}
	c.r = c.r.WithContext(agentsandbox.WithPrincipal(c.Context(), p))
	return nil
}

// maxKeyBytes bounds a key value, so that nobody has us hash megabytes.
const maxKeyBytes = 512

// bearer takes the key out of the one Authorization header.
func bearer(h http.Header) (string, error) {
	refuse := func(format string, args ...any) (string, error) {
		return "", agentsandbox.Errorf(agentsandbox.CodeUnauthorized, format, args...)
	}
	values := h.Values("Authorization")
	if len(values) == 0 || values[0] == "" {
		return refuse("An API key is needed: send it as Authorization: Bearer KEY.")
	}
	if len(values) > 1 {
		return refuse("Send one Authorization header, not %d.", len(values))
	}
	scheme, value, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") || value == "" || len(value) > maxKeyBytes || strings.ContainsAny(value, " \t,") {
		return refuse("The Authorization header is not of the form: Bearer KEY, with one space and nothing after the key.")
	}
	return value, nil
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// maxPooledBytes keeps one large answer from staying in memory for good.
const maxPooledBytes = 1 << 20

// writeJSON writes a whole answer. Nothing is sent when it cannot be encoded.
func (c *call) writeJSON(status int, v any) error {
	buf, _ := buffers.Get().(*bytes.Buffer)
	defer func() {
		if buf.Cap() <= maxPooledBytes {
			buf.Reset()
			buffers.Put(buf)
		}
	}()
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	rest, parts := splitOutput(v)
	if err := enc.Encode(rest); err != nil {
		buf.Reset()
		return fmt.Errorf("encode the answer: %w", err)
	}
	h := c.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	if err := c.occupyAnswer(buf.Len()); err != nil {
		buf.Reset()
		return err
	}
	if parts.names == nil {
		return c.writeEncoded(status, buf.Bytes())
	}
	parts.small = bytes.Clone(bytes.TrimSuffix(buf.Bytes(), []byte("}\n")))
	buf.Reset()
	if parts.size() > maxWholeBytes {
		if err := c.settle(status, nil); err != nil {
			return err
		}
		c.w.WriteHeader(status)
		// As below, nobody is left to be told of a failed write.
		_ = parts.send(func(b []byte) error { _, err := c.w.Write(b); return err })
		return nil
	}
	if err := parts.send(func(b []byte) error { _, err := buf.Write(b); return err }); err != nil {
		return err
	}
	return c.writeEncoded(status, buf.Bytes())
}

// maxWholeBytes is how much output an answer may have that is encoded before it
// is sent, so that its length stands in its header.
const maxWholeBytes = 128 << 10

// writeEncoded writes a whole answer whose header is set; an empty one has no
// body.
func (c *call) writeEncoded(status int, body []byte) error {
	if err := c.settle(status, body); err != nil {
		return err
	}
	if len(body) == 0 {
		c.w.WriteHeader(status)
		return nil
	}
	c.w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	c.w.WriteHeader(status)
	// A failed write leaves nobody to be told; finish notes it, and the length
	// that was announced makes net/http close the connection.
	_, _ = c.w.Write(body)
	return nil
}
