package agentsandbox

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"time"
)

// AuditEntry is one row of the audit log: who did what, and how it ended. It
// never holds secrets, code or contents.
type AuditEntry struct {
	// Seq counts the rows from 1, without gaps.
	Seq    int64
	At     time.Time
	Tenant string
	// KeyID is the API key that asked; empty for what the server did by itself.
	KeyID string
	// RequestID and Remote (host:port of the connection) lead to the access log.
	RequestID, Remote string
	// Action is the operation, named as in the OpenAPI document.
	Action string
	// ObjectID is what was acted on; empty when the request named or made nothing.
	ObjectID string
	// Outcome is "ok" or the code of the refusal or failure.
	Outcome string
	// Detail is what else there is to say, such as how many files expired.
	Detail string
	// Hash is the SHA-256, in hex, of this row and of the Hash before it.
	Hash string
}

// AuditOK is the outcome of what was done.
const AuditOK = "ok"

// AuditPage is one page of the audit log.
type AuditPage struct {
	Entries []AuditEntry
	Total   int
	Page
	// NextCursor is the Cursor of the page after this one; empty at the end.
	NextCursor string
}

// AuditReport is what a check of the whole log found.
type AuditReport struct {
	// Rows is how many were checked, from the first on.
	Rows int64
	// Head is the hash of the last one, in hex; that of an empty log is zeros.
	// Kept elsewhere, it proves later that nothing was cut off at the end.
	Head string
	// Broken is the number of the first row that is not what was written, or is
	// missing; 0 for none. Reason says what is wrong with it.
	Broken int64
	Reason string
}

// AuditService shows the audit log. Callers need [ScopeAdmin].
type AuditService interface {
	// AuditLog lists the log, newest first. Codes: invalid_request, forbidden.
	AuditLog(ctx context.Context, page Page) (*AuditPage, error)
}

// AuditGenesis stands for the hash before the first row.
var AuditGenesis [sha256.Size]byte

// Chain computes the hash of the row, given the hash of the row before. The
// encoding is canonical: numbers have 8 bytes, and each text has its length in
// front, so that no two rows have the same one.
func (e AuditEntry) Chain(before [sha256.Size]byte) [sha256.Size]byte {
	b := make([]byte, 0, 512)
	b = append(b, before[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Seq))
	b = binary.BigEndian.AppendUint64(b, uint64(e.At.UnixMicro()))
	for _, text := range []string{e.Tenant, e.KeyID, e.RequestID, e.Remote, e.Action, e.ObjectID, e.Outcome, e.Detail} {
		b = binary.BigEndian.AppendUint64(b, uint64(len(text)))
		b = append(b, text...)
	}
	return sha256.Sum256(b)
}

// AuditHash is a hash as entries show it.
func AuditHash(hash [sha256.Size]byte) string { return hex.EncodeToString(hash[:]) }
