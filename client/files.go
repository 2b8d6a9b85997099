package client

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

type fileAnswer struct {
	ID        string    `json:"file_id"`
	Filename  string    `json:"filename"`
	MediaType string    `json:"mime_type"`
	SizeBytes int64     `json:"size_bytes"`
	SHA256    string    `json:"sha256"`
	SessionID string    `json:"session_id"`
	Execution string    `json:"execution_id"`
	Path      string    `json:"path"`
	CreatedAt time.Time `json:"created_at"`
	// The exact bytes of names that JSON cannot carry.
	ExactName []byte `json:"filename_base64"`
	ExactPath []byte `json:"path_base64"`
}

func (a fileAnswer) file() agentsandbox.File {
	if len(a.ExactName) > 0 {
		a.Filename = string(a.ExactName)
	}
	if len(a.ExactPath) > 0 {
		a.Path = string(a.ExactPath)
	}
	return agentsandbox.File{
		ID:          a.ID,
		Filename:    a.Filename,
		MediaType:   a.MediaType,
		SizeBytes:   a.SizeBytes,
		SHA256:      a.SHA256,
		SessionID:   a.SessionID,
		ExecutionID: a.Execution,
		Path:        a.Path,
		CreatedAt:   a.CreatedAt,
	}
}

// UploadFile stores body, which it reads once, as it is sent. An error of body
// breaks the upload off, and nothing is stored.
func (c *Client) UploadFile(ctx context.Context, upload agentsandbox.FileUpload, body io.Reader) (*agentsandbox.File, error) {
	name, err := upload.Name()
	if err != nil {
		return nil, err
	}
	form, contentType, err := formOf(path.Base(name), upload, body)
	if err != nil {
		return nil, err
	}
	call := call{method: http.MethodPost, path: segments("files"), contentType: contentType, body: form}
	if upload.SessionID != "" {
		call.query = url.Values{"session_id": {upload.SessionID}}
	}
	var answer fileAnswer
	if err := c.exchange(ctx, call, &answer); err != nil {
		return nil, err
	}
	if answer.ID == "" {
		return nil, c.incomplete(call, errMissing("file_id"))
	}
	file := answer.file()
	return &file, nil
}

// formOf wraps a file in a form, without holding it in memory: what stands before
// and after the file is made first, around a gap.
func formOf(name string, upload agentsandbox.FileUpload, body io.Reader) (io.Reader, string, error) {
	mediaType := upload.MediaType
	if mediaType == "" {
		mediaType = "application/octet-stream"
		if guess := mime.TypeByExtension(extension(name)); guess != "" {
			mediaType = guess
		}
	}
	var frame bytes.Buffer
	w := multipart.NewWriter(&frame)
	if upload.Path != "" {
		if err := w.WriteField("path", upload.Path); err != nil {
			return nil, "", fmt.Errorf("make the form: %w", err)
		}
	}
	header := textproto.MIMEHeader{}
	header.Set("Content-Disposition", `form-data; name="file"; filename="`+quoteName(name)+`"`)
	header.Set("Content-Type", strings.Map(dropControl, mediaType))
	if _, err := w.CreatePart(header); err != nil {
		return nil, "", fmt.Errorf("make the form: %w", err)
	}
	before := frame.Len()
	if err := w.Close(); err != nil {
		return nil, "", fmt.Errorf("make the form: %w", err)
	}
	data := frame.Bytes()
	return io.MultiReader(bytes.NewReader(data[:before]), body, bytes.NewReader(data[before:])), w.FormDataContentType(), nil
}

// quoteName writes a file name as browsers do in forms.
func quoteName(name string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(name)
}

func dropControl(r rune) rune {
	if r < ' ' || r == 0x7f {
		return -1
	}
	return r
}

func extension(name string) string {
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		return name[i:]
	}
	return ""
}

// File returns what is known of a file.
func (c *Client) File(ctx context.Context, id string) (*agentsandbox.File, error) {
	call := call{method: http.MethodGet, path: segments("files", id, "metadata")}
	var answer fileAnswer
	if err := c.exchange(ctx, call, &answer); err != nil {
		return nil, err
	}
	if answer.ID == "" {
		return nil, c.incomplete(call, errMissing("file_id"))
	}
	file := answer.file()
	return &file, nil
}

// OpenFile opens the contents of a file, which the caller closes, and tells what
// the answer says of them: not its Path, nor what produced it, and of Filename
// the last part. They are read as they arrive; contents that break off end with an
// error, never with io.EOF.
func (c *Client) OpenFile(ctx context.Context, id string) (*agentsandbox.File, io.ReadCloser, error) {
	resp, err := c.send(ctx, call{method: http.MethodGet, path: segments("files", id)})
	if err != nil {
		return nil, nil, err
	}
	return fileOfHeader(id, resp), resp.Body, nil
}

// fileOfHeader reads what the header of a download says.
func fileOfHeader(id string, resp *http.Response) *agentsandbox.File {
	f := &agentsandbox.File{
		ID:        id,
		MediaType: resp.Header.Get("Content-Type"),
		SizeBytes: resp.ContentLength,
		SHA256:    strings.Trim(resp.Header.Get("ETag"), `"`),
	}
	if _, params, err := mime.ParseMediaType(resp.Header.Get("Content-Disposition")); err == nil {
		f.Filename = params["filename"]
	}
	if modified, err := http.ParseTime(resp.Header.Get("Last-Modified")); err == nil {
		f.CreatedAt = modified.UTC()
	}
	return f
}

// Files lists files, newest first.
func (c *Client) Files(ctx context.Context, page agentsandbox.Page) (*agentsandbox.FilePage, error) {
	call := call{method: http.MethodGet, path: segments("files"), query: pageQuery(page)}
	var answer struct {
		Files []fileAnswer `json:"files"`
		pageAnswer
	}
	if err := c.exchange(ctx, call, &answer); err != nil {
		return nil, err
	}
	result := &agentsandbox.FilePage{Total: answer.Total, Page: answer.page(), NextCursor: answer.NextCursor}
	for _, item := range answer.Files {
		if item.ID == "" {
			return nil, c.incomplete(call, errMissing("file_id"))
		}
		result.Files = append(result.Files, item.file())
	}
	return result, nil
}

// DeleteFile forgets a file and its contents.
func (c *Client) DeleteFile(ctx context.Context, id string) error {
	return c.exchange(ctx, call{method: http.MethodDelete, path: segments("files", id)}, nil)
}
