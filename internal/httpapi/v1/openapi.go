package v1

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
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/input"
)

// documentVersion is the version of the API, not of the program: it changes
// when the wire does.
const documentVersion = "1.0.0"

const (
	jsonType     = "application/json"
	schemaPrefix = "#/components/schemas/"
	bearerScheme = "bearer"
)

// describe returns the OpenAPI document of routes: of those that have an ID. Of
// huma it uses the types of the document and the making of schemas; the reasons
// stand in docs/decisions/0022-one-endpoint-and-a-document-from-it.md.
func describe(routes []edge.Route) *huma.OpenAPI {
	doc := newDocument()
	for _, rt := range routes {
		if rt.ID != "" {
			doc.AddOperation(operationOf(rt, doc.Components.Schemas))
		}
	}
	finish(doc)
	return doc
}

func newDocument() *huma.OpenAPI {
	registry := huma.NewMapRegistry(schemaPrefix, huma.DefaultSchemaNamer)
	registry.RegisterTypeAlias(reflect.TypeFor[edge.Output](), reflect.TypeFor[string]())
	doc := &huma.OpenAPI{
		OpenAPI: "3.1.0",
		Info: &huma.Info{
			Title:   "Agent Sandbox",
			Version: documentVersion,
			Description: "Runs the Python and Bash of AI agents in isolated sandboxes.\n\n" +
				"Every answer that is not a success has one shape, Failure, whose code is one of a closed set. " +
				"Fields of bodies and forms and parameters of queries that the server does not know are refused; answers may have fields that a client does not know. " +
				fmt.Sprintf("Where nothing else is said, a list has at most %d items, an object %d entries and a string %d bytes. ", input.MaxItems, input.MaxItems, input.MaxStringBytes) +
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

// operationOf describes a route, from the same declaration and types that serve it.
func operationOf(rt edge.Route, registry huma.Registry) *huma.Operation {
	op := &huma.Operation{
		OperationID: rt.ID, Method: rt.Method, Path: rt.Path, Tags: []string{rt.Tag},
		Summary: rt.Summary, Description: rt.Description,
		Responses: map[string]*huma.Response{},
	}
	for _, p := range rt.Params() {
		op.Parameters = append(op.Parameters, paramOf(p, registry))
	}
	if rt.Method == http.MethodPost {
		op.Parameters = append(op.Parameters, &huma.Param{
			Name: edge.KeyHeader, In: "header",
			Description: "Chosen by the client, a new one for each request, such as a UUID. The same request again with the same key, within 24 hours, has no second effect and gets the same answer.",
			Schema:      &huma.Schema{Type: huma.TypeString, MinLength: ptr(1), MaxLength: ptr(agentsandbox.MaxIdempotencyKeyBytes)},
		})
		rt.Codes = append(slices.Clone(rt.Codes), agentsandbox.CodeConflict)
	}
	switch {
	case rt.BodyType() != nil:
		op.RequestBody = &huma.RequestBody{
			Required: !rt.EmptyBody,
			Content:  map[string]*huma.MediaType{jsonType: {Schema: registry.Schema(rt.BodyType(), true, upperFirst(rt.ID)+"Request")}},
		}
	case rt.Upload != nil:
		op.RequestBody = uploadBodyOf(rt.Upload)
	}
	if rt.Scope != "" {
		op.Security = []map[string][]string{{bearerScheme: {string(rt.Scope)}}}
	}
	op.Responses[strconv.Itoa(rt.Status)] = success(rt, rt.AnswerType(), registry)
	if rt.Download != nil && rt.Download.Ranges {
		part := success(rt, nil, registry)
		part.Description = "The part that Range asked for."
		part.Headers["Content-Range"] = textHeader("Which bytes these are, and of how many.")
		op.Responses[strconv.Itoa(http.StatusPartialContent)] = part
	}
	describeFailures(op, rt, op.RequestBody != nil)
	return op
}

func paramOf(p input.Param, registry huma.Registry) *huma.Param {
	schema := huma.SchemaFromField(registry, p.Field, p.Name)
	schema.Nullable = false
	param := &huma.Param{
		Name: p.Name, In: p.In, Description: schema.Description, Schema: schema,
		Required: p.In == "path" || p.Field.Tag.Get("required") == "true",
	}
	schema.Description = ""
	if p.Field.Type.Kind() == reflect.Map {
		param.Style, param.Explode = "deepObject", ptr(true)
	}
	return param
}

func uploadBodyOf(u *edge.Content) *huma.RequestBody {
	schema := &huma.Schema{Type: huma.TypeString, Format: "binary", Description: u.Description}
	if u.Form != "" {
		parts := map[string]*huma.Schema{u.Form: schema}
		for name, meaning := range u.Fields {
			parts[name] = &huma.Schema{Type: huma.TypeString, Description: meaning}
		}
		schema = &huma.Schema{Type: huma.TypeObject, Properties: parts, Required: []string{u.Form}, AdditionalProperties: false}
	}
	return &huma.RequestBody{
		Required: true, Description: u.Description, Content: map[string]*huma.MediaType{u.MediaType: {Schema: schema}},
	}
}

func success(rt edge.Route, answer reflect.Type, registry huma.Registry) *huma.Response {
	r := &huma.Response{Description: http.StatusText(rt.Status), Headers: map[string]*huma.Header{}}
	for name, meaning := range rt.Headers {
		r.Headers[name] = textHeader(meaning)
	}
	r.Headers["X-Request-Id"] = textHeader("Names this request in the server's log.")
	if rt.Scope != "" {
		rateHeaders(r.Headers)
	}
	if rt.Method == http.MethodPost {
		r.Headers[edge.ReplayedHeader] = textHeader("true: this is the answer to an earlier request with the same Idempotency-Key.")
	}
	switch {
	case answer != nil:
		r.Content = map[string]*huma.MediaType{jsonType: {Schema: registry.Schema(answer, true, "")}}
	case rt.Download != nil:
		r.Description = rt.Download.Description
		r.Content = map[string]*huma.MediaType{rt.Download.MediaType: {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}}
		r.Headers["Content-Disposition"] = textHeader("Always an attachment, with the name.")
		if rt.Download.Ranges {
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
func describeFailures(op *huma.Operation, rt edge.Route, hasBody bool) {
	codes := append(slices.Clone(rt.Codes), agentsandbox.CodeInvalidRequest) // what is not known is refused everywhere
	if rt.Scope != "" {
		codes = append(codes, agentsandbox.CodeUnauthorized, agentsandbox.CodeForbidden,
			agentsandbox.CodeRateLimited, agentsandbox.CodeUnavailable)
	}
	if hasBody {
		codes = append(codes, agentsandbox.CodeTooLarge)
	}
	codes = append(codes, agentsandbox.CodeInternal)
	byStatus := map[int][]string{}
	for _, code := range codes {
		status := edge.Status(code)
		if !slices.Contains(byStatus[status], string(code)) {
			byStatus[status] = append(byStatus[status], string(code))
		}
	}
	if rt.Download != nil && rt.Download.Ranges {
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

// finish makes the document say what is true of all schemas, once all are known.
func finish(doc *huma.OpenAPI) {
	schemas := doc.Components.Schemas.Map()
	sent := sentSchemas(doc)
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
}

func encode(doc *huma.OpenAPI) (asJSON, asYAML []byte, err error) {
	if asJSON, err = json.Marshal(doc); err != nil {
		return nil, nil, fmt.Errorf("v1: encode the OpenAPI document: %w", err)
	}
	if asYAML, err = doc.YAML(); err != nil {
		return nil, nil, fmt.Errorf("v1: encode the OpenAPI document: %w", err)
	}
	return asJSON, asYAML, nil
}

// sentSchemas names the schemas of which bodies of requests are made.
func sentSchemas(doc *huma.OpenAPI) map[string]bool {
	schemas, sent := doc.Components.Schemas.Map(), map[string]bool{}
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
	for _, item := range doc.Paths {
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
