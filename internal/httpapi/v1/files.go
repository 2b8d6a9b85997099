package v1

import (
	"io"
	"net/http"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
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

func (f fileInfo) ObjectID() string { return f.FileID }

type fileList struct {
	Files []fileInfo `json:"files" nullable:"false" doc:"One page of files, uploaded and produced ones alike, newest first."`
	PageInfo
}

type fileInput struct {
	ID string `path:"file_id" doc:"The file's id."`
}

func (a *api) fileRoutes() []edge.Route {
	return []edge.Route{
		a.uploadFileRoute(),
		a.listFilesRoute(),
		a.downloadFileRoute(),
		a.getFileRoute(),
		a.deleteFileRoute(),
	}
}

func (a *api) uploadFileRoute() edge.Route {
	type uploadInput struct {
		SessionID string `query:"session_id" doc:"Also copy the file to /workspace/{filename} of this live session, or to the path given."`
	}
	return edge.Answer(edge.Route{
		Method: "POST", Path: "/v1/files", ID: "uploadFile", Tag: "files", Scope: agentsandbox.ScopeSandbox,
		Status:  http.StatusCreated,
		Summary: "Upload a file", Description: "Stores a file under an id. The body is streamed; one that ends early stores nothing.",
		Codes: []agentsandbox.Code{agentsandbox.CodeSessionNotFound, agentsandbox.CodeTooLarge, agentsandbox.CodeStorageFull},
		Upload: &edge.Content{
			MediaType: "multipart/form-data", Form: "file",
			Description: "A part named file, with a file name (of a whole path the last part is kept) and a media type. Before it there may be a part named path: where below /workspace the file belongs when it is copied to a sandbox, such as pkg/__init__.py; it is then the filename, too. There is no other part.",
			Fields:      map[string]string{"path": "Where below /workspace the file belongs: relative, UTF-8, without empty parts, . and ..; left out: at the last part of its file name."},
		},
		Resume: a.resumeUpload, Digest: digestUpload,
	}, func(c *edge.Call, in *uploadInput) (*fileInfo, error) { return a.upload(c, in.SessionID) })
}

func (a *api) listFilesRoute() edge.Route {
	return edge.Answer(edge.Route{
		Method: "GET", Path: "/v1/files", ID: "listFiles", Tag: "files", Scope: agentsandbox.ScopeRead,
		Summary: "List files", Description: "Lists uploaded and produced files, newest first.",
	}, func(c *edge.Call, in *pageInput) (*fileList, error) {
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
}

func (a *api) downloadFileRoute() edge.Route {
	return edge.Stream(edge.Route{
		Method: "GET", Path: "/v1/files/{file_id}", ID: "downloadFile", Tag: "files", Scope: agentsandbox.ScopeRead,
		Summary: "Download a file", Description: "The contents, with the file's media type and name. They never change under an id.",
		Codes:    []agentsandbox.Code{agentsandbox.CodeFileNotFound},
		Download: &edge.Content{MediaType: "*/*", Description: "The contents.", Ranges: true},
	}, func(c *edge.Call, in *fileInput) error {
		f, body, err := a.service.OpenFile(c.Context(), in.ID)
		if err != nil {
			return err
		}
		seek, _ := body.(io.ReadSeeker)
		return c.Download(edge.Download{
			Name: f.Filename, MediaType: f.MediaType, Size: f.SizeBytes, SHA256: f.SHA256,
			Modified: f.CreatedAt, Body: body, Seek: seek,
		})
	})
}

func (a *api) getFileRoute() edge.Route {
	return edge.Answer(edge.Route{
		Method: "GET", Path: "/v1/files/{file_id}/metadata", ID: "getFile", Tag: "files", Scope: agentsandbox.ScopeRead,
		Summary: "Show a file", Description: "Shows what is known of a file, without its contents.",
		Codes: []agentsandbox.Code{agentsandbox.CodeFileNotFound},
	}, func(c *edge.Call, in *fileInput) (*fileInfo, error) {
		f, err := a.service.File(c.Context(), in.ID)
		if err != nil {
			return nil, err
		}
		info := fileInfoOf(f)
		return &info, nil
	})
}

func (a *api) deleteFileRoute() edge.Route {
	return edge.Answer(edge.Route{
		Method: "DELETE", Path: "/v1/files/{file_id}", ID: "deleteFile", Tag: "files", Scope: agentsandbox.ScopeSandbox,
		Summary: "Delete a file", Description: "Forgets a file and its contents. Copies that are already in a sandbox stay.",
		Codes: []agentsandbox.Code{agentsandbox.CodeFileNotFound},
	}, func(c *edge.Call, in *fileInput) (*edge.Nothing, error) {
		return &edge.Nothing{}, a.service.DeleteFile(c.Context(), in.ID)
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
