package httpapi

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

type fileInfo struct {
	FileID      string  `json:"file_id" doc:"The file's id."`
	Filename    string  `json:"filename" doc:"The path of a produced file below /workspace or /output; the path that an upload was given, or the last part of its name. Bytes that are not UTF-8 are shown as %XX."`
	MIMEType    string  `json:"mime_type" doc:"The media type."`
	SizeBytes   int64   `json:"size_bytes" doc:"Size in bytes."`
	SHA256      string  `json:"sha256" doc:"SHA-256 of the contents, in hex."`
	SessionID   *string `json:"session_id" doc:"The session that produced the file or that it was uploaded into; null for neither."`
	ExecutionID *string `json:"execution_id" doc:"The run that produced the file; null for an upload."`
	Path        *string `json:"path" doc:"Where a produced file stood in its sandbox, and where an upload with a path belongs; null for an upload without one."`
	ExactName
	CreatedAt time.Time `json:"created_at" doc:"When the file was stored (RFC 3339, UTC)."`
}

func (f fileInfo) objectID() string { return f.FileID }

type fileList struct {
	Files []fileInfo `json:"files" nullable:"false" doc:"One page of files, uploaded and produced ones alike, newest first."`
	PageInfo
}

type fileInput struct {
	ID string `path:"file_id" doc:"The file's id."`
}

func (a *api) fileRoutes() {
	type uploadInput struct {
		SessionID string `query:"session_id" doc:"Also copy the file to /workspace/{filename} of this live session, or to the path given."`
	}
	answer(a, route{
		method: "POST", path: "/v1/files", id: "uploadFile", tag: "files", scope: agentsandbox.ScopeSandbox,
		status:  http.StatusCreated,
		summary: "Upload a file", description: "Stores a file under an id. The body is streamed; one that ends early stores nothing.",
		codes: []agentsandbox.Code{agentsandbox.CodeSessionNotFound, agentsandbox.CodeTooLarge, agentsandbox.CodeStorageFull},
		upload: &content{
			mediaType: "multipart/form-data", form: "file",
			description: "A part named file, with a file name (of a whole path the last part is kept) and a media type. Before it there may be a part named path: where below /workspace the file belongs when it is copied to a sandbox, such as pkg/__init__.py; it is then the filename, too. There is no other part.",
			fields:      map[string]string{"path": "Where below /workspace the file belongs: relative, UTF-8, without empty parts, . and ..; left out: at the last part of its file name."},
		},
		resume: a.resumeUpload, digest: a.digestUpload,
	}, func(c *call, in *uploadInput) (*fileInfo, error) { return a.upload(c, in.SessionID) })

	answer(a, route{
		method: "GET", path: "/v1/files", id: "listFiles", tag: "files", scope: agentsandbox.ScopeRead,
		summary: "List files", description: "Lists uploaded and produced files, newest first.",
	}, func(c *call, in *pageInput) (*fileList, error) {
		page, err := in.page()
		if err != nil {
			return nil, err
		}
		got, err := a.service.Files(c.Context(), page)
		if err != nil {
			return nil, err
		}
		out := &fileList{Files: make([]fileInfo, len(got.Files)), PageInfo: PageInfo{got.Total, page.Limit, page.Offset, got.NextCursor}}
		for i := range got.Files {
			out.Files[i] = fileInfoOf(&got.Files[i])
		}
		return out, nil
	})

	stream(a, route{
		method: "GET", path: "/v1/files/{file_id}", id: "downloadFile", tag: "files", scope: agentsandbox.ScopeRead,
		summary: "Download a file", description: "The contents, with the file's media type and name. They never change under an id.",
		codes:    []agentsandbox.Code{agentsandbox.CodeFileNotFound},
		download: &content{mediaType: "*/*", description: "The contents.", ranges: true},
	}, func(c *call, in *fileInput) error {
		f, body, err := a.service.OpenFile(c.Context(), in.ID)
		if err != nil {
			return err
		}
		seek, _ := body.(io.ReadSeeker)
		return c.download(download{
			name: f.Filename, mediaType: f.MediaType, size: f.SizeBytes, sha256: f.SHA256,
			modified: f.CreatedAt, body: body, seek: seek,
		})
	})

	answer(a, route{
		method: "GET", path: "/v1/files/{file_id}/metadata", id: "getFile", tag: "files", scope: agentsandbox.ScopeRead,
		summary: "Show a file", description: "Shows what is known of a file, without its contents.",
		codes: []agentsandbox.Code{agentsandbox.CodeFileNotFound},
	}, func(c *call, in *fileInput) (*fileInfo, error) {
		f, err := a.service.File(c.Context(), in.ID)
		if err != nil {
			return nil, err
		}
		info := fileInfoOf(f)
		return &info, nil
	})

	answer(a, route{
		method: "DELETE", path: "/v1/files/{file_id}", id: "deleteFile", tag: "files", scope: agentsandbox.ScopeSandbox,
		summary: "Delete a file", description: "Forgets a file and its contents. Copies that are already in a sandbox stay.",
		codes: []agentsandbox.Code{agentsandbox.CodeFileNotFound},
	}, func(c *call, in *fileInput) (*nothing, error) {
		return &nothing{}, a.service.DeleteFile(c.Context(), in.ID)
	})
}

func fileInfoOf(f *agentsandbox.File) fileInfo {
	info := fileInfo{
		FileID: f.ID, Filename: agentsandbox.ShownName(f.Filename), MIMEType: f.MediaType, SizeBytes: f.SizeBytes, SHA256: f.SHA256,
		SessionID: orNull(f.SessionID), ExecutionID: orNull(f.ExecutionID), CreatedAt: wireTime(f.CreatedAt),
	}
	if f.Path != "" {
		info.Path = orNull(agentsandbox.ShownName(f.Path))
	}
	info.ExactName = exactName(f)
	return info
}

// Bounds of what may stand around the file in a multipart body.
const (
	maxFormBytes     = 1 << 20
	maxMediaType     = 255
	readAhead        = 256 << 10
	fallbackTypeName = "application/octet-stream"
)

// upload stores the part named file of a multipart body, as it arrives.
func (a *api) upload(c *call, sessionID string) (*fileInfo, error) {
	u, err := a.openUpload(c)
	if err != nil {
		return nil, err
	}
	f, err := a.service.UploadFile(c.Context(), agentsandbox.FileUpload{
		Filename: u.name, Path: u.path, MediaType: u.mediaType, SessionID: sessionID,
	}, u.contents)
	if failed := u.failure(); failed != nil {
		return nil, failed
	}
	if err != nil {
		return nil, err
	}
	c.digest = uploadDigest(u.name, f.SHA256)
	info := fileInfoOf(f)
	return &info, nil
}

// upload is a file on its way in.
type upload struct {
	name, mediaType string
	path            string // where it belongs; empty: at its name
	body, contents  *bodyReader
}

func (a *api) openUpload(c *call) (*upload, error) {
	body, err := c.body("The file", a.limits.UploadBytes, maxFormBytes)
	if err != nil {
		return nil, err
	}
	if err := c.occupy(readAhead); err != nil {
		return nil, err
	}
	part, path, err := filePart(c.r, body)
	if err != nil {
		return nil, err
	}
	name, err := agentsandbox.FileUpload{Filename: rawFilename(part.Part), Path: path}.Name()
	if err != nil {
		return nil, err
	}
	// The deadlines are those of the body below.
	contents := &bodyReader{src: part, limit: a.limits.UploadBytes, what: "The file", below: body}
	return &upload{name, cleanMediaType(part.Header.Get("Content-Type")), path, body, contents}, nil
}

// failure is why the file did not arrive whole; nil if it did.
func (u *upload) failure() error { return errors.Join(u.body.failure(), u.contents.failure()) }

// digestUpload reads a file that was uploaded before, to tell whether it is the
// same.
func (a *api) digestUpload(c *call) (string, error) {
	u, err := a.openUpload(c)
	if err != nil {
		return "", err
	}
	hash := sha256.New()
	_, err = io.Copy(hash, u.contents)
	if failed := u.failure(); failed != nil {
		return "", failed
	}
	if err != nil {
		return "", err
	}
	return uploadDigest(u.name, hex.EncodeToString(hash.Sum(nil))), nil
}

// resumeUpload is the answer to an upload that was stored and not answered.
func (a *api) resumeUpload(ctx context.Context, id, digest string) (any, error) {
	f, err := a.service.File(ctx, id)
	if err != nil {
		return nil, err
	}
	if uploadDigest(f.Filename, f.SHA256) != digest {
		return nil, agentsandbox.Invalid(keyHeader, "was used for another file in the last 24 hours. Use a new one for each upload.")
	}
	return fileInfoOf(f), nil
}

// fileField is the name of the part that holds the bytes, pathField of the one that
// says where they belong.
const (
	fileField = "file"
	pathField = "path"
)

// formParts are the parts that an upload may have.
var formParts = []string{fileField, pathField}

// filePart finds the part named file, and the path that stands before it. A part
// that nobody knows is refused.
func filePart(r *http.Request, body *bodyReader) (file *lastPart, path string, err error) {
	mediaType, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mediaType != "multipart/form-data" || params["boundary"] == "" {
		return nil, "", agentsandbox.Invalid(fileField, "must be sent as a part of a multipart/form-data body.")
	}
	// Package multipart reads 4 KiB at a time, which would be system calls.
	reader := multipart.NewReader(bufio.NewReaderSize(body, readAhead), params["boundary"])
	for {
		part, err := reader.NextRawPart()
		if failed := body.failure(); failed != nil {
			return nil, "", failed
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil, "", agentsandbox.Invalid(fileField, "is needed: a part of that name, with a file name.")
		case err != nil:
			return nil, "", agentsandbox.Invalid(fileField, "cannot be found: the multipart body is malformed or ends early.")
		case part.FormName() == fileField:
			return &lastPart{part, reader}, path, nil
		case part.FormName() != pathField:
			return nil, "", unknown("form field", "", part.FormName(), formParts)
		case path != "":
			return nil, "", agentsandbox.Invalid(pathField, "is given twice.")
		}
		if path, err = readPath(part); err != nil {
			return nil, "", err
		}
	}
}

// readPath reads the part that says where a file belongs.
func readPath(part *multipart.Part) (string, error) {
	value, err := io.ReadAll(io.LimitReader(part, agentsandbox.MaxPathBytes+1))
	if err != nil {
		return "", agentsandbox.Invalid(pathField, "cannot be read: the multipart body is malformed or ends early.")
	}
	return string(value), agentsandbox.CheckUploadPath(string(value))
}

// lastPart is a part that ends the form. Another one after it is an error in
// place of the end: nothing that was sent is dropped without a word.
type lastPart struct {
	*multipart.Part
	form *multipart.Reader
}

// Read implements io.Reader.
func (p *lastPart) Read(b []byte) (int, error) {
	n, err := p.Part.Read(b)
	if err != io.EOF { //nolint:errorlint // a reader's end is io.EOF itself
		return n, err
	}
	next, err := p.form.NextRawPart()
	switch {
	case errors.Is(err, io.EOF):
		return n, io.EOF
	case err != nil:
		return n, err
	case next.FormName() == fileField:
		return n, agentsandbox.Invalid(fileField, "is given twice: upload one file at a time.")
	case slices.Contains(formParts, next.FormName()):
		return n, agentsandbox.Invalid(next.FormName(), "must stand before the file.")
	}
	return n, unknown("form field", "", next.FormName(), formParts)
}

// rawFilename is the file name of a part as it was sent: Part.FileName would
// already have cut it, by the host's rules.
func rawFilename(part *multipart.Part) string {
	_, params, err := mime.ParseMediaType(part.Header.Get("Content-Disposition"))
	if err != nil {
		return ""
	}
	return params["filename"]
}

// cleanMediaType returns a media type that is fit for a header, or the general
// one; "" when none was given, so that the service may guess.
func cleanMediaType(given string) string {
	if strings.TrimSpace(given) == "" {
		return ""
	}
	mediaType, params, err := mime.ParseMediaType(given)
	if err != nil || !strings.Contains(mediaType, "/") || strings.Contains(mediaType, "*") {
		return fallbackTypeName
	}
	clean := mime.FormatMediaType(mediaType, params)
	if clean == "" || len(clean) > maxMediaType {
		return fallbackTypeName
	}
	return clean
}
