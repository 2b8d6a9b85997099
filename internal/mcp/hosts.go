package mcp

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// anyHost among the allowed hosts stands for all of them.
const anyHost = "*"

// guardHosts refuses requests to names that are not ours: a page in a browser can
// have its own name point at the loopback, and would pass for a page of this
// server. A proxy in front passes on the name that it was asked for.
func guardHosts(allowed []string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(allowed) == 0 && !arrivedAtLoopback(r) {
			next.ServeHTTP(w, r)
			return
		}
		host := hostname(r.Host)
		if !isLoopback(host) && !slices.Contains(allowed, anyHost) && !names(allowed, host) {
			http.Error(w, fmt.Sprintf("Requests to the host %q are refused here. Behind a proxy, start agentsandbox mcp with --allowed-host %[1]s.", host), http.StatusForbidden)
			return
		}
		// Browsers say which page asks. That any host is allowed is no word for pages.
		if origin := r.Header.Get("Origin"); origin != "" {
			page, err := url.Parse(origin)
			if err != nil || !isLoopback(page.Hostname()) && !names(allowed, page.Hostname()) {
				http.Error(w, "Requests of web pages from elsewhere are refused.", http.StatusForbidden)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

func names(allowed []string, host string) bool {
	return slices.ContainsFunc(allowed, func(name string) bool { return strings.EqualFold(hostname(name), host) })
}

// arrivedAtLoopback tells whether a request came to a loopback address.
func arrivedAtLoopback(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && isLoopback(hostname(local.String()))
}

// hostname is a host without its port and brackets.
func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return strings.Trim(host, "[]")
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.Unmap().IsLoopback()
}
