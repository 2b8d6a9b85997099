package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

type pathAnswer struct {
	Path       string                `json:"path"`
	PathBytes  []byte                `json:"path_base64"` // where the path is not UTF-8
	Kind       agentsandbox.PathKind `json:"kind"`
	SizeBytes  int64                 `json:"size_bytes"`
	Mode       string                `json:"mode"` // octal
	ModifiedAt time.Time             `json:"modified_at"`
	Target     string                `json:"target"`
}

func (a pathAnswer) info() (*agentsandbox.PathInfo, error) {
	if a.Path == "" {
		return nil, errMissing("path")
	}
	mode, err := strconv.ParseUint(a.Mode, 8, 32)
	if err != nil {
		return nil, fmt.Errorf("mode: %w", err)
	}
	info := &agentsandbox.PathInfo{
		Path:       a.Path,
		Kind:       a.Kind,
		SizeBytes:  a.SizeBytes,
		Mode:       uint32(mode),
		ModifiedAt: a.ModifiedAt,
		Target:     a.Target,
	}
	if len(a.PathBytes) > 0 {
		info.Path = string(a.PathBytes)
	}
	return info, nil
}

// fsCall is a call about one path of a session. The path is a query parameter:
// in the URL's path, proxies would clean it up.
func fsCall(method, sessionID, route, path string) call {
	parts := []string{"sessions", sessionID, "fs"}
	if route != "" {
		parts = append(parts, route)
	}
	return call{method: method, path: segments(parts...), query: url.Values{"path": {path}}}
}

// ReadPath opens a regular file of a session, which the caller closes. One that
// breaks off ends with an error, never with io.EOF. The info has no Mode, which
// StatPath knows.
func (c *Client) ReadPath(ctx context.Context, sessionID, path string) (*agentsandbox.PathInfo, io.ReadCloser, error) {
	resp, err := c.send(ctx, fsCall(http.MethodGet, sessionID, "", path))
	if err != nil {
		return nil, nil, err
	}
	info := &agentsandbox.PathInfo{Path: path, Kind: agentsandbox.PathFile, SizeBytes: max(resp.ContentLength, 0)}
	if modified, err := http.ParseTime(resp.Header.Get("Last-Modified")); err == nil {
		info.ModifiedAt = modified.UTC()
	}
	return info, resp.Body, nil
}

// WritePath writes body, which it reads once, as it is sent.
func (c *Client) WritePath(ctx context.Context, sessionID, path string, body io.Reader) (*agentsandbox.PathInfo, error) {
	call := fsCall(http.MethodPut, sessionID, "", path)
	call.body, call.contentType = body, "application/octet-stream"
	return c.pathInfo(ctx, call)
}

// StatPath says what is at a path.
func (c *Client) StatPath(ctx context.Context, sessionID, path string) (*agentsandbox.PathInfo, error) {
	return c.pathInfo(ctx, fsCall(http.MethodGet, sessionID, "stat", path))
}

func (c *Client) pathInfo(ctx context.Context, call call) (*agentsandbox.PathInfo, error) {
	var answer pathAnswer
	if err := c.exchange(ctx, call, &answer); err != nil {
		return nil, err
	}
	info, err := answer.info()
	if err != nil {
		return nil, c.incomplete(call, err)
	}
	return info, nil
}

// ListPath lists part of a directory.
func (c *Client) ListPath(ctx context.Context, sessionID, path, after string, limit int) (*agentsandbox.PathPage, error) {
	call := fsCall(http.MethodGet, sessionID, "list", path)
	call.query.Set("limit", fmt.Sprint(limit))
	if after != "" {
		call.query.Set("after", after)
	}
	var answer struct {
		Entries   []pathAnswer `json:"entries"`
		Next      string       `json:"next"`
		NextBytes []byte       `json:"next_base64"` // where the name is not UTF-8
	}
	if err := c.exchange(ctx, call, &answer); err != nil {
		return nil, err
	}
	page := &agentsandbox.PathPage{Next: answer.Next}
	if len(answer.NextBytes) > 0 {
		page.Next = string(answer.NextBytes)
	}
	for _, entry := range answer.Entries {
		info, err := entry.info()
		if err != nil {
			return nil, c.incomplete(call, err)
		}
		page.Entries = append(page.Entries, *info)
	}
	return page, nil
}

// RemovePath removes what is at a path, a directory with all below it.
func (c *Client) RemovePath(ctx context.Context, sessionID, path string) error {
	return c.exchange(ctx, fsCall(http.MethodDelete, sessionID, "", path), nil)
}
