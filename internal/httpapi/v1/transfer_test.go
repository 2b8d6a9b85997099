package v1

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"strings"
	"testing"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
)

// form builds a multipart body out of headers and contents, in turn.
func form(t testing.TB, parts ...string) (body, contentType string) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for i := 0; i < len(parts); i += 2 {
		header := textproto.MIMEHeader{}
		for line := range strings.SplitSeq(parts[i], "\n") {
			name, value, _ := strings.Cut(line, ": ")
			header.Set(name, value)
		}
		p, err := w.CreatePart(header)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(p, parts[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String(), w.FormDataContentType()
}

func TestUpload(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	for _, c := range []struct{ disposition, mediaType, wantName, wantType string }{
		{`form-data; name="file"; filename="a.csv"`, "text/csv", "a.csv", "text/csv"},
		{`form-data; name="file"; filename="../../x/ünï côde.txt"`, "text/plain", "ünï côde.txt", "text/plain"},
		{`form-data; name="file"; filename*=utf-8''%C3%BCn%C3%AF.txt`, "text/plain", "ünï.txt", "text/plain"},
		{`form-data; name=file; filename="/tmp/up/data.bin"`, "application/x-thing", "data.bin", "application/x-thing"},
		{`form-data; name="file"; filename="C:\dir\win.txt"`, "text/plain; charset=UTF-8", "win.txt", "text/plain; charset=UTF-8"},
		{`form-data; name="file"; filename="q\"uote.txt"`, "text/plain", `q"uote.txt`, "text/plain"},
		{`form-data; name="file"; filename="a"`, "", "a", "text/csv"}, // the fake's guess
		{`form-data; name="file"; filename="a"`, "nonsense", "a", "application/octet-stream"},
		{`form-data; name="file"; filename="a"`, "*/*", "a", "application/octet-stream"},
		{`form-data; name="file"; filename="a"`, "text/plain; x=" + strings.Repeat("y", 300), "a", "application/octet-stream"},
	} {
		header := "Content-Disposition: " + c.disposition
		if c.mediaType != "" {
			header += "\nContent-Type: " + c.mediaType
		}
		body, contentType := form(t, header, "a,b\r\n--x\r\n")
		got := decodeAnswer[fileInfo](t, s.do(t, "sandbox", "POST", "/v1/files", body, "Content-Type", contentType), 201)
		if got.Filename != c.wantName || got.MIMEType != c.wantType || got.SessionID != nil || got.ExecutionID != nil {
			t.Errorf("%s, %s: %+v", c.disposition, c.mediaType, got)
		}
		if stored := s.fake.contents[got.FileID]; string(stored) != "a,b\r\n--x\r\n" {
			t.Errorf("stored %q", stored)
		}
	}
	got := decodeAnswer[fileInfo](t, s.do(t, "sandbox", "POST", "/v1/files?session_id="+aSession, uploadBody, "Content-Type", uploadType), 201)
	if got.SessionID == nil || *got.SessionID != aSession {
		t.Errorf("%+v", got)
	}
	page := decodeAnswer[fileList](t, s.do(t, "read", "GET", "/v1/files?limit=2&offset=1", nil), 200)
	if len(page.Files) != 2 || page.Total != len(s.fake.files) || page.Limit != 2 || page.Offset != 1 {
		t.Errorf("%+v", page.PageInfo)
	}
}

func TestBadUploads(t *testing.T) {
	s := newTestServer(t, edge.Limits{UploadBytes: 1000})
	file := func(name, contents string) []string {
		return []string{`Content-Disposition: form-data; name="file"; filename="` + name + `"`, contents}
	}
	other := `Content-Disposition: form-data; name="other"`
	for name, c := range map[string]struct {
		parts  []string
		status int
		field  string
	}{
		"no part":           {nil, 422, "file"},
		"another part":      {[]string{`Content-Disposition: form-data; name="wrong"; filename="a"`, "x"}, 422, "wrong"},
		"a part before it":  {append([]string{other, ""}, file("a", "x")...), 422, "other"},
		"a part after it":   {append(file("a", "x"), other, "y"), 422, "other"},
		"two files":         {append(file("a", "x"), file("b", "y")...), 422, "file"},
		"one file twice":    {append(file("a", ""), file("a", "")...), 422, "file"},
		"a part unnamed":    {append(file("a", "x"), "Content-Disposition: form-data", "y"), 422, `""`},
		"another case":      {[]string{`Content-Disposition: form-data; name="File"; filename="a"`, "x"}, 422, "File"},
		"no file name":      {[]string{`Content-Disposition: form-data; name="file"`, "x"}, 422, "file"},
		"empty file name":   {file("", "x"), 422, "file"},
		"a directory":       {file("a/..", "x"), 422, "file"},
		"a long name":       {file(strings.Repeat("n", 256), "x"), 422, "file"},
		"invalid UTF-8":     {file("a\xff", "x"), 422, "file"},
		"too large":         {file("a", strings.Repeat("x", 1001)), 413, "body"},
		"not a disposition": {[]string{`Content-Disposition: ;;;`, "x"}, 422, `""`},
	} {
		body, contentType := form(t, c.parts...)
		got := failureOf(t, s.do(t, "sandbox", "POST", "/v1/files", body, "Content-Type", contentType), c.status)
		if len(got.Details) != 1 || got.Details[0].Field != c.field {
			t.Errorf("%s: %+v", name, got)
		}
	}
	for name, contentType := range map[string]string{"JSON": "application/json", "no boundary": "multipart/form-data", "none": "", "another multipart": "multipart/mixed; boundary=b"} {
		if got := failureOf(t, s.do(t, "sandbox", "POST", "/v1/files", uploadBody, "Content-Type", contentType), 422); got.Details[0].Field != "file" {
			t.Errorf("%s: %+v", name, got)
		}
	}
	// Cut at every byte: all of the file has come only with the line after it.
	whole := strings.Index(uploadBody, "\r\n--b--") + len("\r\n--b")
	for n := range whole {
		failureOf(t, s.do(t, "sandbox", "POST", "/v1/files", uploadBody[:n], "Content-Type", uploadType), 422)
	}
	if len(s.fake.files) != 0 {
		t.Errorf("%d bad uploads were stored", len(s.fake.files))
	}
	body, contentType := form(t, file("a", strings.Repeat("x", 1000))...)
	if w := s.do(t, "sandbox", "POST", "/v1/files", body, "Content-Type", contentType); w.Code != 201 {
		t.Errorf("exactly the limit: %d %s", w.Code, w.Body)
	}
}

func TestDownload(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	s.fake.files = []agentsandbox.File{{ID: "fil_1", Filename: "out/deep/x.svg", MediaType: "image/svg+xml", SizeBytes: 10, SHA256: "ab12", CreatedAt: fakeTime}}
	s.fake.contents["fil_1"] = []byte("0123456789")
	get := func(headers ...string) (int, string, http.Header) {
		w := s.do(t, "read", "GET", "/v1/files/fil_1", nil, headers...)
		return w.Code, w.Body.String(), w.Header()
	}
	code, body, h := get()
	if code != 200 || body != "0123456789" {
		t.Fatalf("%d %q", code, body)
	}
	for name, want := range map[string]string{
		"Content-Type": "image/svg+xml", "Content-Length": "10", "ETag": `"ab12"`, "Content-Disposition": `attachment; filename="x.svg"`,
		"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox; default-src 'none'", "Accept-Ranges": "bytes",
	} {
		if got := h.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if code, body, h := get("Range", "bytes=2-4"); code != 206 || body != "234" || h.Get("Content-Range") != "bytes 2-4/10" {
		t.Errorf("range: %d %q", code, body)
	}
	if code, body, _ := get("Range", "bytes=0-0,2-2"); code != 206 || !strings.Contains(body, "multipart") && !strings.Contains(body, "bytes 2-2/10") {
		t.Errorf("two ranges: %d %q", code, body)
	}
	// Each costs a reading of the contents: a thousand of one byte are the whole, once.
	if code, body, _ := get("Range", "bytes=-1"+strings.Repeat(",-1", 999)); code != 200 || body != "0123456789" {
		t.Errorf("a thousand ranges: %d %q", code, body)
	}
	if code, body, _ := get("If-None-Match", `"ab12"`); code != 304 || body != "" {
		t.Errorf("not modified: %d %q", code, body)
	}
	w := s.do(t, "read", "HEAD", "/v1/files/fil_1", nil)
	if w.Code != 200 || w.Body.Len() != 0 || w.Header().Get("Content-Length") != "10" {
		t.Errorf("HEAD: %d %v", w.Code, w.Header())
	}
	w = s.do(t, "read", "GET", "/v1/files/fil_1", nil, "Range", "bytes=10-")
	if got := failureOf(t, w, 416); got.Code != agentsandbox.CodeInvalidRequest || w.Header().Get("Content-Range") != "bytes */10" {
		t.Errorf("%+v %v", got, w.Header())
	}
	if got := failureOf(t, s.do(t, "read", "GET", "/v1/files/fil_1", nil, "If-Match", `"other"`), 409); got.Code != agentsandbox.CodeConflict {
		t.Errorf("%+v", got)
	}
	s.fake.files[0].MediaType = "text/html\r\nX-Evil: 1"
	if _, _, h := get(); h.Get("Content-Type") != "application/octet-stream" || h.Get("X-Evil") != "" {
		t.Errorf("%v", h)
	}
	closed := false
	s.fake.open = func(_ agentsandbox.File, b []byte) io.ReadCloser {
		return &watchedCloser{Reader: bytes.NewBuffer(b), closed: &closed}
	}
	if code, body, h := get(); code != 200 || body != "0123456789" || h.Get("Content-Length") != "10" || !closed {
		t.Errorf("without seeking: %d %q, closed %v", code, body, closed)
	}
}

type watchedCloser struct {
	io.Reader
	closed *bool
}

func (w *watchedCloser) Close() error { *w.closed = true; return nil }

// TestBrokenDownloadsAreCut: contents that end early or fail cut the
// connection, those that grew are cut to the size that was announced.
func TestBrokenDownloadsAreCut(t *testing.T) {
	for name, c := range map[string]struct {
		read io.Reader
		want string
		ok   bool
	}{
		"grown":  {strings.NewReader("0123456789more"), "0123456789", true},
		"shrunk": {strings.NewReader("01234"), "", false},
		"failed": {io.MultiReader(strings.NewReader("01234"), failingReader{}), "", false},
	} {
		s := newTestServer(t, edge.Limits{})
		s.fake.files = []agentsandbox.File{{ID: "fil_1", Filename: "x", SizeBytes: 10, CreatedAt: fakeTime}}
		s.fake.open = func(agentsandbox.File, []byte) io.ReadCloser { return io.NopCloser(c.read) }
		cut := func() (cut bool) {
			defer func() {
				if p := recover(); p != nil {
					cut = p == http.ErrAbortHandler
				}
			}()
			w := s.do(t, "read", "GET", "/v1/files/fil_1", nil)
			if w.Body.String() != c.want {
				t.Errorf("%s: %q", name, w.Body)
			}
			return false
		}()
		if cut == c.ok {
			t.Errorf("%s: cut %v", name, cut)
		}
	}
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errors.New("the disk is gone") }

// FuzzUpload sends any bytes as a multipart body. Whatever they are, the answer
// is a stored file with a clean name or a precise refusal with nothing stored.
func FuzzUpload(f *testing.F) {
	f.Add([]byte(uploadBody), "b")
	f.Add([]byte(uploadBody[:60]), "b")
	f.Add([]byte("--b\r\n\r\n\r\n--b\r\nContent-Disposition: form-data; name=file; filename=\"../..\"\r\n\r\nx\r\n--b--"), "b")
	f.Add([]byte("--\r\n"), "")
	f.Add([]byte("--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\x00\r\nb\"\r\n\r\n"+strings.Repeat("x", 5000)), "b")
	s := newTestServer(f, edge.Limits{UploadBytes: 4096})
	f.Fuzz(func(t *testing.T, body []byte, boundary string) {
		s.fake.files = nil
		w := s.do(t, "sandbox", "POST", "/v1/files", body, "Content-Type", mime.FormatMediaType("multipart/form-data", map[string]string{"boundary": boundary}))
		if w.Code != http.StatusCreated {
			if w.Code != 413 && w.Code != 422 {
				t.Fatalf("status %d: %s", w.Code, w.Body)
			}
			failureOf(t, w, w.Code)
			if len(s.fake.files) != 0 {
				t.Fatal("a refused upload was stored")
			}
			return
		}
		if len(s.fake.files) != 1 || s.fake.files[0].SizeBytes > 4096 {
			t.Fatalf("stored %+v", s.fake.files)
		}
		name := s.fake.files[0].Filename
		if clean, err := agentsandbox.CleanFilename(name); err != nil || clean != name {
			t.Fatalf("stored as %q", name)
		}
		if w := s.do(t, "read", "GET", fmt.Sprintf("/v1/files/%s", s.fake.files[0].ID), nil); w.Code != 200 {
			t.Fatalf("download: %d", w.Code)
		}
	})
}
