package store

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/agentsandbox/agentsandbox"
)

// micros is a time as the database has it: exact to a microsecond, NULL for the
// zero time.
func micros(t time.Time) sql.NullInt64 {
	return sql.NullInt64{Int64: t.UnixMicro(), Valid: !t.IsZero()}
}

func fromMicros(n sql.NullInt64) time.Time {
	if !n.Valid {
		return time.Time{}
	}
	return time.UnixMicro(n.Int64).UTC()
}

// object is a map as JSON. What is not UTF-8 is refused: JSON would change it.
func object(field string, m map[string]string) (string, error) {
	if len(m) == 0 {
		return "{}", nil
	}
	for name, value := range m {
		if !utf8.ValidString(name) || !utf8.ValidString(value) {
			return "", agentsandbox.Invalid(field, "names and values must be UTF-8; %q is not, or has a value that is not.", name)
		}
	}
	b, err := json.Marshal(m)
	if err != nil {
		return "", fmt.Errorf("store: %s: %w", field, err)
	}
	return string(b), nil
}

// fromObject reads a map; an empty one is nil.
func fromObject(text string) (map[string]string, error) {
	if text == "{}" {
		return nil, nil
	}
	var m map[string]string
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		return nil, fmt.Errorf("store: a stored JSON object: %w", err)
	}
	return m, nil
}

// list of strings as JSON.
func array[S ~string](field string, list []S) (string, error) {
	if list == nil {
		list = []S{}
	}
	for _, s := range list {
		if !utf8.ValidString(string(s)) {
			return "", agentsandbox.Invalid(field, "must be UTF-8, which %q is not.", string(s))
		}
	}
	b, err := json.Marshal(list)
	if err != nil {
		return "", fmt.Errorf("store: %s: %w", field, err)
	}
	return string(b), nil
}

// bytesOf is never nil, which the driver would store as NULL.
func bytesOf(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// need refuses a row without what every row has: a mistake of the caller's, and
// so an internal error.
func need(kind, id, tenant string, created time.Time) error {
	switch {
	case id == "":
		return fmt.Errorf("store: a new %s needs an id", kind)
	case tenant == "":
		return fmt.Errorf("store: %s %s needs a tenant", kind, id)
	case created.IsZero():
		return fmt.Errorf("store: %s %s needs the time when it was made", kind, id)
	}
	return nil
}
