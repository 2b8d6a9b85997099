package agentsandbox

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// FileUpload says what is uploaded.
type FileUpload struct {
	// Filename may be a whole path: its last part is kept. It is of no use with Path.
	Filename string
	// Path says where below Workspace the file belongs; empty: at its name.
	Path string
	// MediaType as the client gave it; empty: guessed from the name.
	MediaType string
	// SessionID injects the file into a live session at once; may be empty.
	SessionID string
}

// File is bytes kept by the service under an id. Its contents never change.
type File struct {
	ID     string
	Tenant string
	// Filename is the path of a produced file below Workspace or OutputDir, with
	// forward slashes; that of an upload below Workspace, if it was given, or else
	// the last part of its name.
	Filename  string
	MediaType string
	SizeBytes int64
	// SHA256 of the contents, in hex.
	SHA256 string
	// SessionID is the session that produced the file, or that it was uploaded
	// into; empty for a plain upload.
	SessionID   string
	ExecutionID string // the run that produced it; empty for an upload
	// Path is where a produced file stood in its sandbox, and where an upload
	// belongs that was given a path; empty for any other.
	Path      string
	CreatedAt time.Time
}

// FilePage is one page of files.
type FilePage struct {
	Files []File
	Total int
	Page
	// NextCursor is the Cursor of the page after this one; empty at the end.
	NextCursor string
}

// MaxFilenameBytes bounds the name of an upload, as Linux does for a name.
const MaxFilenameBytes = 255

// CleanFilename returns the last part of the name of an upload, or an error if
// it cannot be the name of a file.
func CleanFilename(name string) (string, error) {
	base := name[strings.LastIndexAny(name, `/\`)+1:]
	switch {
	case base == "" || base == "." || base == "..":
		return "", Invalid("file", "needs a file name, not %q.", name)
	case len(base) > MaxFilenameBytes:
		return "", Invalid("file", "the file name must be at most %d bytes, not %d.", MaxFilenameBytes, len(base))
	case !utf8.ValidString(base):
		return "", Invalid("file", "the file name must be UTF-8.")
	case strings.ContainsFunc(base, unicode.IsControl):
		return "", Invalid("file", "the file name must not contain control characters.")
	}
	return base, nil
}

// MaxUploadPathBytes bounds the path of an upload, so that it fits below Workspace.
const MaxUploadPathBytes = MaxPathBytes - len(Workspace) - 1

// CheckUploadPath refuses what cannot be the path of a file below Workspace.
func CheckUploadPath(p string) error {
	switch {
	case p == "":
		return Invalid("path", "must not be empty. Leave it out to place the file at its name.")
	case strings.HasPrefix(p, "/"):
		return Invalid("path", "must be relative, such as pkg/__init__.py: it is below %s.", Workspace)
	case len(p) > MaxUploadPathBytes:
		return Invalid("path", "must be at most %d bytes, not %d.", MaxUploadPathBytes, len(p))
	case !utf8.ValidString(p):
		return Invalid("path", "must be UTF-8.")
	case strings.ContainsFunc(p, unicode.IsControl):
		return Invalid("path", "must not contain NUL or other control characters.")
	case strings.Contains(p, `\`):
		return Invalid("path", `must separate its parts by "/", and not contain "\".`)
	}
	for part := range strings.SplitSeq(p, "/") {
		switch {
		case part == "" || part == "." || part == "..":
			return Invalid("path", "must not have the part %q.", part)
		case len(part) > MaxFilenameBytes:
			return Invalid("path", "a part must be at most %d bytes, not %d.", MaxFilenameBytes, len(part))
		}
	}
	return nil
}

// Name returns the checked name that the upload is kept under.
func (u FileUpload) Name() (string, error) {
	if u.Path != "" {
		return u.Path, CheckUploadPath(u.Path)
	}
	return CleanFilename(u.Filename)
}

// toolDirectories are names of directories that programs keep for themselves.
var toolDirectories = []string{
	"__pycache__", ".git", ".hg", ".svn", "node_modules", ".ipynb_checkpoints",
	".cache", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", ".tox", ".nox",
	".npm", ".yarn", ".pnpm-store", ".config/matplotlib",
}

// VirtualEnvironmentMark is the file that every virtual environment of Python has.
const VirtualEnvironmentMark = "pyvenv.cfg"

// ToolDirectory tells whether a directory is by its name one that programs keep for
// themselves: nobody would call what is in it a result. docs/limits.md lists them.
func ToolDirectory(p string) bool {
	return slices.ContainsFunc(toolDirectories, func(name string) bool { return p == name || strings.HasSuffix(p, "/"+name) })
}

// MaxFileIDs bounds how many files one request may inject.
const MaxFileIDs = 1000

// ValidateFileIDs checks the form of a list of file ids.
func ValidateFileIDs(ids []string) error {
	if len(ids) > MaxFileIDs {
		return Invalid("file_ids", "must name at most %d files, not %d.", MaxFileIDs, len(ids))
	}
	if i := slices.Index(ids, ""); i >= 0 {
		return Invalid(fmt.Sprintf("file_ids[%d]", i), "must not be empty.")
	}
	return nil
}

// PathKind says what is at a path.
type PathKind string

const (
	PathFile      PathKind = "file"
	PathDirectory PathKind = "directory"
	PathSymlink   PathKind = "symlink"
	PathOther     PathKind = "other" // a FIFO, a socket, a device
)

// PathInfo is what is at a path inside a sandbox.
type PathInfo struct {
	Path       string // absolute
	Kind       PathKind
	SizeBytes  int64
	Mode       uint32 // permission bits
	ModifiedAt time.Time
	// Target is where a symbolic link points; empty otherwise.
	Target string
}

// PathPage is part of a directory, sorted by name.
type PathPage struct {
	Entries []PathInfo
	// Next is the name to go on after; empty at the end.
	Next string
}

// MaxPathBytes bounds a path, as Linux does.
const MaxPathBytes = 4095

// CleanPath checks and cleans an absolute path inside a sandbox.
func CleanPath(p string) (string, error) {
	switch {
	case p == "":
		return "", Invalid("path", "is needed: an absolute path in the sandbox, such as /workspace/data.csv.")
	case !strings.HasPrefix(p, "/"):
		return "", Invalid("path", "must be absolute, such as /workspace/%s.", p)
	case len(p) > MaxPathBytes:
		return "", Invalid("path", "must be at most %d bytes, not %d.", MaxPathBytes, len(p))
	case strings.ContainsRune(p, 0):
		return "", Invalid("path", "must not contain NUL.")
	}
	return path.Clean(p), nil
}

// ShownName shows the name of a file as UTF-8. Each byte that is not becomes %XX, so
// that names which differ stay different: clients save files under them.
func ShownName(name string) string {
	if utf8.ValidString(name) {
		return name
	}
	var s strings.Builder
	for i := 0; i < len(name); {
		r, n := utf8.DecodeRuneInString(name[i:])
		if r == utf8.RuneError && n == 1 {
			fmt.Fprintf(&s, "%%%02X", name[i])
		} else {
			s.WriteString(name[i : i+n])
		}
		i += n
	}
	return s.String()
}

// SystemPath tells whether a clean absolute path is that of a file of the sandbox's
// kernel: what is in /proc, /sys and /dev describes processes and devices, and is
// for programs inside. Shared memory, /dev/shm, is the user's.
func SystemPath(p string) bool {
	within := func(dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }
	return within("/proc") || within("/sys") || within("/dev") && !within("/dev/shm")
}

func sizeMessage(size, limit int64) string {
	return fmt.Sprintf("%d bytes; the limit is %d.", size, limit)
}
