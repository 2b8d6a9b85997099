package ports

import (
	"net"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
)

// portSandbox is added to every page of an open port. Such pages come from code
// that nobody has read, on the API's own origin: they get an origin of nobody.
const portSandbox = "sandbox allow-downloads allow-forms allow-modals allow-popups allow-scripts"

// ownCookies starts the names of cookies that are none of a sandbox's business.
const ownCookies = "agentsandbox"

// keptFromPorts are headers of requests that never reach a sandbox: what opens the
// API, what is between us and the client, and what we say ourselves.
var keptFromPorts = []string{
	"Authorization", "X-Api-Key", "Idempotency-Key",
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Expect",
	"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Prefix",
}

// passedFromPorts are the headers of answers that pass: what is about one answer,
// or one document. What speaks for the whole origin, to a proxy in front of us, or
// is not known, does not.
var passedFromPorts = map[string]bool{
	// The content.
	"Content-Type": true, "Content-Length": true, "Content-Encoding": true, "Content-Language": true, "Content-Disposition": true,
	"Content-Range": true, "Accept-Ranges": true, "Content-Md5": true, "Digest": true, "Repr-Digest": true, "Content-Digest": true,
	// Caching.
	"Cache-Control": true, "Expires": true, "Pragma": true, "Age": true, "Date": true, "Etag": true, "Last-Modified": true, "Vary": true,
	// What comes next; addresses in these are rewritten.
	"Location": true, "Content-Location": true, "Refresh": true, "Link": true, "Retry-After": true, "Allow": true, "Accept-Patch": true, "Accept-Post": true,
	"Set-Cookie": true,
	// Who may use this answer.
	"Access-Control-Allow-Origin": true, "Access-Control-Allow-Methods": true, "Access-Control-Allow-Headers": true, "Access-Control-Allow-Credentials": true,
	"Access-Control-Expose-Headers": true, "Access-Control-Max-Age": true, "Timing-Allow-Origin": true,
	"Cross-Origin-Resource-Policy": true, "Cross-Origin-Opener-Policy": true, "Cross-Origin-Embedder-Policy": true,
	"Content-Security-Policy": true, "Content-Security-Policy-Report-Only": true, "Permissions-Policy": true, "X-Frame-Options": true,
	// What pages and clients of common frameworks read.
	"Server-Timing": true, "Sourcemap": true, "X-Sourcemap": true, "X-Robots-Tag": true, "X-Total-Count": true,
	"Sec-Websocket-Accept": true, "Sec-Websocket-Protocol": true, "Sec-Websocket-Extensions": true, "Sec-Websocket-Version": true,
	"Mcp-Session-Id": true, "Mcp-Protocol-Version": true, "Grpc-Status": true, "Grpc-Message": true,
	"Hx-Location": true, "Hx-Push-Url": true, "Hx-Redirect": true, "Hx-Refresh": true, "Hx-Replace-Url": true, "Hx-Reselect": true,
	"Hx-Reswap": true, "Hx-Retarget": true, "Hx-Trigger": true, "Hx-Trigger-After-Settle": true, "Hx-Trigger-After-Swap": true,
}

// headerForPort is the header of a request as the server in the sandbox sees it.
// The token is taken out of every value, such as the Referer.
func headerForPort(in http.Header, prefix string) http.Header {
	out := in.Clone()
	upgrade := upgradeOf(in)
	for _, names := range in["Connection"] {
		for name := range strings.SplitSeq(names, ",") {
			out.Del(strings.TrimSpace(name))
		}
	}
	for _, name := range keptFromPorts {
		out.Del(name)
	}
	if upgrade != "" {
		out.Set("Connection", "Upgrade")
		out.Set("Upgrade", upgrade)
	}
	if cookies := withoutOwnCookies(out["Cookie"]); len(cookies) > 0 {
		out["Cookie"] = cookies
	} else {
		out.Del("Cookie")
	}
	for _, values := range out {
		for i, v := range values {
			values[i] = withoutToken(v, prefix)
		}
	}
	if _, said := out["User-Agent"]; !said {
		out["User-Agent"] = []string{""} // or net/http says something
	}
	return out
}

// withoutToken takes the path of a port out of a text, as if the server stood at
// the top.
func withoutToken(text, prefix string) string {
	if !strings.Contains(text, prefix) {
		return text
	}
	text = strings.ReplaceAll(text, prefix+"/", "/")
	return strings.ReplaceAll(text, prefix, "/")
}

// upgradeOf is the protocol that a header switches to; "" for none.
func upgradeOf(h http.Header) string {
	for _, names := range h["Connection"] {
		for name := range strings.SplitSeq(names, ",") {
			if strings.EqualFold(strings.TrimSpace(name), "Upgrade") {
				return h.Get("Upgrade")
			}
		}
	}
	return ""
}

// withoutOwnCookies leaves out the cookies of the server itself. What stays is as
// it was sent: only the name of a cookie is looked at.
func withoutOwnCookies(lines []string) []string {
	var kept []string
	for _, line := range lines {
		parts := strings.Split(line, ";")
		others := slices.DeleteFunc(slices.Clone(parts), isOwnCookie)
		switch {
		case len(others) == len(parts):
			kept = append(kept, line)
		case len(others) > 0:
			kept = append(kept, strings.TrimLeft(strings.Join(others, ";"), " "))
		}
	}
	return kept
}

// isOwnCookie tells whether a cookie, as it stands in a header, has a name of the
// server's. One without a name is sent back as its value alone, which then reads as
// a name.
func isOwnCookie(cookie string) bool {
	cookie = strings.TrimLeft(cookie, " \t=")
	return len(cookie) >= len(ownCookies) && strings.EqualFold(cookie[:len(ownCookies)], ownCookies)
}

// portOrigin is where an open port is served, and the names under which the server
// in the sandbox may know itself.
type portOrigin struct {
	prefix string   // /p/TOKEN
	port   uint16   // in the sandbox
	hosts  []string // authorities that lead here
}

// passHeader adds what passes of an answer's header, and what every answer has.
func (o portOrigin) passHeader(to, from http.Header) {
	for name, values := range from {
		name = textproto.CanonicalMIMEHeaderKey(name)
		if !passedFromPorts[name] {
			continue
		}
		for _, v := range values {
			if v, ok := o.passValue(name, v); ok {
				to.Add(name, v)
			}
		}
	}
	to.Add("Content-Security-Policy", portSandbox)
	to.Set("Referrer-Policy", "no-referrer") // the address is the key
	to.Set("X-Content-Type-Options", "nosniff")
}

func (o portOrigin) passValue(name, value string) (string, bool) {
	switch name {
	case "Location", "Content-Location", "Hx-Location", "Hx-Redirect", "Hx-Push-Url", "Hx-Replace-Url":
		return o.rewrite(value), true
	case "Refresh":
		return o.rewriteRefresh(value), true
	case "Link":
		return o.rewriteLink(value), true
	case "Set-Cookie":
		return o.rewriteCookie(value)
	}
	return value, true
}

// rewrite returns an address of the server in the sandbox as clients have it. An
// address of another server stays, and so does a relative one.
func (o portOrigin) rewrite(address string) string {
	rest, own := o.cutOwnAuthority(address)
	switch {
	case !own:
		return address
	case rest == o.prefix, strings.HasPrefix(rest, o.prefix+"/"):
		return rest
	case !strings.HasPrefix(rest, "/"):
		rest = "/" + rest
	}
	return o.prefix + rest
}

// cutOwnAuthority cuts scheme and authority off an address of the server itself.
func (o portOrigin) cutOwnAuthority(address string) (rest string, own bool) {
	scheme, after, found := strings.Cut(address, "//")
	switch scheme = strings.ToLower(scheme); {
	case found && (scheme == "" || scheme == "http:" || scheme == "https:"):
	case strings.HasPrefix(address, "/"):
		return address, true // a path
	default:
		return "", false
	}
	authority, rest := after, ""
	if end := strings.IndexAny(after, `/\?#`); end >= 0 {
		authority, rest = after[:end], after[end:]
	}
	return rest, o.isOwn(authority)
}

// isOwn tells whether an authority is the server in the sandbox: the host that the
// request came to, or this machine, with the port of either.
func (o portOrigin) isOwn(authority string) bool {
	host, port := hostName(authority), portOfAuthority(authority)
	if strings.Contains(authority, "@") || host == "" {
		return false
	}
	samePort := port == "" || port == strconv.Itoa(int(o.port))
	for _, own := range o.hosts {
		ownPort := portOfAuthority(own)
		samePort = samePort || port == ownPort || ownPort == "" && (port == "80" || port == "443")
	}
	if !samePort {
		return false
	}
	return slices.Contains([]string{"localhost", "127.0.0.1", "::1", "0.0.0.0"}, host) ||
		slices.ContainsFunc(o.hosts, func(own string) bool { return hostName(own) == host })
}

func portOfAuthority(authority string) string {
	if _, port, err := net.SplitHostPort(authority); err == nil {
		return port
	}
	return ""
}

// rewriteRefresh rewrites the address in a value such as 5; url=/next.
func (o portOrigin) rewriteRefresh(value string) string {
	at := strings.IndexAny(value, ";,")
	if at < 0 {
		return value
	}
	head, address := value[:at+1], value[at+1:]
	trimmed := strings.TrimLeft(address, " \t")
	if len(trimmed) >= 3 && strings.EqualFold(trimmed[:3], "url") {
		if after, found := strings.CutPrefix(strings.TrimLeft(trimmed[3:], " \t"), "="); found {
			trimmed = strings.TrimLeft(after, " \t")
		}
	}
	head += address[:len(address)-len(trimmed)]
	if trimmed != "" && (trimmed[0] == '"' || trimmed[0] == '\'') {
		inner, tail, _ := strings.Cut(trimmed[1:], trimmed[:1])
		if len(tail) > 0 || strings.HasSuffix(trimmed[1:], trimmed[:1]) {
			tail = trimmed[:1] + tail
		}
		return head + trimmed[:1] + o.rewrite(inner) + tail
	}
	return head + o.rewrite(trimmed)
}

// rewriteLink rewrites the addresses in <>, outside of quoted strings.
func (o portOrigin) rewriteLink(value string) string {
	var out strings.Builder
	for quoted := false; value != ""; {
		switch c := value[0]; {
		case quoted && c == '\\' && len(value) > 1:
			out.WriteString(value[:2])
			value = value[2:]
			continue
		case c == '"':
			quoted = !quoted
		case c == '<' && !quoted:
			if address, rest, closed := strings.Cut(value[1:], ">"); closed {
				out.WriteString("<" + o.rewrite(address) + ">")
				value = rest
				continue
			}
		}
		out.WriteByte(value[0])
		value = value[1:]
	}
	return out.String()
}

// rewriteCookie keeps a cookie to the port: those of one port are not for another,
// nor for the API. Its Path is put below the port's, and a Domain is left out;
// everything else stays as it was written. A cookie with a name of the server's own
// does not pass.
func (o portOrigin) rewriteCookie(value string) (string, bool) {
	if isOwnCookie(value) {
		return "", false
	}
	parts := strings.Split(value, ";")
	kept := parts[:1]
	for _, attribute := range parts[1:] {
		name, path, _ := strings.Cut(attribute, "=")
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "domain":
			continue
		case "path":
			if path = strings.TrimSpace(path); strings.HasPrefix(path, "/") {
				attribute = name + "=" + o.prefix + path
			}
		}
		kept = append(kept, attribute)
	}
	return strings.Join(kept, ";"), true
}
