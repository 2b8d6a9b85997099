package httpapi

import (
	"net"
	"net/http"
	"strings"
)

// portsHost is a host name of their own for open ports, as host or host:port. It
// serves nothing else, and no other name serves them then: pages that come from
// sandboxes are never on the API's origin. "": they share it.
type portsHost string

// serves says what a request for a host may reach: open ports, and the rest.
func (p portsHost) serves(r *http.Request) (ports, rest bool) {
	if p == "" {
		return true, true
	}
	own := hostName(r.Host) == hostName(string(p))
	return own, !own
}

// hostName is a host without its port, as names are compared.
func hostName(authority string) string {
	if host, _, err := net.SplitHostPort(authority); err == nil {
		authority = host
	}
	return strings.ToLower(strings.TrimSuffix(strings.Trim(authority, "[]"), "."))
}
