package v1

import (
	_ "embed"
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"
	"github.com/swaggest/swgui/v5emb"

	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
)

// The page of /docs. Its scripts and styles are in the binary: it works without
// a network.
var (
	//go:embed docs/index.html
	docsPage []byte
	//go:embed docs/start.js
	docsScript []byte
)

// docsPolicy lets the page load what this server has and talk to this server,
// and nothing else. Swagger UI draws its icons from data URLs.
const docsPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; " +
	"font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// docsAssets are the files of Swagger UI that the page needs, out of more.
var docsAssets = []string{"swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png"}

// documentRoutes serves the OpenAPI document and the page that shows it.
func documentRoutes(document *huma.OpenAPI) ([]edge.Route, error) {
	asJSON, asYAML, err := encode(document)
	if err != nil {
		return nil, err
	}
	routes := []edge.Route{
		edge.Plain("/openapi.json", fixed(jsonType, asJSON)),
		edge.Plain("/openapi.yaml", fixed("application/yaml", asYAML)),
		edge.Plain("/docs", fixed("text/html; charset=utf-8", docsPage)),
		edge.Plain("/docs/start.js", fixed("text/javascript; charset=utf-8", docsScript)),
	}
	assets := v5emb.New("", "", "/docs/")
	for _, name := range docsAssets {
		routes = append(routes, edge.Plain("/docs/"+name, func(w http.ResponseWriter, r *http.Request) {
			docsHeaders(w.Header())
			assets.ServeHTTP(w, r)
		}))
	}
	return routes, nil
}

func docsHeaders(h http.Header) {
	h.Set("Content-Security-Policy", docsPolicy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-cache")
}

func fixed(mediaType string, body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		docsHeaders(w.Header())
		w.Header().Set("Content-Type", mediaType)
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		// A failed write is a client that left.
		_, _ = w.Write(body)
	}
}
