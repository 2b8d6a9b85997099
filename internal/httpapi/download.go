package httpapi

import (
	"fmt"
	"io"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

// download is bytes on their way out. They may be anything that hostile code
// made: they go out as an attachment that no browser shows, sniffs or runs.
type download struct {
	name      string
	mediaType string // "": application/octet-stream
	size      int64  // in bytes; below 0: not known
	sha256    string // hex; "": none
	modified  time.Time
	body      io.ReadCloser
	seek      io.ReadSeeker // nil when body cannot seek: no ranges then
}

// download sends bytes and closes them.
func (c *call) download(d download) error {
	defer func() { _ = d.body.Close() }() // nothing was written to it
	h := c.w.Header()
	mediaType := cleanMediaType(d.mediaType)
	if mediaType == "" {
		mediaType = fallbackTypeName
	}
	h.Set("Content-Type", mediaType)
	h.Set("Content-Disposition", contentDisposition(d.name))
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'")
	h.Set("Cache-Control", "private, no-cache")
	if d.sha256 != "" {
		h.Set("ETag", `"`+d.sha256+`"`)
	}
	if d.seek != nil {
		return c.downloadRange(d)
	}
	if !d.modified.IsZero() {
		h.Set("Last-Modified", d.modified.UTC().Format(http.TimeFormat))
	}
	var src io.Reader = d.body
	if d.size >= 0 {
		h.Set("Content-Length", strconv.FormatInt(d.size, 10))
		src = io.LimitReader(d.body, d.size) // it may have grown since
	}
	c.w.WriteHeader(http.StatusOK)
	if c.r.Method == http.MethodHead {
		return nil
	}
	n, err := io.Copy(c.w, src)
	if err != nil {
		return fmt.Errorf("send %q after %d bytes: %w", d.name, n, err)
	}
	if d.size >= 0 && n < d.size {
		return fmt.Errorf("send %q: it ended after %d of %d bytes", d.name, n, d.size)
	}
	return nil
}

// downloadRange leaves ranges and conditions to net/http, but not its errors,
// which are plain text.
func (c *call) downloadRange(d download) error {
	w := &successWriter{answerWriter: c.w}
	http.ServeContent(w, c.r, "", d.modified, d.seek)
	switch w.refused {
	case 0:
		// What was announced and did not come, because the contents became shorter,
		// must break the connection.
		announced, err := strconv.ParseInt(c.w.Header().Get("Content-Length"), 10, 64)
		if err == nil && c.r.Method != http.MethodHead && w.status != http.StatusNotModified && w.sent < announced {
			return fmt.Errorf("send %q: it ended after %d of %d bytes", d.name, w.sent, announced)
		}
		return nil
	case http.StatusRequestedRangeNotSatisfiable:
		e := agentsandbox.Invalid("Range", "names no byte of the %d that there are.", d.size)
		c.cause = e
		c.writeFailure(http.StatusRequestedRangeNotSatisfiable, e)
		return nil
	case http.StatusPreconditionFailed:
		return agentsandbox.Errorf(agentsandbox.CodeConflict, "The file is not the one that If-Match or If-Unmodified-Since names.")
	}
	return fmt.Errorf("send %q: it cannot be read at will", d.name)
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
	for _, b := range []byte(text([]byte(name))) {
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
