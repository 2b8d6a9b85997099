package mcp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agentsandbox/agentsandbox"
)

// How much of a file or a stream a tool shows. Models pay for every byte, and
// their providers refuse larger images.
const (
	defaultShownBytes = 100_000
	maxShownBytes     = 5 << 20
	maxImages         = 10
)

// imageTypes are the images that models can see. SVG is a program rather than a
// picture, and none of them.
var imageTypes = []string{"image/png", "image/jpeg", "image/gif", "image/webp"}

// sentence turns an error into what a model, or its user, can act on.
func sentence(err error) string {
	var e *agentsandbox.Error
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "The call was cancelled."
	case !errors.As(err, &e):
		return err.Error()
	}
	var b strings.Builder
	b.WriteString(e.Message)
	if e.Err != nil { // of the client: the server never sends a cause
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	for _, d := range e.Details {
		if whole := d.Field + ": " + d.Message; whole != e.Message {
			b.WriteString("\n" + whole)
		}
	}
	if e.RetryAfterSeconds > 0 {
		fmt.Fprintf(&b, "\nTry again in %d s.", e.RetryAfterSeconds)
	}
	fmt.Fprintf(&b, "\n(%s", e.Code)
	if e.RequestID != "" {
		b.WriteString(", request " + e.RequestID)
	}
	b.WriteString(")")
	return b.String()
}

// cut returns the start of an output as text, and whether something is missing.
// What is not UTF-8 is shown as U+FFFD.
func cut(output []byte, limit int) (text string, short bool) {
	if len(output) > limit {
		output, short = output[:limit], true
		for i := 1; i < utf8.UTFMax && i <= len(output); i++ { // no half character at the end
			if tail := output[len(output)-i:]; utf8.RuneStart(tail[0]) {
				if !utf8.FullRune(tail) {
					output = output[:len(output)-i]
				}
				break
			}
		}
	}
	return strings.ToValidUTF8(string(output), "\uFFFD"), short
}

// shownBytes fills in the default of a tool's max_bytes.
func shownBytes(field string, n int) (int, error) {
	switch {
	case n == 0:
		return defaultShownBytes, nil
	case n < 0 || n > maxShownBytes:
		return 0, agentsandbox.Invalid(field, "must be from 1 to %d, not %d.", maxShownBytes, n)
	}
	return n, nil
}

// contents reads a file and returns it as what a model can use: an image, text,
// or bytes. One that is too large is an error, never a part.
func contents(r io.Reader, uri, mediaType string, limit int) (sdk.Content, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxShownBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", uri, err)
	}
	image := imageType(data)
	switch {
	case len(data) > maxShownBytes:
		return nil, agentsandbox.Errorf(agentsandbox.CodeTooLarge,
			"The file has more than the %d bytes that can be shown. Read a part of it, for instance with execute_bash and head -c, or make it smaller.", maxShownBytes)
	case image != "":
		return &sdk.ImageContent{Data: data, MIMEType: image}, nil
	case len(data) > limit:
		return nil, agentsandbox.Errorf(agentsandbox.CodeTooLarge,
			"The file has %d bytes, more than max_bytes (%d). Ask for more, up to %d, or read a part of it with execute_bash.", len(data), limit, maxShownBytes)
	case utf8.Valid(data):
		return &sdk.TextContent{Text: string(data)}, nil
	}
	if mediaType == "" {
		mediaType = "application/octet-stream"
	}
	return &sdk.EmbeddedResource{Resource: &sdk.ResourceContents{URI: uri, MIMEType: mediaType, Blob: data}}, nil
}

// imageType looks at the bytes themselves: a file that only calls itself an
// image makes the provider refuse the whole conversation.
func imageType(data []byte) string {
	if t := http.DetectContentType(data); slices.Contains(imageTypes, t) {
		return t
	}
	return ""
}

// images returns the images among the files that a run made, and notes about
// those that are not shown.
func (c *conversation) images(ctx context.Context, files []agentsandbox.File) (shown []sdk.Content, notes []string) {
	for _, f := range files {
		if !slices.Contains(imageTypes, f.MediaType) {
			continue
		}
		note := func(format string, args ...any) {
			notes = append(notes, fmt.Sprintf("%q is not shown: ", f.Filename)+fmt.Sprintf(format, args...))
		}
		if len(shown) == maxImages {
			note("%d images are; download_file shows it.", maxImages)
			continue
		}
		data, err := c.download(ctx, f)
		switch {
		case err != nil:
			note("%s", sentence(err))
		case imageType(data) == "":
			note("it is no image, whatever its name says.")
		default:
			shown = append(shown, &sdk.ImageContent{Data: data, MIMEType: imageType(data)})
		}
	}
	return shown, notes
}

func (c *conversation) download(ctx context.Context, f agentsandbox.File) ([]byte, error) {
	tooLarge := fmt.Errorf("it has more than %d bytes.", maxShownBytes)
	if f.SizeBytes > maxShownBytes {
		return nil, tooLarge
	}
	_, body, err := c.service.OpenFile(ctx, f.ID)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, maxShownBytes+1))
	if err == nil && len(data) > maxShownBytes {
		err = tooLarge
	}
	return data, err
}
