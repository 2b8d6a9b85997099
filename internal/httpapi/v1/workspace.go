package v1

import (
	"encoding/base64"
	"fmt"
	"path"
	"time"
	"unicode/utf8"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
)

type pathInfo struct {
	Path       string                `json:"path" doc:"The absolute path in the sandbox, invalid UTF-8 shown as U+FFFD."`
	PathBase64 string                `json:"path_base64,omitempty" doc:"The exact bytes of a path that is not UTF-8, in base64; left out otherwise. A query takes such bytes percent-encoded."`
	Kind       agentsandbox.PathKind `json:"kind" enum:"file,directory,symlink,other" doc:"What is there; other is a FIFO, a socket or a device."`
	SizeBytes  int64                 `json:"size_bytes" doc:"Size in bytes."`
	Mode       string                `json:"mode" doc:"Permission bits, in octal." example:"0644"`
	ModifiedAt time.Time             `json:"modified_at" doc:"When it was last changed (RFC 3339, UTC)."`
	Target     *string               `json:"target" doc:"Where a symbolic link points; null for anything else."`
}

type pathList struct {
	Path       string     `json:"path" doc:"The directory that was listed."`
	Entries    []pathInfo `json:"entries" nullable:"false" doc:"What is in it, sorted by the bytes of the name."`
	Next       string     `json:"next" doc:"The name to give as after to see more; empty at the end."`
	NextBase64 string     `json:"next_base64,omitempty" doc:"The exact bytes of a next that is not UTF-8, in base64; left out otherwise."`
}

type pathInput struct {
	sessionInput
	Path string `query:"path" required:"true" pattern:"^/" doc:"An absolute path in the sandbox; bytes that are not UTF-8 percent-encoded." example:"/workspace/data.csv"`
}

var pathCodes = []agentsandbox.Code{agentsandbox.CodeSessionNotFound, agentsandbox.CodePathNotFound, agentsandbox.CodeConflict}

// workspacePath is where the files of a session stand.
const workspacePath = "/v1/sessions/{session_id}/fs"

// workspaceRoutes are the files of a live session, by path.
func (a *api) workspaceRoutes() []edge.Route {
	return []edge.Route{
		a.readPathRoute(),
		a.writePathRoute(),
		a.removePathRoute(),
		a.statPathRoute(),
		a.listPathRoute(),
	}
}

func (a *api) readPathRoute() edge.Route {
	return edge.Stream(edge.Route{
		Method: "GET", Path: workspacePath, ID: "readPath", Tag: "workspace", Scope: agentsandbox.ScopeRead,
		Summary: "Read a file of a session", Description: "The bytes of a regular file. Anything else, a symbolic link included, is a conflict.",
		Codes:    pathCodes,
		Download: &edge.Content{MediaType: edge.OctetStream, Description: "The bytes."},
	}, a.readPath)
}

func (a *api) writePathRoute() edge.Route {
	return edge.Answer(edge.Route{
		Method: "PUT", Path: workspacePath, ID: "writePath", Tag: "workspace", Scope: agentsandbox.ScopeSandbox,
		Summary: "Write a file of a session", Description: "Replaces the file, or makes it and the directories above it. A body that ends early changes nothing.",
		Codes:  append([]agentsandbox.Code{agentsandbox.CodeTooLarge, agentsandbox.CodeStorageFull}, pathCodes...),
		Upload: &edge.Content{MediaType: edge.OctetStream, Description: "The bytes."},
	}, a.writePath)
}

func (a *api) removePathRoute() edge.Route {
	return edge.Answer(edge.Route{
		Method: "DELETE", Path: workspacePath, ID: "removePath", Tag: "workspace", Scope: agentsandbox.ScopeSandbox,
		Summary: "Remove a file of a session", Description: "Removes a file, or a directory with all that is in it.",
		Codes: pathCodes,
	}, func(c *edge.Call, in *pathInput) (*edge.Nothing, error) {
		p, err := agentsandbox.CleanPath(in.Path)
		if err != nil {
			return nil, err
		}
		return &edge.Nothing{}, a.service.RemovePath(c.Context(), in.ID, p)
	})
}

func (a *api) statPathRoute() edge.Route {
	return edge.Answer(edge.Route{
		Method: "GET", Path: workspacePath + "/stat", ID: "statPath", Tag: "workspace", Scope: agentsandbox.ScopeRead,
		Summary: "Say what is at a path of a session", Description: "A symbolic link is described, not followed.",
		Codes: pathCodes,
	}, func(c *edge.Call, in *pathInput) (*pathInfo, error) {
		p, err := agentsandbox.CleanPath(in.Path)
		if err != nil {
			return nil, err
		}
		info, err := a.service.StatPath(c.Context(), in.ID, p)
		if err != nil {
			return nil, err
		}
		out := pathInfoOf(info)
		return &out, nil
	})
}

func (a *api) listPathRoute() edge.Route {
	type listInput struct {
		pathInput
		After string `query:"after" doc:"Show names after this one; bytes that are not UTF-8 percent-encoded."`
		Limit int    `query:"limit" default:"100" minimum:"1" maximum:"1000" doc:"How many entries to show."`
	}
	return edge.Answer(edge.Route{
		Method: "GET", Path: workspacePath + "/list", ID: "listPath", Tag: "workspace", Scope: agentsandbox.ScopeRead,
		Summary: "List a directory of a session", Description: "Lists by name, in pages: give next as after until it is empty.",
		Codes: pathCodes,
	}, func(c *edge.Call, in *listInput) (*pathList, error) {
		return a.listPath(c, in.pathInput, in.After, in.Limit)
	})
}

func (a *api) readPath(c *edge.Call, in *pathInput) error {
	p, err := agentsandbox.CleanPath(in.Path)
	if err != nil {
		return err
	}
	info, body, err := a.service.ReadPath(c.Context(), in.ID, p)
	if err != nil {
		return err
	}
	size := info.SizeBytes
	if size == 0 {
		size = -1 // files of /proc say 0 and have bytes all the same
	}
	return c.Download(edge.Download{Name: path.Base(p), Size: size, Modified: info.ModifiedAt, Body: body})
}

func (a *api) writePath(c *edge.Call, in *pathInput) (*pathInfo, error) {
	p, err := agentsandbox.CleanPath(in.Path)
	if err != nil {
		return nil, err
	}
	body, err := c.Body("The file", c.Limits().UploadBytes, 0)
	if err != nil {
		return nil, err
	}
	info, err := a.service.WritePath(c.Context(), in.ID, p, body)
	if failed := body.Failure(); failed != nil {
		return nil, failed
	}
	if err != nil {
		return nil, err
	}
	out := pathInfoOf(info)
	return &out, nil
}

// maxEntries is how many entries of a directory one page can hold.
const maxEntries = 1000

func (a *api) listPath(c *edge.Call, in pathInput, after string, limit int) (*pathList, error) {
	p, err := agentsandbox.CleanPath(in.Path)
	if err != nil {
		return nil, err
	}
	if limit < 1 || limit > maxEntries {
		return nil, agentsandbox.Invalid("limit", "must be from 1 to %d, not %d.", maxEntries, limit)
	}
	page, err := a.service.ListPath(c.Context(), in.ID, p, after, limit)
	if err != nil {
		return nil, err
	}
	n := 0
	for i := range page.Entries {
		n += edge.TextBytes(page.Entries[i].Path) + edge.TextBytes(page.Entries[i].Target)
	}
	if err := c.OccupyAnswer(n); err != nil {
		return nil, err
	}
	out := &pathList{Path: edge.Text([]byte(p)), Entries: make([]pathInfo, len(page.Entries)), Next: edge.Text([]byte(page.Next)), NextBase64: exact(page.Next)}
	for i := range page.Entries {
		out.Entries[i] = pathInfoOf(&page.Entries[i])
	}
	return out, nil
}

func pathInfoOf(p *agentsandbox.PathInfo) pathInfo {
	info := pathInfo{
		Path: edge.Text([]byte(p.Path)), PathBase64: exact(p.Path), Kind: p.Kind, SizeBytes: p.SizeBytes,
		Mode: fmt.Sprintf("%04o", p.Mode), ModifiedAt: wireTime(p.ModifiedAt),
	}
	if p.Target != "" {
		info.Target = orNull(edge.Text([]byte(p.Target)))
	}
	return info
}

// exact is base64 of what JSON cannot show; "" for what it can.
func exact(s string) string {
	if utf8.ValidString(s) {
		return ""
	}
	return base64.StdEncoding.EncodeToString([]byte(s))
}
