package mcp

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"io"
	"strings"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agentsandbox/agentsandbox"
)

type writeFileInput struct {
	Path      string  `json:"path" jsonschema:"absolute path in the sandbox, such as /workspace/data.csv; directories above it are made"`
	Text      *string `json:"text,omitempty" jsonschema:"the contents, as text"`
	Base64    *string `json:"base64,omitempty" jsonschema:"the contents in base64, instead of text"`
	SessionID string  `json:"session_id,omitempty" jsonschema:"the session to write in; the sandbox of the conversation otherwise"`
}

type pathOutput struct {
	Path       string `json:"path"`
	Kind       string `json:"kind" jsonschema:"file, directory, symlink or other"`
	SizeBytes  int64  `json:"size_bytes"`
	ModifiedAt string `json:"modified_at"`
	Target     string `json:"target,omitempty" jsonschema:"where a symbolic link points"`
}

type readFileInput struct {
	Path      string `json:"path" jsonschema:"absolute path in the sandbox"`
	MaxBytes  int    `json:"max_bytes,omitempty" jsonschema:"refuse a larger file, unless it is an image; 100000 otherwise, at most 5242880"`
	SessionID string `json:"session_id,omitempty" jsonschema:"the session to read from; the sandbox of the conversation otherwise"`
}

type listFilesInput struct {
	Path      string `json:"path,omitempty" jsonschema:"absolute path of a directory in the sandbox; /workspace otherwise"`
	After     string `json:"after,omitempty" jsonschema:"go on after this name: next of the previous answer"`
	Limit     int    `json:"limit,omitempty" jsonschema:"how many to show, 1 to 1000; 200 otherwise"`
	SessionID string `json:"session_id,omitempty" jsonschema:"the session to look at; the sandbox of the conversation otherwise"`
}

type listFilesOutput struct {
	Entries []pathOutput `json:"entries"`
	Next    string       `json:"next,omitempty" jsonschema:"there are more: ask again with after"`
}

type uploadFileInput struct {
	Filename  string  `json:"filename" jsonschema:"name of the file, such as data.csv"`
	Text      *string `json:"text,omitempty" jsonschema:"the contents, as text"`
	Base64    *string `json:"base64,omitempty" jsonschema:"the contents in base64, instead of text"`
	Path      string  `json:"path,omitempty" jsonschema:"where below /workspace the file belongs in a sandbox, such as pkg/__init__.py; at its filename otherwise"`
	MediaType string  `json:"media_type,omitempty" jsonschema:"such as text/csv; guessed from the name otherwise"`
}

type downloadFileInput struct {
	FileID   string `json:"file_id" jsonschema:"id of the file, such as the result of a run or an upload shows"`
	MaxBytes int    `json:"max_bytes,omitempty" jsonschema:"refuse a larger file, unless it is an image; 100000 otherwise, at most 5242880"`
}

func (c *conversation) addFileTools(s *sdk.Server) {
	addTool(c, s, &sdk.Tool{
		Name: "write_file", Title: "Write a file",
		Description: "Writes a file in the sandbox, replacing one that is there.",
		Annotations: &sdk.ToolAnnotations{IdempotentHint: true, OpenWorldHint: new(bool)},
	}, c.writeFile)
	addTool(c, s, &sdk.Tool{
		Name: "read_file", Title: "Read a file",
		Description: "Reads a file of the sandbox: an image is shown, text is text, and anything else is bytes.",
		Annotations: &sdk.ToolAnnotations{ReadOnlyHint: true, OpenWorldHint: new(bool)},
	}, c.readFile)
	addTool(c, s, &sdk.Tool{
		Name: "list_files", Title: "List a directory",
		Description: "Lists a directory of the sandbox by name.",
		Annotations: &sdk.ToolAnnotations{ReadOnlyHint: true, OpenWorldHint: new(bool)},
	}, c.listFiles)
	addTool(c, s, &sdk.Tool{
		Name: "upload_file", Title: "Upload a file",
		Description: "Keeps a file on the server under a file_id, outside of any sandbox; runs and sessions take it with file_ids.",
		Annotations: &sdk.ToolAnnotations{DestructiveHint: new(bool), OpenWorldHint: new(bool)},
	}, c.uploadFile)
	addTool(c, s, &sdk.Tool{
		Name: "download_file", Title: "Download a file",
		Description: "Reads a file that the server keeps under a file_id: one that was uploaded, or that a run made.",
		Annotations: &sdk.ToolAnnotations{ReadOnlyHint: true, OpenWorldHint: new(bool)},
	}, c.downloadFile)
}

func (c *conversation) writeFile(ctx context.Context, in writeFileInput) (*sdk.CallToolResult, pathOutput, error) {
	data, err := given(in.Text, in.Base64)
	if err != nil {
		return nil, pathOutput{}, err
	}
	var out pathOutput
	err = c.in(ctx, in.SessionID, func(sessionID string) error {
		info, err := c.service.WritePath(ctx, sessionID, in.Path, bytes.NewReader(data))
		if err == nil {
			out = viewOfPath(*info)
		}
		return err
	})
	return nil, out, err
}

func (c *conversation) readFile(ctx context.Context, in readFileInput) (*sdk.CallToolResult, any, error) {
	limit, err := shownBytes("max_bytes", in.MaxBytes)
	if err != nil {
		return nil, nil, err
	}
	var content sdk.Content
	err = c.in(ctx, in.SessionID, func(sessionID string) error {
		_, body, err := c.service.ReadPath(ctx, sessionID, in.Path)
		if err != nil {
			return err
		}
		defer body.Close()
		content, err = contents(body, "sandbox://"+sessionID+in.Path, "", limit)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return &sdk.CallToolResult{Content: []sdk.Content{content}}, nil, nil
}

func (c *conversation) listFiles(ctx context.Context, in listFilesInput) (*sdk.CallToolResult, listFilesOutput, error) {
	out := listFilesOutput{Entries: []pathOutput{}}
	err := c.in(ctx, in.SessionID, func(sessionID string) error {
		page, err := c.service.ListPath(ctx, sessionID, cmp.Or(in.Path, agentsandbox.Workspace), in.After, cmp.Or(in.Limit, 200))
		if err != nil {
			return err
		}
		out.Next = page.Next
		for _, entry := range page.Entries {
			out.Entries = append(out.Entries, viewOfPath(entry))
		}
		return nil
	})
	return nil, out, err
}

func (c *conversation) uploadFile(ctx context.Context, in uploadFileInput) (*sdk.CallToolResult, fileOutput, error) {
	data, err := given(in.Text, in.Base64)
	if err != nil {
		return nil, fileOutput{}, err
	}
	f, err := c.service.UploadFile(ctx, agentsandbox.FileUpload{Filename: in.Filename, Path: in.Path, MediaType: in.MediaType}, bytes.NewReader(data))
	if err != nil {
		return nil, fileOutput{}, err
	}
	return nil, viewOfFile(*f), nil
}

func (c *conversation) downloadFile(ctx context.Context, in downloadFileInput) (*sdk.CallToolResult, any, error) {
	limit, err := shownBytes("max_bytes", in.MaxBytes)
	if err != nil {
		return nil, nil, err
	}
	f, body, err := c.service.OpenFile(ctx, in.FileID)
	if err != nil {
		return nil, nil, err
	}
	defer body.Close()
	content, err := contents(io.Reader(body), "agentsandbox://files/"+in.FileID, f.MediaType, limit)
	if err != nil {
		return nil, nil, err
	}
	return &sdk.CallToolResult{Content: []sdk.Content{content}}, nil, nil
}

// given returns the contents that a tool was given, in one of two ways.
func given(text, encoded *string) ([]byte, error) {
	switch {
	case text != nil && encoded != nil, text == nil && encoded == nil:
		return nil, agentsandbox.Invalid("text", "give the contents in one of text and base64.")
	case text != nil:
		return []byte(*text), nil
	}
	data, err := base64.StdEncoding.DecodeString(*encoded)
	if err != nil {
		return nil, agentsandbox.Invalid("base64", "is not base64: %v.", err)
	}
	return data, nil
}

func viewOfPath(p agentsandbox.PathInfo) pathOutput {
	return pathOutput{
		Path: strings.ToValidUTF8(p.Path, "\uFFFD"), Kind: string(p.Kind), SizeBytes: p.SizeBytes,
		ModifiedAt: p.ModifiedAt.UTC().Format(time.RFC3339), Target: strings.ToValidUTF8(p.Target, "\uFFFD"),
	}
}
