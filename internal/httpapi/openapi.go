package httpapi

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/agentsandbox/agentsandbox"
)

// documentVersion is the version of the API, not of the program: it changes
// when the wire does.
const documentVersion = "1.0.0"

const (
	jsonType     = "application/json"
	schemaPrefix = "#/components/schemas/"
	bearerScheme = "bearer"
)

// newDocument returns the OpenAPI document without its routes.
//
// Of huma, this package uses the types of the document and the making of
// schemas. The requests themselves go through our endpoint and not through
// huma.Register, whose handlers answer errors in a shape that only a global
// variable can change, repeat bodies in them, and build a generic tree of every
// body first.
func newDocument() *huma.OpenAPI {
	registry := huma.NewMapRegistry(schemaPrefix, huma.DefaultSchemaNamer)
	doc := &huma.OpenAPI{
		OpenAPI: "3.1.0",
		Info: &huma.Info{
			Title:   "Agent Sandbox",
			Version: documentVersion,
			Description: "Runs the Python and Bash of AI agents in isolated sandboxes.\n\n" +
				"Every answer that is not a success has one shape, Failure, whose code is one of a closed set. " +
				"Fields of bodies and forms and parameters of queries that the server does not know are refused; answers may have fields that a client does not know. " +
				fmt.Sprintf("Where nothing else is said, a list has at most %d items, an object %d entries and a string %d bytes. ", maxItems, maxItems, maxStringBytes) +
				"Times are RFC 3339 in UTC, sizes are bytes, durations are milliseconds. " +
				"X-Request-Id (1 to 128 letters, digits, dots, dashes and underscores) is taken from the request or made up, and is on every answer.",
			License: &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"},
		},
		Components: &huma.Components{
			Schemas: registry,
			SecuritySchemes: map[string]*huma.SecurityScheme{bearerScheme: {
				Type: "http", Scheme: "bearer",
				Description: "An API key. A route names the scope that the key must have; sandbox includes read, and admin includes all.",
			}},
		},
		Tags: []*huma.Tag{
			{Name: "executions", Description: "Runs of code, and their records."},
			{Name: "sessions", Description: "Sandboxes that are kept between runs."},
			{Name: "files", Description: "Bytes that were uploaded or that runs produced, kept under ids."},
			{Name: "workspace", Description: "Files inside a live session, by path."},
			{Name: "network", Description: "What sessions may reach, and the ways into them."},
			{Name: "keys", Description: "API keys."},
			{Name: "audit", Description: "Who did what."},
			{Name: "server", Description: "The state of the server."},
		},
	}
	registry.Schema(reflect.TypeFor[failure](), true, "")
	return doc
}

// describe adds a route to the document, from the same declaration and types
// that serve it.
func (a *api) describe(rt route, params []param, body, answer reflect.Type) {
	registry := a.document.Components.Schemas
	op := &huma.Operation{
		OperationID: rt.id, Method: rt.method, Path: rt.path, Tags: []string{rt.tag},
		Summary: rt.summary, Description: rt.description,
		Responses: map[string]*huma.Response{},
	}
	for _, p := range params {
		op.Parameters = append(op.Parameters, p.doc)
	}
	if rt.method == http.MethodPost {
		op.Parameters = append(op.Parameters, &huma.Param{
			Name: keyHeader, In: "header",
			Description: "Chosen by the client, a new one for each request, such as a UUID. The same request again with the same key, within 24 hours, has no second effect and gets the same answer.",
			Schema:      &huma.Schema{Type: huma.TypeString, MinLength: ptr(1), MaxLength: ptr(agentsandbox.MaxIdempotencyKeyBytes)},
		})
		rt.codes = append(slices.Clone(rt.codes), agentsandbox.CodeConflict)
	}
	switch {
	case body != nil:
		op.RequestBody = &huma.RequestBody{
			Required: !rt.emptyBody,
			Content:  map[string]*huma.MediaType{jsonType: {Schema: registry.Schema(body, true, upperFirst(rt.id)+"Request")}},
		}
	case rt.upload != nil:
		op.RequestBody = rt.upload.requestBody()
	}
	if rt.scope != "" {
		op.Security = []map[string][]string{{bearerScheme: {string(rt.scope)}}}
	}
	op.Responses[strconv.Itoa(rt.status)] = success(rt, answer, registry)
	if rt.download != nil && rt.download.ranges {
		part := success(rt, nil, registry)
		part.Description = "The part that Range asked for."
		part.Headers["Content-Range"] = textHeader("Which bytes these are, and of how many.")
		op.Responses[strconv.Itoa(http.StatusPartialContent)] = part
	}
	describeFailures(op, rt, op.RequestBody != nil)
	a.document.AddOperation(op)
}

func (u *content) requestBody() *huma.RequestBody {
	schema := &huma.Schema{Type: huma.TypeString, Format: "binary", Description: u.description}
	if u.form != "" {
		parts := map[string]*huma.Schema{u.form: schema}
		for name, meaning := range u.fields {
			parts[name] = &huma.Schema{Type: huma.TypeString, Description: meaning}
		}
		schema = &huma.Schema{Type: huma.TypeObject, Properties: parts, Required: []string{u.form}, AdditionalProperties: false}
	}
	return &huma.RequestBody{
		Required: true, Description: u.description, Content: map[string]*huma.MediaType{u.mediaType: {Schema: schema}},
	}
}

func success(rt route, answer reflect.Type, registry huma.Registry) *huma.Response {
	r := &huma.Response{Description: http.StatusText(rt.status), Headers: map[string]*huma.Header{}}
	for name, meaning := range rt.headers {
		r.Headers[name] = textHeader(meaning)
	}
	r.Headers["X-Request-Id"] = textHeader("Names this request in the server's log.")
	if rt.scope != "" {
		rateHeaders(r.Headers)
	}
	if rt.method == http.MethodPost {
		r.Headers[replayedHeader] = textHeader("true: this is the answer to an earlier request with the same Idempotency-Key.")
	}
	switch {
	case answer != nil:
		r.Content = map[string]*huma.MediaType{jsonType: {Schema: registry.Schema(answer, true, "")}}
	case rt.download != nil:
		r.Description = rt.download.description
		r.Content = map[string]*huma.MediaType{rt.download.mediaType: {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}}
		r.Headers["Content-Disposition"] = textHeader("Always an attachment, with the name.")
		if rt.download.ranges {
			r.Headers["Accept-Ranges"] = textHeader("bytes: part of the contents can be had with Range.")
		}
	}
	return r
}

func textHeader(meaning string) *huma.Header {
	return &huma.Header{Description: meaning, Schema: &huma.Schema{Type: huma.TypeString}}
}

// rateHeaders are on every answer to a request with a key, if the server limits
// how many there may be.
func rateHeaders(headers map[string]*huma.Header) {
	for name, meaning := range map[string]string{
		"RateLimit-Limit":     "How many requests the key may send at once.",
		"RateLimit-Remaining": "How many of them are left.",
		"RateLimit-Reset":     "Seconds until all of them are there again.",
	} {
		headers[name] = &huma.Header{Description: meaning, Schema: &huma.Schema{Type: huma.TypeInteger}}
	}
}

// describeFailures lists the statuses that a route can answer with, each with
// the codes behind it.
func describeFailures(op *huma.Operation, rt route, hasBody bool) {
	codes := append(slices.Clone(rt.codes), agentsandbox.CodeInvalidRequest) // what is not known is refused everywhere
	if rt.scope != "" {
		codes = append(codes, agentsandbox.CodeUnauthorized, agentsandbox.CodeForbidden,
			agentsandbox.CodeRateLimited, agentsandbox.CodeUnavailable)
	}
	if hasBody {
		codes = append(codes, agentsandbox.CodeTooLarge)
	}
	codes = append(codes, agentsandbox.CodeInternal)
	byStatus := map[int][]string{}
	for _, code := range codes {
		status := Status(code)
		if !slices.Contains(byStatus[status], string(code)) {
			byStatus[status] = append(byStatus[status], string(code))
		}
	}
	if rt.download != nil && rt.download.ranges {
		byStatus[http.StatusRequestedRangeNotSatisfiable] = []string{string(agentsandbox.CodeInvalidRequest)}
	}
	for status, names := range byStatus {
		slices.Sort(names)
		r := &huma.Response{
			Description: "Code " + strings.Join(names, " or ") + ".",
			Content:     map[string]*huma.MediaType{jsonType: {Schema: &huma.Schema{Ref: schemaPrefix + "Failure"}}},
		}
		switch status {
		case http.StatusTooManyRequests, http.StatusServiceUnavailable:
			r.Headers = map[string]*huma.Header{"Retry-After": {
				Description: "Seconds to wait before another try.", Schema: &huma.Schema{Type: huma.TypeInteger},
			}}
			if status == http.StatusTooManyRequests {
				rateHeaders(r.Headers)
			}
		case http.StatusUnauthorized:
			r.Headers = map[string]*huma.Header{"WWW-Authenticate": textHeader("Bearer.")}
		}
		op.Responses[strconv.Itoa(status)] = r
	}
}

// finishDocument makes the document say what is true of all schemas, once all
// are known.
func (a *api) finishDocument() (asJSON, asYAML []byte, err error) {
	schemas := a.document.Components.Schemas.Map()
	sent := a.sentSchemas()
	for _, name := range slices.Sorted(maps.Keys(schemas)) {
		if closed, ok := schemas[name].AdditionalProperties.(bool); ok && !closed && !sent[name] {
			// Clients ignore fields of answers that they do not know.
			schemas[name].AdditionalProperties = nil
		}
	}
	codes := make([]any, 0, len(agentsandbox.Codes()))
	for _, code := range slices.Sorted(slices.Values(agentsandbox.Codes())) {
		codes = append(codes, string(code))
	}
	schemas["FailureInfo"].Properties["code"].Enum = codes

	if asJSON, err = json.Marshal(a.document); err != nil {
		return nil, nil, fmt.Errorf("httpapi: encode the OpenAPI document: %w", err)
	}
	if asYAML, err = a.document.YAML(); err != nil {
		return nil, nil, fmt.Errorf("httpapi: encode the OpenAPI document: %w", err)
	}
	return asJSON, asYAML, nil
}

// sentSchemas names the schemas of which bodies of requests are made.
func (a *api) sentSchemas() map[string]bool {
	schemas, sent := a.document.Components.Schemas.Map(), map[string]bool{}
	var visit func(s *huma.Schema)
	visit = func(s *huma.Schema) {
		if s == nil {
			return
		}
		if name, ok := strings.CutPrefix(s.Ref, schemaPrefix); ok && !sent[name] {
			sent[name] = true
			visit(schemas[name])
		}
		visit(s.Items)
		for _, property := range s.Properties {
			visit(property)
		}
	}
	for _, item := range a.document.Paths {
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Put, item.Delete} {
			if op == nil || op.RequestBody == nil {
				continue
			}
			for _, media := range op.RequestBody.Content {
				visit(media.Schema)
			}
		}
	}
	return sent
}

func ptr[T any](v T) *T { return &v }

func upperFirst(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
