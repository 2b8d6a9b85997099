// Package agentsandbox is the vocabulary of Agent Sandbox: the things that the
// service knows (executions, sessions, files, keys), the rules that make them
// valid, the closed set of error codes, and [Service], the one interface that
// the engine implements in the daemon and the Go client implements over HTTP.
//
// The package depends on the standard library alone and knows nothing of HTTP,
// SQL or gVisor. Units stand last in a name (TimeoutMS, MemoryMB, SizeBytes);
// times are UTC.
package agentsandbox

import (
	"context"
	"io"
)

// Workspace is the working directory of every execution, kept for the life of
// its session.
const Workspace = "/workspace"

// OutputDir is the second directory whose new and changed files are collected
// after an execution.
const OutputDir = "/output"

// Service is what Agent Sandbox does. Every method acts for the [Principal] in
// its context and sees that principal's tenant only: an id of another tenant is
// answered exactly as an id that does not exist. Errors are *[Error] values with
// a code of the table in errors.go; anything else is an internal error.
//
// Implementations are safe for concurrent use.
type Service interface {
	ExecutionService
	SessionService
	FileService
	WorkspaceService
	KeyService
	AuditService
	NetworkService
}

// Interrupter is implemented by a body of an upload that can be made to end: after
// Interrupt each Read fails at once with an error that wraps [context.Canceled],
// one that waits for the client included. The body of a client that is slow must
// not outlast the session that it goes to.
type Interrupter interface {
	Interrupt()
}

// ExecutionService runs code and keeps the records of the runs.
type ExecutionService interface {
	// Execute runs code and returns when it has ended. What the code did, its
	// crash or time-out included, is in the Execution; the error speaks only of
	// requests that were refused and of failures of the service itself.
	// Cancelling ctx ends the code; the record then says "cancelled".
	//
	// Codes: invalid_request, session_not_found, file_not_found, too_large,
	// conflict (the session is being deleted), unavailable, storage_full.
	Execute(ctx context.Context, req ExecuteRequest) (*Execution, error)

	// Execution returns the record of one run. Codes: execution_not_found.
	Execution(ctx context.Context, id string) (*Execution, error)

	// Executions lists records, newest first. Codes: invalid_request.
	Executions(ctx context.Context, filter ExecutionFilter) (*ExecutionPage, error)
}

// SessionService keeps sandboxes between executions.
type SessionService interface {
	// CreateSession claims a sandbox, injects the files named, and keeps it
	// until it is deleted or expires. Codes: invalid_request, file_not_found, unavailable.
	CreateSession(ctx context.Context, req SessionRequest) (*Session, error)

	// Session returns a live session. Codes: session_not_found.
	Session(ctx context.Context, id string) (*Session, error)

	// Sessions lists the live sessions, newest first. Codes: invalid_request.
	Sessions(ctx context.Context, filter SessionFilter) (*SessionPage, error)

	// KeepSession counts as a use of a live session, and puts off its expiry.
	// idleTimeoutMS, if not 0, is how long it may be idle from now on. Codes:
	// invalid_request, session_not_found.
	KeepSession(ctx context.Context, id string, idleTimeoutMS int64) (*Session, error)

	// DeleteSession ends what runs in the session and destroys its sandbox.
	// Of several callers at once, one wins; the others get session_not_found.
	DeleteSession(ctx context.Context, id string) error

	// InjectFiles copies files to Workspace/{Filename} of a live session.
	// Codes: invalid_request, session_not_found, file_not_found, storage_full
	// (the sandbox has no room left).
	InjectFiles(ctx context.Context, sessionID string, fileIDs []string) error
}

// FileService keeps bytes that a client uploaded or an execution produced.
type FileService interface {
	// UploadFile stores body until EOF. A body that fails before its end is
	// not stored. Codes: invalid_request, too_large, session_not_found,
	// storage_full.
	UploadFile(ctx context.Context, upload FileUpload, body io.Reader) (*File, error)

	// File returns what is known of a file. Codes: file_not_found.
	File(ctx context.Context, id string) (*File, error)

	// OpenFile opens the contents, which the caller closes. Codes: file_not_found.
	OpenFile(ctx context.Context, id string) (*File, io.ReadCloser, error)

	// Files lists files, newest first, in an order that does not shuffle
	// between pages. Codes: invalid_request.
	Files(ctx context.Context, page Page) (*FilePage, error)

	// DeleteFile forgets a file and its contents; copies in sandboxes stay.
	// Codes: file_not_found.
	DeleteFile(ctx context.Context, id string) error
}

// WorkspaceService reads and writes files inside a live session, by absolute
// path, with the rights of the code that runs there. Symbolic links are not
// followed in the last element of a path: reading one is a conflict.
type WorkspaceService interface {
	// ReadPath opens a regular file, which the caller closes. Codes:
	// invalid_request, session_not_found, path_not_found, forbidden,
	// conflict (a directory, a link, a device …).
	ReadPath(ctx context.Context, sessionID, path string) (*PathInfo, io.ReadCloser, error)

	// WritePath writes body to a file through a temporary name, and makes the
	// directories above it. Codes: as ReadPath, and storage_full, too_large.
	WritePath(ctx context.Context, sessionID, path string, body io.Reader) (*PathInfo, error)

	// StatPath says what is at a path. Codes: as ReadPath.
	StatPath(ctx context.Context, sessionID, path string) (*PathInfo, error)

	// ListPath lists a directory by name, after the name given, at most limit
	// entries (1 to 1000). Codes: as ReadPath.
	ListPath(ctx context.Context, sessionID, path, after string, limit int) (*PathPage, error)

	// RemovePath removes a file, or a directory and all below it. Codes: as
	// ReadPath.
	RemovePath(ctx context.Context, sessionID, path string) error
}

// KeyService manages API keys. Callers need [ScopeKeys]; with [ScopeAdmin] they
// may act on every tenant's keys.
type KeyService interface {
	// CreateKey makes a key and shows its value, once. A caller can give only
	// scopes that it has. Codes: invalid_request, forbidden.
	CreateKey(ctx context.Context, req KeyRequest) (*NewKey, error)

	// Keys lists keys, newest first, without their values.
	Keys(ctx context.Context, page Page) (*KeyPage, error)

	// RevokeKey stops a key from working, at once. Codes: key_not_found.
	RevokeKey(ctx context.Context, id string) error
}
