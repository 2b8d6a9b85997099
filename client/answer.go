package client

import (
	"fmt"
	"maps"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/agentsandbox/agentsandbox"
)

// pageAnswer is what every list has beside its items.
type pageAnswer struct {
	Total  int `json:"total"`
	Limit  int `json:"limit"`
	Offset int `json:"offset"`
	// A server that knows no cursors leaves it out.
	NextCursor string `json:"next_cursor"`
}

func (a pageAnswer) page() agentsandbox.Page {
	return agentsandbox.Page{Limit: a.Limit, Offset: a.Offset}
}

// timeOrZero turns a time that may be null on the wire into one that may be zero.
func timeOrZero(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

// errMissing says that an answer lacks what every answer of its kind has.
type errMissing string

func (e errMissing) Error() string { return string(e) + " is missing" }

// incomplete makes the error of an answer that is JSON, but not the right one:
// taking its absent fields for zeros would invent a result.
func (c *Client) incomplete(call call, err error) error {
	return &agentsandbox.Error{
		Code:    agentsandbox.CodeInternal,
		Message: fmt.Sprintf("The answer of %s to %s %s is not of this API", c.base, call.method, call.path),
		Err:     err,
	}
}

// validText refuses what JSON cannot carry: its encoder would replace the bytes,
// and something else than was asked for would run.
func validText(field, s string) error {
	if !utf8.ValidString(s) {
		return agentsandbox.Invalid(field, "must be UTF-8; upload other bytes as a file.")
	}
	return nil
}

func validTexts(field string, values map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if !utf8.ValidString(name) {
			return agentsandbox.Invalid(field, "the name %q must be UTF-8.", name)
		}
		if err := validText(fmt.Sprintf("%s.%s", field, name), values[name]); err != nil {
			return err
		}
	}
	return nil
}
