package httpapi

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/agentsandbox/agentsandbox"
)

// newPortServer serves the API, and one app behind the token "good".
func newPortServer(t *testing.T, app http.HandlerFunc) (*server, *httptest.Server) {
	t.Helper()
	inside := httptest.NewServer(app)
	t.Cleanup(inside.Close)
	s := newTestServer(t, Limits{})
	s.dialToken = func(ctx context.Context, token string) (net.Conn, error) {
		switch token {
		case "good":
			return (&net.Dialer{}).DialContext(ctx, "tcp", inside.Listener.Addr().String())
		case "deaf":
			return nil, &agentsandbox.Error{Code: agentsandbox.CodePortNotReached, Message: "Nobody listens.", Err: errors.New("cause")}
		}
		return nil, agentsandbox.Errorf(agentsandbox.CodePortNotFound, "This URL is of no open port.")
	}
	outside := httptest.NewServer(s.api)
	t.Cleanup(outside.Close)
	return s, outside
}

// got is an answer, read whole.
type got struct {
	status int
	header http.Header
	body   string
}

func get(t *testing.T, url string, headers ...string) got {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return got{resp.StatusCode, resp.Header, string(body)}
}

func TestAPortGetsRequestsWithoutWhatIsTheAPIs(t *testing.T) {
	var seen *http.Request
	_, outside := newPortServer(t, func(w http.ResponseWriter, r *http.Request) {
		seen = r
		w.Header().Set("Access-Control-Allow-Origin", "https://app.example")
		w.Header().Set("Service-Worker-Allowed", "/")
		w.Header().Set("Location", "/next")
		w.Header().Add("Set-Cookie", "a=1; Path=/; Domain=example.com; HttpOnly")
		w.Header().Add("Set-Cookie", "agentsandbox_key=stolen; Path=/")
		w.WriteHeader(http.StatusFound)
	})
	answer := get(t, outside.URL+"/p/good/a//b%2Fc/../d?q=%41", "Authorization", "Bearer key", "Cookie", "x=1; Agentsandbox_session=2", "X-Api-Key", "key", "X-Kept", "1")
	if seen == nil || seen.RequestURI != "/a//b%2Fc/../d?q=%41" {
		t.Fatalf("asked for %+v", seen)
	}
	if seen.Header.Get("Authorization")+seen.Header.Get("X-Api-Key") != "" || seen.Header.Get("Cookie") != "x=1" || seen.Header.Get("X-Kept") != "1" {
		t.Errorf("headers %v", seen.Header)
	}
	if got := seen.Header.Get("X-Forwarded-Prefix"); got != "/p/good" {
		t.Errorf("prefix %q", got)
	}
	if got := answer.header.Values("Set-Cookie"); len(got) != 1 || got[0] != "a=1; Path=/p/good/; HttpOnly" {
		t.Errorf("cookies %q", got)
	}
	if h := answer.header; h.Get("Location") != "/p/good/next" || h.Get("Service-Worker-Allowed") != "" ||
		!strings.HasPrefix(h.Get("Content-Security-Policy"), "sandbox ") || len(h.Values("X-Content-Type-Options")) != 1 {
		t.Errorf("headers %v", h)
	}
}

func TestAPortThatCannotBeReachedSaysSo(t *testing.T) {
	_, outside := newPortServer(t, func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_, _ = io.WriteString(c, "this is not HTTP\r\n\r\n")
			_ = c.Close()
		}
	})
	for path, want := range map[string]struct {
		status int
		code   agentsandbox.Code
	}{
		"/p/deaf/":     {502, agentsandbox.CodePortNotReached},
		"/p/good/":     {502, agentsandbox.CodePortNotReached},
		"/p/none/x":    {404, agentsandbox.CodePortNotFound},
		"/p//x":        {404, agentsandbox.CodePortNotFound},
		"/p/%67ood2/x": {404, agentsandbox.CodePortNotFound},
	} {
		a := get(t, outside.URL+path)
		if a.status != want.status || !strings.Contains(a.body, `"code":"`+string(want.code)+`"`) || strings.Contains(a.body, "cause") {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	if a := get(t, outside.URL+"/p/good?x=1"); a.status != 308 || a.header.Get("Location") != "/p/good/?x=1" {
		t.Errorf("without a slash: %d %s", a.status, a.header.Get("Location"))
	}
}

func TestAPortStreamsAndSwitchesProtocols(t *testing.T) {
	_, outside := newPortServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			_, _ = io.WriteString(w, "first")
			w.(http.Flusher).Flush()
			<-r.Context().Done() // the client has seen it, or the test hangs
			return
		}
		c, b, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.Copy(c, b)
	})
	resp, err := http.Get(outside.URL + "/p/good/stream")
	if err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 5)
	if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "first" {
		t.Errorf("%q, %v", first, err)
	}
	resp.Body.Close()

	c := dialUpgrade(t, outside, "/p/good/ws", "websocket", "")
	echoes(t, c, "")
}

func TestATunnelIsAConnection(t *testing.T) {
	s, outside := newPortServer(t, nil)
	w := s.do(t, "sandbox", "POST", "/v1/sessions", "{}")
	if w.Code != 201 {
		t.Fatal(w.Body)
	}
	path := "/v1/sessions/" + s.fake.sessions[0].ID + "/ports/7/tunnel"
	if a := get(t, outside.URL+path, "Authorization", "Bearer sandbox", "Connection", "Upgrade", "Upgrade", tunnelProtocol); a.status != 502 {
		t.Errorf("nobody listens: %d %s", a.status, a.body)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	s.fake.dialled = func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
	}
	echoes(t, dialUpgrade(t, outside, path, tunnelProtocol, "sandbox"), "early ")
}

// dialUpgrade asks for another protocol and returns what the connection became.
func dialUpgrade(t *testing.T, to *httptest.Server, path, protocol, key string) *upgraded {
	t.Helper()
	c, err := net.Dial("tcp", to.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	request := "GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: " + protocol + "\r\n"
	if key != "" {
		request += "Authorization: Bearer " + key + "\r\n"
	}
	if key != "" {
		request += "\r\nearly " // what follows at once is the port's, too
	} else {
		request += "\r\n"
	}
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != 101 {
		t.Fatalf("%+v, %v", resp, err)
	}
	resp.Body.Close() // a 101 has none
	return &upgraded{c.(*net.TCPConn), r}
}

type upgraded struct {
	*net.TCPConn
	r *bufio.Reader
}

// echoes sends, ends its direction, and gets everything back.
func echoes(t *testing.T, c *upgraded, sent string) {
	t.Helper()
	if _, err := io.WriteString(c, "and late"); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c.r); err != nil || string(got) != sent+"and late" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestPortsWithAHostOfTheirOwn(t *testing.T) {
	s, outside := newPortServer(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "from "+r.Host) })
	s.portsHost = "Ports.example.org:8443"
	api := strings.TrimPrefix(outside.URL, "http://")
	for _, c := range []struct {
		host, path string
		status     int
	}{
		{api, "/healthz", 200},
		{api, "/p/good/x", 404},
		{"ports.example.org", "/p/good/x", 200},
		{"ports.example.org:8443", "/p/good/x", 200},
		{"PORTS.example.org.:1", "/p/good/x", 200},
		{"ports.example.org", "/p/none/x", 404},
		{"ports.example.org", "/healthz", 404},
		{"ports.example.org", "/v1/sessions", 404},
		{"ports.example.org", "/docs", 404},
		{"ports.example.org", "/openapi.json", 404},
		{"ports.example.org", "/", 404},
		{"ports.example.org", "//p/good/x", 404},
		{"x.ports.example.org", "/p/good/x", 404},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, outside.URL+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = c.host
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.status {
			t.Errorf("%s%s: %d, want %d", c.host, c.path, resp.StatusCode, c.status)
		}
	}
	r := httptest.NewRequest(http.MethodGet, "/v1/sessions", nil)
	if got := s.portsHost.authority(r); got != "Ports.example.org:8443" {
		t.Error(got)
	}
}
