// Package v1 is our own API over HTTP: a surface of typed routes on an edge, the
// OpenAPI document that is made from the same declarations and types, and the page
// that shows it. The state of the server (/healthz, /readyz, /metrics) is among
// its routes, because its document describes it.
//
// The package knows no engine, no store and no runtime: it holds a Service. What
// is common to all surfaces, such as keys, limits and the audit log, is the edge's.
// It keeps nothing between requests.
//
// It fails with *agentsandbox.Error values, which the edge answers in the one
// shape of failure.go.
package v1

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
)

// Options are what the API needs of its surroundings.
type Options struct {
	// Service does the work. Needed.
	Service agentsandbox.Service
	// Ready is nil when a sandbox can be claimed now, otherwise why not. The
	// message of an *agentsandbox.Error is shown to everyone. Needed.
	Ready func() error
	// PortURL is the URL of the path of an open port for whoever sent a request;
	// nil: on the host that the request came to.
	PortURL func(r *http.Request, path string) string
	// Output reads what was kept of the output of a run; nil: from its record.
	Output Output
	// CodeBytes bounds the code of an execution; 0: 1 MiB.
	CodeBytes int64
	// Version is the program's, shown by /healthz.
	Version string
}

// Output opens what was kept of a stream of a run. held is how many bytes of memory that
// takes. Codes: execution_not_found, conflict (it was dropped).
type Output func(ctx context.Context, id string, stream agentsandbox.Stream) (output io.ReadSeekCloser, held int, err error)

// defaultCodeBytes bounds the code of an execution.
const defaultCodeBytes = 1 << 20

// api is what the routes share.
type api struct {
	service   agentsandbox.Service
	ready     func() error
	portURL   func(r *http.Request, path string) string
	output    Output
	codeBytes int64
	version   string
	readers   chan struct{} // a place for each record that is being read
	document  *huma.OpenAPI
}

// New returns the surface.
func New(o Options) (edge.Surface, error) {
	a, err := newAPI(o)
	if err != nil {
		return edge.Surface{}, err
	}
	return a.surface()
}

func newAPI(o Options) (*api, error) {
	switch {
	case o.Service == nil:
		return nil, errors.New("v1: Options.Service is needed")
	case o.Ready == nil:
		return nil, errors.New("v1: Options.Ready is needed")
	case o.CodeBytes < 0:
		return nil, fmt.Errorf("v1: Options.CodeBytes is %d; it must not be negative", o.CodeBytes)
	}
	if o.CodeBytes == 0 {
		o.CodeBytes = defaultCodeBytes
	}
	if o.Output == nil {
		o.Output = outputOfRecords(o.Service)
	}
	if o.PortURL == nil {
		o.PortURL = func(r *http.Request, path string) string { return edge.Scheme(r) + "://" + r.Host + path }
	}
	return &api{
		service: o.Service, ready: o.Ready, portURL: o.PortURL, output: o.Output, codeBytes: o.CodeBytes, version: o.Version,
		readers: make(chan struct{}, maxReaders),
	}, nil
}

func (a *api) surface() (edge.Surface, error) {
	routes := slices.Concat(
		a.executionRoutes(), a.sessionRoutes(), a.fileRoutes(), a.workspaceRoutes(), a.networkRoutes(), a.portRoutes(),
		a.keyRoutes(), a.auditRoutes(), a.healthRoutes(),
	)
	a.document = describe(routes)
	docs, err := documentRoutes(a.document)
	if err != nil {
		return edge.Surface{}, err
	}
	routes = append(append(routes, edge.Metrics("/metrics")), docs...)
	return edge.Surface{Manner: Manner(), Routes: routes}, nil
}
