package edge

import (
	"net/http"
	"strings"
)

// Scheme is how a request came to this server, http or https: by its connection,
// or as a proxy in front says. A client that sends X-Forwarded-Proto itself only
// misleads itself: no answer to anybody else has it.
func Scheme(r *http.Request) string {
	if r.TLS != nil {
		return "https"
	}
	said, _, _ := strings.Cut(r.Header.Get("X-Forwarded-Proto"), ",")
	if said == "" {
		first, _, _ := strings.Cut(r.Header.Get("Forwarded"), ",")
		for part := range strings.SplitSeq(first, ";") {
			if name, value, _ := strings.Cut(part, "="); strings.EqualFold(strings.TrimSpace(name), "proto") {
				said = strings.Trim(strings.TrimSpace(value), `"`)
			}
		}
	}
	if strings.EqualFold(strings.TrimSpace(said), "https") {
		return "https"
	}
	return "http"
}
