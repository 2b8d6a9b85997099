package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
)

// against makes a client of a handler, which does not wait between attempts.
func against(t *testing.T, handler http.HandlerFunc, opts ...Option) *Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return clientOf(t, server.URL, opts...)
}

func clientOf(t *testing.T, url string, opts ...Option) *Client {
	t.Helper()
	c, err := New(url, "asbx_secret", opts...)
	if err != nil {
		t.Fatal(err)
	}
	c.pause = func(ctx context.Context, _ int, _ time.Duration) error { return ctx.Err() }
	t.Cleanup(c.http.CloseIdleConnections)
	return c
}

// answer and drain leave it to the client to notice what went wrong.
func answer(w io.Writer, body string) { _, _ = io.WriteString(w, body) }

func drain(r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }

func TestEveryCodeComesBackAsItWas(t *testing.T) {
	for _, code := range agentsandbox.Codes() {
		t.Run(string(code), func(t *testing.T) {
			want := agentsandbox.Error{
				Code: code, Message: "A sentence.", RequestID: "req-7", RetryAfterSeconds: 3,
				Details: []agentsandbox.Detail{{Field: "code", Message: "is bad."}},
			}
			c := against(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", "3")
				w.WriteHeader(edge.Status(code))
				err := json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{
					"code": want.Code, "message": want.Message, "details": want.Details, "request_id": want.RequestID,
				}})
				if err != nil {
					t.Error(err)
				}
			})
			_, err := c.Execute(t.Context(), agentsandbox.ExecuteRequest{Code: "x"})
			var got *agentsandbox.Error
			if !errors.As(err, &got) || got.Error() != want.Error() || got.RequestID != want.RequestID ||
				got.RetryAfterSeconds != 3 || !slices.Equal(got.Details, want.Details) {
				t.Errorf("got %#v", err)
			}
		})
	}
}

// TestAStatusAloneIsTakenForACodeOfIt compares what the client makes of a status
// without a body with the table of the server.
func TestAStatusAloneIsTakenForACodeOfIt(t *testing.T) {
	for _, code := range agentsandbox.Codes() {
		status := edge.Status(code)
		guess := codeOfStatus(status)
		if code == agentsandbox.CodePortNotReached {
			// Without a word of ours, a 502 is that of a proxy which cannot reach the server.
			status = edge.Status(agentsandbox.CodeUnavailable)
		}
		if edge.Status(guess) != status {
			t.Errorf("%s is answered with %d, which is taken for %s", code, edge.Status(code), guess)
		}
	}
}

func TestAnswersOfAnotherServerAreNamed(t *testing.T) {
	for name, test := range map[string]struct {
		status int
		header http.Header
		body   string
		code   agentsandbox.Code
		want   string
	}{
		"a page":                   {200, nil, "<html>", agentsandbox.CodeInternal, "not of this API"},
		"JSON of something else":   {200, nil, `{"hello": 1}`, agentsandbox.CodeInternal, "return_code is missing"},
		"an answer cut short":      {200, nil, `{"execution_id": "exe_1", "return`, agentsandbox.CodeInternal, "cut short"},
		"no body":                  {200, nil, "", agentsandbox.CodeInternal, "cut short"},
		"a proxy's error":          {502, nil, "<html>bad gateway", agentsandbox.CodeUnavailable, "502 Bad Gateway"},
		"a missing page":           {404, nil, "404 page not found", agentsandbox.CodeRouteNotFound, "does the base URL name"},
		"a redirect":               {307, http.Header{"Location": {"https://other.example/v1/execute"}}, "", agentsandbox.CodeInternal, "points to https://other.example"},
		"a code of a later server": {422, nil, `{"error":{"code":"brand_new","message":"No."}}`, agentsandbox.CodeInvalidRequest, "No."},
	} {
		t.Run(name, func(t *testing.T) {
			var calls atomic.Int32
			c := against(t, func(w http.ResponseWriter, _ *http.Request) {
				calls.Add(1)
				for k, v := range test.header {
					w.Header()[k] = v
				}
				w.WriteHeader(test.status)
				answer(w, test.body)
			})
			_, err := c.Execute(t.Context(), agentsandbox.ExecuteRequest{Code: "x"})
			if agentsandbox.CodeOf(err) != test.code || !strings.Contains(fmt.Sprint(err), test.want) {
				t.Errorf("got %v, want code %s and %q", err, test.code, test.want)
			}
			want := int32(1)
			if test.status == 502 {
				want = 3 // with one key
			}
			if calls.Load() != want {
				t.Errorf("the code was sent %d times", calls.Load())
			}
		})
	}
}

func TestTheKeyDoesNotFollowARedirect(t *testing.T) {
	var leaked atomic.Bool
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { leaked.Store(true) }))
	defer other.Close()
	c := against(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, http.StatusFound) })
	if _, err := c.Files(t.Context(), agentsandbox.Page{}); err == nil || leaked.Load() {
		t.Errorf("error %v, followed: %v", err, leaked.Load())
	}
}

func TestNothingIsDoneTwice(t *testing.T) {
	fail := map[string]http.HandlerFunc{
		"503": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) },
		"429": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(429) },
		"502": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502) },
		"cut": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"500": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) },
	}
	ctx := context.Background()
	mine := WithIdempotencyKey(ctx, "mine")
	run := agentsandbox.ExecuteRequest{Code: "x"}
	upload := agentsandbox.FileUpload{Filename: "a"}
	const always, refused, never = "429 502 503 cut", "429 503", ""
	for name, test := range map[string]struct {
		call     func(c *Client) error
		repeated string // the failures after which it is sent again
		key      string // "": none, "made": one that the client makes
	}{
		"read":         {func(c *Client) error { _, err := c.Session(ctx, "ses_1"); return err }, always, ""},
		"run":          {func(c *Client) error { _, err := c.Execute(ctx, run); return err }, always, "made"},
		"run, my key":  {func(c *Client) error { _, err := c.Execute(mine, run); return err }, always, "mine"},
		"create":       {func(c *Client) error { _, err := c.CreateSession(ctx, agentsandbox.SessionRequest{}); return err }, always, "made"},
		"delete":       {func(c *Client) error { return c.DeleteSession(ctx, "ses_1") }, refused, ""},
		"upload":       {func(c *Client) error { _, err := c.UploadFile(ctx, upload, strings.NewReader("a")); return err }, never, ""},
		"my upload":    {func(c *Client) error { _, err := c.UploadFile(mine, upload, strings.NewReader("a")); return err }, never, "mine"},
		"write a path": {func(c *Client) error { _, err := c.WritePath(ctx, "ses_1", "/a", strings.NewReader("a")); return err }, never, ""},
	} {
		for failure, handler := range fail {
			t.Run(failure+" "+name, func(t *testing.T) {
				var mu sync.Mutex
				var keys []string
				c := against(t, func(w http.ResponseWriter, r *http.Request) {
					mu.Lock()
					keys = append(keys, r.Header.Get("Idempotency-Key"))
					mu.Unlock()
					handler(w, r)
				})
				if test.call(c) == nil {
					t.Error("no error")
				}
				want := 1
				if strings.Contains(test.repeated, failure) {
					want = 3
				}
				mu.Lock() // the end of a connection that was cut orders nothing
				defer mu.Unlock()
				first := keys[0]
				if len(keys) != want || len(slices.Compact(keys)) != 1 {
					t.Errorf("sent with the keys %q, want %d times the same", keys, want)
				}
				if made := strings.HasPrefix(first, "go_"); made != (test.key == "made") || !made && first != test.key {
					t.Errorf("the key is %q, want %q", first, test.key)
				}
			})
		}
	}
}

func TestOneAttemptNeedsNoKey(t *testing.T) {
	c := against(t, func(w http.ResponseWriter, r *http.Request) {
		if key := r.Header.Get("Idempotency-Key"); key != "" {
			t.Errorf("the key is %q", key)
		}
		w.WriteHeader(503)
	}, WithAttempts(1))
	if _, err := c.Execute(t.Context(), agentsandbox.ExecuteRequest{Code: "x"}); !errors.Is(err, agentsandbox.CodeUnavailable) {
		t.Errorf("got %v", err)
	}
}

func TestAReadSucceedsOnTheSecondAttempt(t *testing.T) {
	var n atomic.Int32
	c := against(t, func(w http.ResponseWriter, _ *http.Request) {
		if n.Add(1) == 1 {
			w.WriteHeader(503)
			return
		}
		answer(w, `{"session_id":"ses_1"}`)
	})
	if s, err := c.Session(t.Context(), "ses_1"); err != nil || s.ID != "ses_1" {
		t.Errorf("got %v, %v", s, err)
	}
}

func TestConnectingIsRepeatedForEveryCall(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		drain(r)
		answer(w, `{"execution_id":"exe_1","file_id":"fil_1","return_code":0}`)
	}))
	defer server.Close()
	dials := 0
	transport := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if dials++; dials%2 == 1 {
			return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}, DisableKeepAlives: true}
	c := clientOf(t, server.URL, WithTransport(transport))
	if _, err := c.Execute(t.Context(), agentsandbox.ExecuteRequest{Code: "x"}); err != nil {
		t.Errorf("run: %v", err)
	}
	if _, err := c.UploadFile(t.Context(), agentsandbox.FileUpload{Filename: "a"}, strings.NewReader("a")); err != nil {
		t.Errorf("upload: %v", err)
	}
	if dials != 4 {
		t.Errorf("%d connections were tried", dials)
	}
}

func TestNoServer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	c := clientOf(t, "http://"+listener.Addr().String())
	_, err = c.Execute(t.Context(), agentsandbox.ExecuteRequest{Code: "x"})
	if agentsandbox.CodeOf(err) != agentsandbox.CodeUnavailable || !errors.Is(err, syscall.ECONNREFUSED) ||
		!strings.Contains(err.Error(), "cannot be reached") {
		t.Errorf("got %v", err)
	}
}

func TestTheEndOfTheContextIsTheCallersError(t *testing.T) {
	began := make(chan struct{})
	gone := make(chan struct{})
	c := against(t, func(_ http.ResponseWriter, r *http.Request) {
		drain(r)
		close(began)
		<-r.Context().Done()
		close(gone)
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-began; cancel() }()
	_, err := c.Execute(ctx, agentsandbox.ExecuteRequest{Code: "x"})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	<-gone // the server is told, and ends the code
}

func TestWhatJSONCannotCarryIsRefused(t *testing.T) {
	c := against(t, func(http.ResponseWriter, *http.Request) { t.Error("a request was sent") })
	bad := "\xff"
	for name, call := range map[string]func() error{
		"code": func() error { _, err := c.Execute(t.Context(), agentsandbox.ExecuteRequest{Code: bad}); return err },
		"env_vars.A": func() error {
			_, err := c.Execute(t.Context(), agentsandbox.ExecuteRequest{Code: "x", Env: map[string]string{"A": bad}})
			return err
		},
		"env_vars": func() error {
			_, err := c.CreateSession(t.Context(), agentsandbox.SessionRequest{Env: map[string]string{bad: "1"}})
			return err
		},
		"metadata.k": func() error {
			_, err := c.CreateSession(t.Context(), agentsandbox.SessionRequest{Metadata: map[string]string{"k": bad}})
			return err
		},
		"name": func() error { _, err := c.CreateKey(t.Context(), agentsandbox.KeyRequest{Name: bad}); return err },
		"file": func() error {
			_, err := c.UploadFile(t.Context(), agentsandbox.FileUpload{Filename: bad}, strings.NewReader(""))
			return err
		},
	} {
		var e *agentsandbox.Error
		if err := call(); !errors.As(err, &e) || e.Code != agentsandbox.CodeInvalidRequest || e.Details[0].Field != name {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestIdsCannotLeadToAnotherRoute(t *testing.T) {
	var got string
	c := against(t, func(w http.ResponseWriter, r *http.Request) { got = r.RequestURI; w.WriteHeader(404) })
	for id, want := range map[string]string{
		"../files/fil_1": "/v1/sessions/..%2Ffiles%2Ffil_1",
		"..":             "/v1/sessions/%2E%2E",
		"a?b#c":          "/v1/sessions/a%3Fb%23c",
		"a b\n":          "/v1/sessions/a%20b%0A",
	} {
		if _, err := c.Session(t.Context(), id); err == nil || got != want {
			t.Errorf("%q was asked for as %s, want %s", id, got, want)
		}
	}
}

func TestABrokenBodyBreaksTheUploadOff(t *testing.T) {
	whole := make(chan error, 1)
	c := against(t, func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		whole <- err
	})
	broken := errors.New("the disk broke")
	body := io.MultiReader(strings.NewReader("half"), failingReader{broken})
	_, err := c.UploadFile(t.Context(), agentsandbox.FileUpload{Filename: "a"}, body)
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if <-whole == nil {
		t.Error("the server saw a whole body")
	}
}

type failingReader struct{ err error }

func (f failingReader) Read([]byte) (int, error) { return 0, f.err }

func TestARefusedUploadIsNotSent(t *testing.T) {
	c := against(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) })
	body := &countingReader{}
	_, err := c.UploadFile(t.Context(), agentsandbox.FileUpload{Filename: "a"}, body)
	if agentsandbox.CodeOf(err) != agentsandbox.CodeUnauthorized || body.n.Load() != 0 {
		t.Errorf("got %v after %d bytes", err, body.n.Load())
	}
}

// countingReader never ends.
type countingReader struct{ n atomic.Int64 }

func (r *countingReader) Read(p []byte) (int, error) { r.n.Add(int64(len(p))); return len(p), nil }

func TestADownloadCutShortIsAnError(t *testing.T) {
	c := against(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		answer(w, "half")
	})
	_, body, err := c.OpenFile(t.Context(), "fil_1")
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if _, err := io.ReadAll(body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
}

func TestBytesAreAskedForAsTheyAre(t *testing.T) {
	c := against(t, func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Accept-Encoding"); got != "" {
			t.Errorf("asked for %s: the length of the answer would not be that of the file", got)
		}
		answer(w, "text")
	})
	file, body, err := c.OpenFile(t.Context(), "fil_1")
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if file.SizeBytes != 4 {
		t.Errorf("the size is %d", file.SizeBytes)
	}
}

func TestBaseURL(t *testing.T) {
	for _, url := range []string{"", "127.0.0.1:8000", "ftp://host", "http://", "http://host?x=1", "http://user:pw@host", "http://[::1"} {
		if _, err := New(url, "k"); err == nil || strings.Contains(err.Error(), "pw") {
			t.Errorf("%q: %v", url, err)
		}
	}
	if c, err := New("https://host/prefix/", "k"); err != nil || c.BaseURL() != "https://host/prefix" {
		t.Errorf("got %v, %v", c, err)
	}
	if _, err := New("http://host", "key\n"); err == nil || strings.Contains(err.Error(), "key\n") {
		t.Errorf("a key with a line end: %v", err)
	}
}
