package httpapi

import (
	_ "embed"
	"net/http"
	"strconv"

	"github.com/swaggest/swgui/v5emb"
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

// documentRoutes serves the OpenAPI document and the page that shows it. They
// come last: the document has to know all routes.
func (a *api) documentRoutes() error {
	asJSON, asYAML, err := a.finishDocument()
	if err != nil {
		return err
	}
	a.plain("/openapi.json", fixed(jsonType, asJSON))
	a.plain("/openapi.yaml", fixed("application/yaml", asYAML))
	a.plain("/docs", fixed("text/html; charset=utf-8", docsPage))
	a.plain("/docs/start.js", fixed("text/javascript; charset=utf-8", docsScript))
	assets := v5emb.New("", "", "/docs/")
	for _, name := range docsAssets {
		a.plain("/docs/"+name, func(w http.ResponseWriter, r *http.Request) {
			docsHeaders(w.Header())
			assets.ServeHTTP(w, r)
		})
	}
	return nil
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
