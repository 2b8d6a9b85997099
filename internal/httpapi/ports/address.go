package ports

import (
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
)

// Prefix starts the paths of open ports; the token follows.
const Prefix = "/p/"

// address is where clients reach open ports.
type address struct {
	// host is a host name of their own, as host or host:port. It serves nothing
	// else, and no other name serves open ports then: pages that come from
	// sandboxes are never on the API's origin. "": they share it.
	host string
	// public is how clients reach the server; nil: as each request came.
	public *url.URL
}

// takes tells which requests are for open ports.
func (a address) takes(r *http.Request) bool {
	if a.host == "" {
		return strings.HasPrefix(r.URL.Path, Prefix)
	}
	return hostName(r.Host) == hostName(a.host)
}

// url is the URL of a path, for whoever sent a request.
func (a address) url(r *http.Request, path string) string {
	return a.scheme(r) + "://" + a.authority(r) + path
}

func (a address) scheme(r *http.Request) string {
	if a.public != nil {
		return a.public.Scheme
	}
	return edge.Scheme(r)
}

// authority is what the URL of a port has between scheme and path.
func (a address) authority(r *http.Request) string {
	switch {
	case a.host != "":
		return a.host
	case a.public != nil:
		return a.public.Host
	}
	return r.Host
}

// hostName is a host without its port, as names are compared.
func hostName(authority string) string {
	if host, _, err := net.SplitHostPort(authority); err == nil {
		authority = host
	}
	return strings.ToLower(strings.TrimSuffix(strings.Trim(authority, "[]"), "."))
}
