// Package files keeps the files of clients: what they upload and what runs made. It
// copies them into sandboxes and out of them, and removes what is too old or has no
// row. Contents cross as bytes through the sandbox; nothing here opens a path of one.
// What a tenant has no room for is refused with the quota's error; what cannot be
// removed is logged, and tried again by the next sweep.
package files

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"mime"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/cursor"
	"github.com/agentsandbox/agentsandbox/internal/engine/quota"
	"github.com/agentsandbox/agentsandbox/internal/engine/work"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// Store keeps what is known of files; their contents are in Blobs.
type Store interface {
	InsertFile(ctx context.Context, f agentsandbox.File) error
	File(ctx context.Context, tenant, id string) (agentsandbox.File, error)
	// Files lists newest first, in one total order.
	Files(ctx context.Context, tenant string, page agentsandbox.Page) (agentsandbox.FilePage, error)
	DeleteFile(ctx context.Context, tenant, id string) error
	// HasFile tells whether any tenant has a file of that id.
	HasFile(ctx context.Context, id string) (bool, error)
	// OldFiles lists at most limit files from before a time, oldest first, and
	// DeleteFiles forgets files; both whose ever they are.
	OldFiles(ctx context.Context, before time.Time, limit int) ([]string, error)
	DeleteFiles(ctx context.Context, ids []string) error
}

// Blobs keeps the contents of files, by file id.
type Blobs interface {
	// Put stores body under an id: it writes a temporary name and renames it at
	// the end. limit bounds the size (0: none); past it the error has code
	// too_large, on a full disk storage_full. After an error nothing is left.
	Put(ctx context.Context, id string, body io.Reader, limit int64) (Blob, error)
	// Open opens contents that are what Put said of them, and fails for any others;
	// what is not there is fs.ErrNotExist.
	Open(id string, want Blob) (io.ReadSeekCloser, error)
	// Remove can be repeated.
	Remove(id string) error
	// Sweep removes the contents for which keep says false, and temporary names
	// that an earlier process left. It returns how many it removed.
	Sweep(ctx context.Context, keep func(id string) (bool, error)) (int, error)
}

// Blob says what was stored. It is an alias, so that an implementation of Blobs
// need not import this package to return it.
type Blob = struct {
	SizeBytes int64
	SHA256    string // hex
}

// Options configure a Library.
type Options struct {
	Store  Store
	Blobs  Blobs
	Quotas *quota.Quotas
	// Vault seals the cursors of lists; nil: there are none.
	Vault cursor.Vault
	// UploadBytes bounds one upload, and Collect what is kept of one run.
	UploadBytes int64
	Collect     runtime.CollectLimits
	Logger      *slog.Logger
	// Now is the time that rows carry.
	Now func() time.Time
}

// Library keeps files.
type Library struct {
	store       Store
	blobs       Blobs
	quotas      *quota.Quotas
	vault       cursor.Vault
	uploadBytes int64
	collect     runtime.CollectLimits
	log         *slog.Logger
	now         func() time.Time

	mu     sync.Mutex
	pinned map[string]int // files that running requests need, which do not expire
}

// New returns a library.
func New(o Options) *Library {
	return &Library{
		store: o.Store, blobs: o.Blobs, quotas: o.Quotas, vault: o.Vault, uploadBytes: o.UploadBytes, collect: o.Collect,
		log: o.Logger, now: o.Now, pinned: map[string]int{},
	}
}

// NewUpload returns the row of a file that a principal is about to upload.
func (l *Library) NewUpload(p agentsandbox.Principal, upload agentsandbox.FileUpload) (agentsandbox.File, error) {
	name, err := upload.Name()
	if err != nil {
		return agentsandbox.File{}, err
	}
	f := agentsandbox.File{
		ID: agentsandbox.NewID(agentsandbox.FilePrefix), Tenant: p.Tenant, Filename: name,
		MediaType: mediaType(upload.MediaType, name), SessionID: upload.SessionID, CreatedAt: l.now(),
	}
	if upload.Path != "" {
		f.Path = path.Join(agentsandbox.Workspace, name)
	}
	return f, nil
}

// Keep stores an uploaded file, and copies it into a sandbox if one is given. It fills in
// what its contents say.
func (l *Library) Keep(ctx context.Context, f *agentsandbox.File, body io.Reader, target runtime.Sandbox) error {
	limit, full, err := l.quotas.UploadLimit(ctx, f.Tenant, l.uploadBytes)
	if err != nil {
		return err
	}
	body, stop := work.BodyWithin(ctx, body)
	defer stop()
	if err := l.put(ctx, f, body, limit); err != nil {
		if full != nil && agentsandbox.CodeOf(err) == agentsandbox.CodeTooLarge {
			err = full
		}
		return err
	}
	if target != nil {
		err = l.injectOne(ctx, target, *f)
	}
	if err == nil {
		err = l.quotas.AddFile(ctx, *f, func(ctx context.Context) error { return l.store.InsertFile(ctx, *f) })
	}
	if err != nil {
		l.Remove(f.ID)
	}
	return err
}

func (l *Library) put(ctx context.Context, f *agentsandbox.File, body io.Reader, limit int64) error {
	blob, err := l.blobs.Put(ctx, f.ID, body, limit)
	if err != nil {
		return err
	}
	f.SizeBytes, f.SHA256 = blob.SizeBytes, blob.SHA256
	return nil
}

// Remove removes the contents of a file that has no row.
func (l *Library) Remove(id string) {
	if err := l.blobs.Remove(id); err != nil {
		l.log.Error("the contents of a file could not be removed", "file", id, "error", err)
	}
}

// File implements agentsandbox.FileService.
func (l *Library) File(ctx context.Context, id string) (*agentsandbox.File, error) {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, err
	}
	f, err := l.store.File(ctx, p.Tenant, id)
	if err != nil {
		return nil, err
	}
	return &f, nil
}

// OpenFile implements agentsandbox.FileService. The reader is an io.Seeker.
func (l *Library) OpenFile(ctx context.Context, id string) (*agentsandbox.File, io.ReadCloser, error) {
	f, err := l.File(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	r, err := l.open(*f)
	if errors.Is(err, fs.ErrNotExist) {
		// Deleted between the two look-ups, or lost: the row tells which.
		if _, again := l.File(ctx, id); again != nil {
			return nil, nil, again
		}
	}
	if err != nil {
		return nil, nil, err
	}
	return f, r, nil
}

// openBlob opens the contents of a file, and refuses what is not what was stored:
// a power failure, a disk or a person can have changed it.
func (l *Library) open(f agentsandbox.File) (io.ReadSeekCloser, error) {
	r, err := l.blobs.Open(f.ID, Blob{SizeBytes: f.SizeBytes, SHA256: f.SHA256})
	if err != nil {
		return nil, agentsandbox.Internal(err, "The contents of "+f.ID+" are damaged or gone on the server's disk: upload the file again, or have the operator restore it.")
	}
	return r, nil
}

// Files implements agentsandbox.FileService.
func (l *Library) Files(ctx context.Context, page agentsandbox.Page) (*agentsandbox.FilePage, error) {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, err
	}
	cursors, err := cursor.ForList(l.vault, "files", p.Tenant)
	if err != nil {
		return nil, err
	}
	opened, err := cursors.Open(page)
	if err != nil {
		return nil, err
	}
	list, err := l.store.Files(ctx, p.Tenant, opened)
	list.Page, list.NextCursor = page, cursors.Seal(list.NextCursor)
	return &list, err
}

// DeleteFile implements agentsandbox.FileService.
func (l *Library) DeleteFile(ctx context.Context, id string) error {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return err
	}
	if err := l.store.DeleteFile(ctx, p.Tenant, id); err != nil {
		return err
	}
	l.Remove(id)
	return nil
}

const unknownMediaType = "application/octet-stream"

// mediaType is the one given if it has the form of one, or a guess by the name.
func mediaType(given, name string) string {
	if given != "" {
		if t, params, err := mime.ParseMediaType(given); err == nil && strings.Contains(t, "/") {
			return mime.FormatMediaType(t, params)
		}
	}
	if t := mime.TypeByExtension(path.Ext(name)); t != "" {
		return t
	}
	return unknownMediaType
}
