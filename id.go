package agentsandbox

import (
	"crypto/rand"
	"encoding/base32"
	"strings"
)

// Prefixes of ids, by kind. An id is a prefix and 26 characters of base32
// (130 bits of randomness, lower case): unguessable and safe in a path.
const (
	SessionPrefix   = "ses_"
	ExecutionPrefix = "exe_"
	FilePrefix      = "fil_"
	KeyPrefix       = "key_"
)

// SecretPrefix starts every key value that the service makes, so that secret
// scanners find leaked ones.
const SecretPrefix = "asbx_"

const idLength = 26

var idEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewID returns a fresh id of a kind.
func NewID(prefix string) string {
	return prefix + randomText(idLength)
}

// NewSecret returns the value of a fresh key: SecretPrefix and 200 random bits.
func NewSecret() string {
	return SecretPrefix + randomText(40)
}

// ValidID tells whether s has the form of an id of that kind. It says nothing
// of whether such a thing exists.
func ValidID(prefix, s string) bool {
	rest, ok := strings.CutPrefix(s, prefix)
	if !ok || len(rest) != idLength {
		return false
	}
	for _, c := range []byte(rest) {
		if (c < 'a' || c > 'z') && (c < '2' || c > '7') {
			return false
		}
	}
	return true
}

func randomText(n int) string {
	b := make([]byte, (n*5+7)/8)
	_, _ = rand.Read(b) // never fails: crypto/rand ends the program instead
	return idEncoding.EncodeToString(b)[:n]
}
