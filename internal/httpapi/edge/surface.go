package edge

import (
	"net/http"

	"github.com/agentsandbox/agentsandbox"
)

// Surface is an API on an edge.
type Surface struct {
	Manner
	// Takes tells which requests are for this surface. The last surface of an edge
	// needs none.
	Takes func(*http.Request) bool
	// Routes are all that there is.
	Routes []Route
	// Serve serves every request instead of Routes, for a surface whose paths are
	// not its own to name. It asks for no key.
	Serve func(*Call)
}

// Manner is how a surface speaks with its clients.
type Manner struct {
	// Key reads the API key of a request. A request without one is an
	// *agentsandbox.Error of code unauthorized. Needed where a route has a scope.
	Key func(*http.Request) (string, error)
	// Fail writes the answer of a request that failed, with [Call.WriteJSON] or
	// [Call.WriteBody]: the error in the shape that clients of the surface read.
	// The status is that of the table; a surface whose clients know another may
	// write it. Headers that every surface has are set. Needed.
	Fail func(c *Call, status int, e *agentsandbox.Error) error
	// Docs is the path that lists the routes, for messages; "": there is none.
	Docs string
}
