package v1

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
)

// newPortServer serves the API, and one app behind the token "good".
func newPortServer(t *testing.T, app http.HandlerFunc, changes ...func(*setup)) (*server, *httptest.Server) {
	t.Helper()
	inside := httptest.NewServer(app)
	t.Cleanup(inside.Close)
	var s *server
	s = newTestServer(t, edge.Limits{}, append(changes, func(o *setup) {
		o.ports.Dial = func(ctx context.Context, token string) (net.Conn, uint16, error) { return s.dialToken(ctx, token) }
	})...)
	s.dialToken = func(ctx context.Context, token string) (net.Conn, uint16, error) {
		switch token {
		case "good":
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", inside.Listener.Addr().String())
			return c, 8000, err
		case "deaf":
			return nil, 0, &agentsandbox.Error{Code: agentsandbox.CodePortNotReached, Message: "Nobody listens.", Err: errors.New("cause")}
		}
		return nil, 0, agentsandbox.Errorf(agentsandbox.CodePortNotFound, "This URL is of no open port.")
	}
	outside := httptest.NewServer(s)
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
	answer := get(t, outside.URL+"/p/good/a//b%2Fc/../d?q=%41;b=%zz&;", "Authorization", "Bearer key", "Cookie", "x=1; Agentsandbox_session=2", "X-Api-Key", "key", "X-Kept", "1")
	if seen == nil || seen.RequestURI != "/a//b%2Fc/../d?q=%41;b=%zz&;" {
		t.Fatalf("asked for %+v", seen)
	}
	if seen.Header.Get("Authorization")+seen.Header.Get("X-Api-Key") != "" || seen.Header.Get("Cookie") != "x=1" || seen.Header.Get("X-Kept") != "1" {
		t.Errorf("headers %v", seen.Header)
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
	s, outside := newPortServer(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "from "+r.Host) },
		func(o *setup) { o.ports.Host = "Ports.example.org:8443" })
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
	if got := s.portURL(r, "/p/x"); got != "http://Ports.example.org:8443/p/x" {
		t.Error(got)
	}
}

// rawAnswers are answers of hostile servers, and what becomes of each: a status, 0
// for a connection that is cut after its header.
var rawAnswers = map[string]struct {
	sent string
	want int
}{
	"a 101 that nobody asked for":         {"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 502},
	"a 101 without an Upgrade":            {"HTTP/1.1 101 Switching Protocols\r\n\r\n", 502},
	"a 101 with a body":                   {"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\nhello", 502},
	"status 000":                          {"HTTP/1.1 000 X\r\n\r\n", 502},
	"status 099":                          {"HTTP/1.1 099 X\r\nContent-Length: 0\r\n\r\n", 502},
	"status 1000":                         {"HTTP/1.1 1000 X\r\nContent-Length: 0\r\n\r\n", 502},
	"status -1":                           {"HTTP/1.1 -10 X\r\nContent-Length: 0\r\n\r\n", 502},
	"HTTP/0.9":                            {"<html>hello</html>", 502},
	"the preface of HTTP/2":               {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 502},
	"an end at once":                      {"", 502},
	"half a header":                       {"HTTP/1.1 200 OK\r\nContent-Ty", 502},
	"a header without end":                {"HTTP/1.1 200 OK\r\n" + strings.Repeat("X: "+strings.Repeat("y", 1000)+"\r\n", 100), 502},
	"a line without end":                  {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("y", 100_000), 502},
	"a flood of 1xx":                      {strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 10_000) + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 502},
	"some 1xx":                            {"HTTP/1.1 103 Early Hints\r\nNEL: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n", 204},
	"two lengths":                         {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", 502},
	"a negative length":                   {"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello", 502},
	"a length that is too long":           {"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello", 0},
	"a length that is too short":          {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhello", 200},
	"bad sizes of chunks":                 {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nx", 0},
	"chunks that end in the middle":       {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", 0},
	"an encoding that nobody knows":       {"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 502},
	"trailers":                            {"HTTP/1.1 200 OK\r\nTrailer: NEL\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nNEL: x\r\nStrict-Transport-Security: x\r\n\r\n", 200},
	"a body to the end of the connection": {"HTTP/1.0 200 OK\r\n\r\nhello", 200},
	"control characters in a header":      {"HTTP/1.1 200 OK\r\nContent-Type: a\x00b\r\nContent-Length: 0\r\n\r\n", 502},
}

func TestHostileAnswersOfAPort(t *testing.T) {
	for name, c := range rawAnswers {
		t.Run(name, func(t *testing.T) {
			s, outside := newPortServer(t, func(w http.ResponseWriter, _ *http.Request) {
				conn, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					return
				}
				_, _ = io.WriteString(conn, c.sent)
				_ = conn.(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, conn) // the other side hangs up
				_ = conn.Close()
			})
			dial := s.dialToken
			closed := make(chan struct{})
			s.dialToken = func(ctx context.Context, token string) (net.Conn, uint16, error) {
				conn, port, err := dial(ctx, token)
				return &closing{Conn: conn, closed: closed}, port, err
			}
			conn := raw(t, outside, "GET /p/good/ HTTP/1.1\r\nHost: x\r\n\r\n")
			answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			body, err := io.ReadAll(answer.Body)
			switch {
			case c.want == 0:
				if answer.StatusCode != 200 || err == nil {
					t.Errorf("%d %q: half an answer looks whole", answer.StatusCode, body)
				}
			case answer.StatusCode != c.want || err != nil:
				t.Errorf("%d %q, %v; want %d", answer.StatusCode, body, err, c.want)
			}
			if len(answer.Trailer) > 0 || answer.Header.Get("NEL") != "" {
				t.Errorf("%v and %v pass", answer.Header, answer.Trailer)
			}
			<-closed // or the test hangs
			outside.Close()
			if log := s.logged.String(); strings.Contains(log, "panic") || strings.Contains(log, "stack") {
				t.Error(log)
			}
		})
	}
}

// closing says that it was closed.
type closing struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

func (c *closing) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func TestA101IsOfTheProtocolThatWasAskedFor(t *testing.T) {
	for answered, want := range map[string]int{"websocket": 101, "WebSocket": 101, "h2c": 502, "": 502, "websocket, h2c": 502} {
		s, outside := newPortServer(t, func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: "+answered+"\r\nNEL: x\r\nSec-WebSocket-Protocol: chat\r\n\r\n")
			_ = conn.Close()
		})
		conn := raw(t, outside, "GET /p/good/ HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, upgrade\r\nUpgrade: websocket\r\n\r\n")
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != want || answer.Header.Get("NEL") != "" || want == 101 && answer.Header.Get("Sec-Websocket-Protocol") != "chat" {
			t.Errorf("%q: %d %v, want %d", answered, answer.StatusCode, answer.Header, want)
		}
		conn.Close()
		outside.Close()
		eventuallyLogs(t, s, fmt.Sprintf(`"status":%d`, want))
	}
}

// eventuallyLogs waits for a line: a connection that was taken over outlives its
// server.
func eventuallyLogs(t *testing.T, s *server, text string) {
	t.Helper()
	deadline := time.After(patience)
	for !strings.Contains(s.logged.String(), text) {
		select {
		case <-deadline:
			t.Fatalf("%s is not in %s", text, s.logged.String())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// TestTheEndOfAConnectionInsideIsNotHeldUp: a client that takes nothing and sends
// nothing does not hold a connection whose other end was ended.
func TestTheEndOfAConnectionInsideIsNotHeldUp(t *testing.T) {
	s, outside := newPortServer(t, nil)
	if w := s.do(t, "sandbox", "POST", "/v1/sessions", "{}"); w.Code != 201 {
		t.Fatal(w.Body)
	}
	ended := make(chan struct{})
	s.fake.dialled = func(context.Context) (net.Conn, error) {
		there, here := net.Pipe()
		go func() {
			_, _ = io.Copy(here, endless{}) // more than the client takes
		}()
		return &endedConn{there, ended}, nil
	}
	dialUpgrade(t, outside, "/v1/sessions/"+s.fake.sessions[0].ID+"/ports/7/tunnel", tunnelProtocol, "sandbox")
	close(ended)
	eventuallyLogs(t, s, `"status":101`)
}

type endedConn struct {
	net.Conn
	ended chan struct{}
}

func (c *endedConn) Done() <-chan struct{} { return c.ended }

func TestTheURLOfAPortIsAsClientsReachIt(t *testing.T) {
	for _, c := range []struct {
		public, ports string
		headers       []string
		want          string
	}{
		{"", "", nil, "http://api.example/p/TOKEN/"},
		{"", "", []string{"X-Forwarded-Proto", "https"}, "https://api.example/p/TOKEN/"},
		{"", "", []string{"X-Forwarded-Proto", "HTTPS, http"}, "https://api.example/p/TOKEN/"},
		{"", "", []string{"Forwarded", `for=192.0.2.1;Proto="https", proto=http`}, "https://api.example/p/TOKEN/"},
		{"", "", []string{"X-Forwarded-Proto", "javascript"}, "http://api.example/p/TOKEN/"},
		{"https://box.example:8443", "", nil, "https://box.example:8443/p/TOKEN/"},
		{"http://box.example", "", []string{"X-Forwarded-Proto", "https"}, "http://box.example/p/TOKEN/"},
		{"https://box.example", "ports.example", nil, "https://ports.example/p/TOKEN/"},
	} {
		s := newTestServer(t, edge.Limits{}, func(o *setup) { o.ports.Host, o.ports.PublicURL = c.ports, c.public })
		if w := s.do(t, "sandbox", "POST", "/v1/sessions", "{}"); w.Code != 201 {
			t.Fatal(w.Body)
		}
		r := httptest.NewRequest("POST", "http://api.example/v1/sessions/"+s.fake.sessions[0].ID+"/ports", strings.NewReader(`{"port":7}`))
		r.Header.Set("Authorization", "Bearer sandbox")
		for i := 0; i < len(c.headers); i += 2 {
			r.Header.Set(c.headers[i], c.headers[i+1])
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if !strings.Contains(w.Body.String(), `"url":"`+c.want+`"`) {
			t.Errorf("%+v: %s", c, w.Body)
		}
	}
}
