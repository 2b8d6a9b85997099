package v1

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"slices"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/input"
)

// Bounds of what may stand around the file in a multipart body.
const (
	maxFormBytes = 1 << 20
	readAhead    = 256 << 10
)

// upload stores the part named file of a multipart body, as it arrives.
func (a *api) upload(c *edge.Call, sessionID string) (*fileInfo, error) {
	u, err := openUpload(c)
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
	c.SetDigest(uploadDigest(u.name, f.SHA256))
	info := fileInfoOf(f)
	return &info, nil
}

// upload is a file on its way in.
type upload struct {
	name, mediaType string
	path            string // where it belongs; empty: at its name
	body, contents  *edge.Body
}

func openUpload(c *edge.Call) (*upload, error) {
	body, err := c.Body("The file", c.Limits().UploadBytes, maxFormBytes)
	if err != nil {
		return nil, err
	}
	if err := c.Occupy(readAhead); err != nil {
		return nil, err
	}
	part, path, err := filePart(c.Request(), body)
	if err != nil {
		return nil, err
	}
	name, err := agentsandbox.FileUpload{Filename: rawFilename(part.Part), Path: path}.Name()
	if err != nil {
		return nil, err
	}
	contents := body.Part(part, "The file", c.Limits().UploadBytes)
	return &upload{name, edge.CleanMediaType(part.Header.Get("Content-Type")), path, body, contents}, nil
}

// failure is why the file did not arrive whole; nil if it did.
func (u *upload) failure() error { return errors.Join(u.body.Failure(), u.contents.Failure()) }

// digestUpload reads a file that was uploaded before, to tell whether it is the
// same.
func digestUpload(c *edge.Call) (string, error) {
	u, err := openUpload(c)
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
func (a *api) resumeUpload(c *edge.Call, id, digest string) (any, error) {
	f, err := a.service.File(c.Context(), id)
	if err != nil {
		return nil, err
	}
	if uploadDigest(f.Filename, f.SHA256) != digest {
		return nil, agentsandbox.Invalid(edge.KeyHeader, "was used for another file in the last 24 hours. Use a new one for each upload.")
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
func filePart(r *http.Request, body *edge.Body) (file *lastPart, path string, err error) {
	mediaType, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mediaType != "multipart/form-data" || params["boundary"] == "" {
		return nil, "", agentsandbox.Invalid(fileField, "must be sent as a part of a multipart/form-data body.")
	}
	// Package multipart reads 4 KiB at a time, which would be system calls.
	reader := multipart.NewReader(bufio.NewReaderSize(body, readAhead), params["boundary"])
	for {
		part, err := reader.NextRawPart()
		if failed := body.Failure(); failed != nil {
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
			return nil, "", input.Unknown("form field", "", part.FormName(), formParts)
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
	return n, input.Unknown("form field", "", next.FormName(), formParts)
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

// uploadDigest tells one upload from another: the form around the file differs
// each time that it is sent.
func uploadDigest(name, sha256Hex string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d:%s%s", len(name), name, sha256Hex))
	return hex.EncodeToString(sum[:])
}
