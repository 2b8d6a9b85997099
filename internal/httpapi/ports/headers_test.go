package ports

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

var testOrigin = portOrigin{prefix: "/p/TOKEN", port: 8000, hosts: []string{"Box.example:8443", "box.example:8443"}}

// TestEveryHeaderWithAnAddressIsRewritten: what a page or a library goes to next.
func TestEveryHeaderWithAnAddressIsRewritten(t *testing.T) {
	for name, value := range map[string]string{
		"Location": "/x", "Content-Location": "/x", "Hx-Location": "/x", "Hx-Redirect": "/x", "Hx-Push-Url": "/x", "Hx-Replace-Url": "/x",
		"Refresh": "0; url=/x", "Link": "</x>; rel=next",
	} {
		to := http.Header{}
		testOrigin.passHeader(to, http.Header{name: {value}})
		if want := strings.Replace(value, "/x", "/p/TOKEN/x", 1); to.Get(name) != want {
			t.Errorf("%s: %q, want %q", name, to.Get(name), want)
		}
	}
	for name, value := range map[string]string{"Hx-Location": `{"path": "x"}`, "Hx-Push-Url": "false"} {
		if got, _ := testOrigin.passValue(name, value); got != value {
			t.Errorf("%s: %q became %q", name, value, got)
		}
	}
}

func TestAddressesOfTheServerItselfLeadBelowThePort(t *testing.T) {
	for address, want := range map[string]string{
		"/":                                "/p/TOKEN/",
		"/a/b?c=d;e#f":                     "/p/TOKEN/a/b?c=d;e#f",
		"/a//b":                            "/p/TOKEN/a//b",
		`/\evil.example/x`:                 `/p/TOKEN/\evil.example/x`,
		"http://box.example:8443/x?y":      "/p/TOKEN/x?y",
		"HTTPS://BOX.example:8443/x":       "/p/TOKEN/x",
		"http://box.example/x":             "/p/TOKEN/x",
		"http://box.example:8443":          "/p/TOKEN/",
		"http://box.example:8443?q=1":      "/p/TOKEN/?q=1",
		"http://box.example:8443#f":        "/p/TOKEN/#f",
		"//box.example:8443/x":             "/p/TOKEN/x",
		"http://localhost/x":               "/p/TOKEN/x",
		"http://localhost:8000/x":          "/p/TOKEN/x",
		"http://localhost:8443/x":          "/p/TOKEN/x",
		"http://127.0.0.1:8000/x":          "/p/TOKEN/x",
		"//127.0.0.1:8000":                 "/p/TOKEN/",
		"http://[::1]:8000/x":              "/p/TOKEN/x",
		"http://0.0.0.0:8000/x":            "/p/TOKEN/x",
		"http://box.example:8000/x":        "/p/TOKEN/x",
		"/p/TOKEN/x":                       "/p/TOKEN/x",
		"http://box.example:8443/p/TOKEN/": "/p/TOKEN/",
		// Not ours, or relative.
		"":                                  "",
		"next":                              "next",
		"../up?x":                           "../up?x",
		"?x":                                "?x",
		"#f":                                "#f",
		"http://localhost:9000/x":           "http://localhost:9000/x",
		"https://other.example/x":           "https://other.example/x",
		"//other.example/x":                 "//other.example/x",
		"http://box.example:8443@evil/x":    "http://box.example:8443@evil/x",
		"http://u@box.example:8443/x":       "http://u@box.example:8443/x",
		"http://box.example.evil:8443/x":    "http://box.example.evil:8443/x",
		"http://127.0.0.2:8000/x":           "http://127.0.0.2:8000/x",
		"ftp://localhost/x":                 "ftp://localhost/x",
		"mailto:a@localhost":                "mailto:a@localhost",
		"javascript://localhost/%0aalert()": "javascript://localhost/%0aalert()",
	} {
		if got := testOrigin.rewrite(address); got != want {
			t.Errorf("%q becomes %q, not %q", address, got, want)
		}
	}
	plain := portOrigin{prefix: "/p/T", port: 80, hosts: []string{"box.example"}}
	for _, address := range []string{"https://box.example:443/x", "http://box.example:80/x", "http://box.example/x"} {
		if got := plain.rewrite(address); got != "/p/T/x" {
			t.Errorf("%q becomes %q", address, got)
		}
	}
}

func TestAddressesInsideOfHeaders(t *testing.T) {
	for _, c := range []struct{ name, value, want string }{
		{"Location", "http://localhost:8000/items/", "/p/TOKEN/items/"},
		{"Content-Location", "/doc.json", "/p/TOKEN/doc.json"},
		{"Refresh", "5", "5"},
		{"Refresh", "5; url=/next", "5; url=/p/TOKEN/next"},
		{"Refresh", "0;URL='http://127.0.0.1:8000/a;b'", "0;URL='/p/TOKEN/a;b'"},
		{"Refresh", `3, url = "/x" `, `3, url = "/p/TOKEN/x" `},
		{"Refresh", "1; /x", "1; /p/TOKEN/x"},
		{"Refresh", "1;url=https://other.example/", "1;url=https://other.example/"},
		{"Refresh", "1;url='/x", "1;url='/p/TOKEN/x"},
		{"Link", `</style.css>; rel=preload; as=style`, `</p/TOKEN/style.css>; rel=preload; as=style`},
		{"Link", `<http://localhost:8000/?page=2>; rel="next", <https://other.example/>; title="a</b>\"<c"; rel="x"`, `</p/TOKEN/?page=2>; rel="next", <https://other.example/>; title="a</b>\"<c"; rel="x"`},
		{"Link", `<unclosed`, `<unclosed`},
	} {
		if got, ok := testOrigin.passValue(c.name, c.value); got != c.want || !ok {
			t.Errorf("%s: %q becomes %q, not %q", c.name, c.value, got, c.want)
		}
	}
}

func TestCookiesOfAnAppPassAsTheyAreWritten(t *testing.T) {
	for cookie, want := range map[string]string{
		"a=1": "a=1",
		"a=1; Path=/; Domain=example.com; HttpOnly":   "a=1; Path=/p/TOKEN/; HttpOnly",
		"a=1;path=/app;SameSite=None;Partitioned":     "a=1;path=/p/TOKEN/app;SameSite=None;Partitioned",
		`prefs={"a":1,"b":[2,"x y"]}; Priority=High`:  `prefs={"a":1,"b":[2,"x y"]}; Priority=High`,
		`q="quoted, with comma"; Max-Age=5; Unknown`:  `q="quoted, with comma"; Max-Age=5; Unknown`,
		"name=zażółć gęślą; Path=/":                   "name=zażółć gęślą; Path=/p/TOKEN/",
		"arr[]=1; DOMAIN = .example.com; Path = /x y": "arr[]=1; Path =/p/TOKEN/x y",
		"empty=; Path=":                   "empty=; Path=",
		"noequals; Path=relative":         "noequals; Path=relative",
		"agentsandbox_key=stolen; Path=/": "",
		"  AgentSandbox=x":                "",
		"=agentsandbox=nameless":          "",
	} {
		got, ok := testOrigin.rewriteCookie(cookie)
		if got != want || ok != (want != "") {
			t.Errorf("%q becomes %q, %v; want %q", cookie, got, ok, want)
		}
	}
	for _, c := range []struct{ sent, want []string }{
		{[]string{`a="x, y"; prefs={"a":1}; arr[]=ż;  b`}, []string{`a="x, y"; prefs={"a":1}; arr[]=ż;  b`}},
		{[]string{"x=1; Agentsandbox_session=2; y=3", "agentsandbox=4"}, []string{"x=1; y=3"}},
		{[]string{"agentsandbox=4; z=1"}, []string{"z=1"}},
		{[]string{"agentsandboxed"}, nil},
		{nil, nil},
	} {
		if got := withoutOwnCookies(c.sent); !slices.Equal(got, c.want) {
			t.Errorf("%q becomes %q, not %q", c.sent, got, c.want)
		}
	}
}

func TestTheTokenDoesNotReachTheApp(t *testing.T) {
	in := http.Header{
		"Referer": {"https://box.example/p/TOKEN/a?b"}, "X-Original-Url": {"/p/TOKEN"}, "X-Forwarded-Prefix": {"/p/TOKEN"},
		"Destination": {"http://box.example/p/TOKEN/to"}, "Connection": {"keep-alive, X-Hop", "Upgrade"}, "Upgrade": {"websocket"}, "X-Hop": {"1"},
		"X-Kept": {"a;b%", "c"}, "Te": {"trailers"}, "Proxy-Authorization": {"x"}, "Authorization": {"Bearer x"},
	}
	out := headerForPort(in, "/p/TOKEN")
	for name, want := range map[string][]string{
		"Referer": {"https://box.example/a?b"}, "X-Original-Url": {"/"}, "X-Forwarded-Prefix": nil, "Destination": {"http://box.example/to"},
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "X-Hop": nil, "X-Kept": {"a;b%", "c"}, "Te": nil, "Proxy-Authorization": nil,
		"Authorization": nil, "User-Agent": {""},
	} {
		if got := out[name]; !slices.Equal(got, want) {
			t.Errorf("%s: %q, not %q", name, got, want)
		}
	}
	if in.Get("Referer") != "https://box.example/p/TOKEN/a?b" {
		t.Error("the request itself was changed")
	}
}

func TestWhatSpeaksForTheOriginDoesNotPass(t *testing.T) {
	from := http.Header{"Content-Security-Policy": {"default-src 'self'"}, "Content-Type": {"text/html"}, "Access-Control-Allow-Origin": {"*"}, "etag": {`"1"`}}
	for _, name := range []string{
		"NEL", "Report-To", "Reporting-Endpoints", "Accept-CH", "Critical-CH", "Accept-CH-Lifetime", "Clear-Site-Data", "Strict-Transport-Security",
		"Alt-Svc", "Service-Worker-Allowed", "Public-Key-Pins", "Expect-CT", "Origin-Agent-Cluster", "Origin-Trial", "Set-Login", "Supports-Loading-Mode",
		"Observe-Browsing-Topics", "Attribution-Reporting-Register-Source", "Speculation-Rules", "Document-Policy", "WWW-Authenticate", "Proxy-Authenticate",
		"X-Accel-Redirect", "X-Sendfile", "X-Request-Id", "Trailer", "Upgrade", "Connection", "Keep-Alive", "X-Made-Up", "Referrer-Policy",
	} {
		from.Set(name, "x")
	}
	to := http.Header{}
	testOrigin.passHeader(to, from)
	want := http.Header{
		"Content-Security-Policy": {"default-src 'self'", portSandbox}, "Content-Type": {"text/html"}, "Access-Control-Allow-Origin": {"*"}, "Etag": {`"1"`},
		"Referrer-Policy": {"no-referrer"}, "X-Content-Type-Options": {"nosniff"},
	}
	for name := range to {
		if !slices.Equal(to[name], want[name]) {
			t.Errorf("%s: %q passes", name, to[name])
		}
	}
	if len(to) != len(want) {
		t.Errorf("%v, not %v", to, want)
	}
}
