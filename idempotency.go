package agentsandbox

import "strings"

// MaxIdempotencyKeyBytes bounds an Idempotency-Key.
const MaxIdempotencyKeyBytes = 255

// ValidateIdempotencyKey checks a key: 1 to 255 printable ASCII characters.
func ValidateIdempotencyKey(key string) error {
	if key == "" || len(key) > MaxIdempotencyKeyBytes || strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' }) {
		return Invalid("Idempotency-Key", "must be 1 to %d printable ASCII characters, such as a UUID.", MaxIdempotencyKeyBytes)
	}
	return nil
}
