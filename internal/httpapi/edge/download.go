package edge

import (
	"fmt"
	"io"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

// Download is bytes on their way out. They may be anything that hostile code
// made: they go out as an attachment that no browser shows, sniffs or runs.
type Download struct {
	Name      string
	MediaType string // "": application/octet-stream
	Size      int64  // in bytes; below 0: not known
	SHA256    string // hex; "": none
	Modified  time.Time
	Body      io.ReadCloser
	Seek      io.ReadSeeker // nil when Body cannot seek: no ranges then
}

// Download sends bytes and closes them.
func (c *Call) Download(d Download) error {
	defer func() { _ = d.Body.Close() }() // nothing was written to it
	h := c.w.Header()
	mediaType := CleanMediaType(d.MediaType)
	if mediaType == "" {
		mediaType = OctetStream
	}
	h.Set("Content-Type", mediaType)
	h.Set("Content-Disposition", contentDisposition(d.Name))
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'")
	h.Set("Cache-Control", "private, no-cache")
	if d.SHA256 != "" {
		h.Set("ETag", `"`+d.SHA256+`"`)
	}
	if d.Seek != nil {
		return c.downloadRange(d)
	}
	if !d.Modified.IsZero() {
		h.Set("Last-Modified", d.Modified.UTC().Format(http.TimeFormat))
	}
	var src io.Reader = d.Body
	if d.Size >= 0 {
		h.Set("Content-Length", strconv.FormatInt(d.Size, 10))
		src = io.LimitReader(d.Body, d.Size) // it may have grown since
	}
	c.w.WriteHeader(http.StatusOK)
	if c.r.Method == http.MethodHead {
		return nil
	}
	n, err := io.Copy(c.w, src)
	if err != nil {
		return fmt.Errorf("send %q after %d bytes: %w", d.Name, n, err)
	}
	if d.Size >= 0 && n < d.Size {
		return fmt.Errorf("send %q: it ended after %d of %d bytes", d.Name, n, d.Size)
	}
	return nil
}

// maxRanges is how many ranges of one download are served. For each, the contents are
// read anew up to where it begins.
const maxRanges = 8

// downloadRange leaves ranges and conditions to net/http, but not its errors,
// which are plain text. A request for too many ranges gets the whole, as one for none.
func (c *Call) downloadRange(d Download) error {
	if strings.Count(c.r.Header.Get("Range"), ",") >= maxRanges {
		c.r.Header.Del("Range")
	}
	w := &successWriter{answerWriter: c.w}
	http.ServeContent(w, c.r, "", d.Modified, d.Seek)
	switch w.refused {
	case 0:
		// What was announced and did not come, because the contents became shorter,
		// must break the connection.
		announced, err := strconv.ParseInt(c.w.Header().Get("Content-Length"), 10, 64)
		if err == nil && c.r.Method != http.MethodHead && w.status != http.StatusNotModified && w.sent < announced {
			return fmt.Errorf("send %q: it ended after %d of %d bytes", d.Name, w.sent, announced)
		}
		return nil
	case http.StatusRequestedRangeNotSatisfiable:
		e := agentsandbox.Invalid("Range", "names no byte of the %d that there are.", d.Size)
		c.cause = e
		c.writeFailure(http.StatusRequestedRangeNotSatisfiable, e)
		return nil
	case http.StatusPreconditionFailed:
		return agentsandbox.Errorf(agentsandbox.CodeConflict, "The file is not the one that If-Match or If-Unmodified-Since names.")
	}
	return fmt.Errorf("send %q: it cannot be read at will", d.Name)
}

// successWriter keeps an error answer of net/http from going out.
type successWriter struct {
	*answerWriter
	refused int
	sent    int64
}

func (w *successWriter) WriteHeader(status int) {
	if status >= http.StatusBadRequest {
		w.refused = status
		return
	}
	w.answerWriter.WriteHeader(status)
}

func (w *successWriter) Write(p []byte) (int, error) {
	if w.refused != 0 {
		return len(p), nil
	}
	n, err := w.answerWriter.Write(p)
	w.sent += int64(n)
	return n, err
}

// contentDisposition makes an attachment with a name that is safe in a header,
// whatever bytes it has: a plain one for old clients, and where that differs,
// the exact one in the extended form of RFC 8187.
func contentDisposition(name string) string {
	name = path.Base(name)
	var plain, extended strings.Builder
	for _, r := range name {
		if r < ' ' || r > '~' || strings.ContainsRune(`"\%/`, r) {
			plain.WriteByte('_')
		} else {
			plain.WriteRune(r)
		}
	}
	const attrChars = "!#$&+-.^_`|~"
	for _, b := range []byte(Text([]byte(name))) {
		switch {
		case b >= 'a' && b <= 'z', b >= 'A' && b <= 'Z', b >= '0' && b <= '9', strings.IndexByte(attrChars, b) >= 0:
			extended.WriteByte(b)
		default:
			fmt.Fprintf(&extended, "%%%02X", b)
		}
	}
	value := `attachment; filename="` + plain.String() + `"`
	if plain.String() != name {
		value += "; filename*=UTF-8''" + extended.String()
	}
	return value
}

// OctetStream is the media type of bytes of which nothing is known.
const OctetStream = "application/octet-stream"

// maxMediaType bounds a media type, in bytes.
const maxMediaType = 255

// CleanMediaType returns a media type that is fit for a header, or the general
// one; "" when none was given, so that the service may guess.
func CleanMediaType(given string) string {
	if strings.TrimSpace(given) == "" {
		return ""
	}
	mediaType, params, err := mime.ParseMediaType(given)
	if err != nil || !strings.Contains(mediaType, "/") || strings.Contains(mediaType, "*") {
		return OctetStream
	}
	clean := mime.FormatMediaType(mediaType, params)
	if clean == "" || len(clean) > maxMediaType {
		return OctetStream
	}
	return clean
}
