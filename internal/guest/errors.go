package guest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode"

	"github.com/agentsandbox/agentsandbox/internal/guest/wire"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// Failure is how the agent refuses: the text of a reset, as JSON.
type Failure struct {
	Code FailureCode `json:"code"`
	Text string      `json:"text"`
}

// FailureCode names the error that a failure becomes on the host.
type FailureCode string

const (
	FailNotExist   FailureCode = "not_exist"
	FailPermission FailureCode = "permission"
	FailNotRegular FailureCode = "not_regular"
	FailNoSpace    FailureCode = "no_space"
	FailInvalid    FailureCode = "invalid"
	FailNotStarted FailureCode = "not_started"
	FailRefused    FailureCode = "refused"
	FailSystemPath FailureCode = "system_path"
	FailOther      FailureCode = "other"
)

// Error makes a failure an error, with which the parts of the agent refuse.
func (f Failure) Error() string { return f.Text }

// Tail is the end of what a program said, where the reason stands.
func Tail(said []byte) []byte {
	const most = 300
	said = bytes.TrimSpace(said)
	return said[max(0, len(said)-most):]
}

var failures = map[FailureCode]error{
	FailNotExist:   runtime.ErrNotExist,
	FailPermission: runtime.ErrPermission,
	FailNotRegular: runtime.ErrNotRegular,
	FailNoSpace:    runtime.ErrNoSpace,
	FailInvalid:    runtime.ErrInvalid,
	FailNotStarted: runtime.ErrNotStarted,
	FailRefused:    runtime.ErrRefused,
	FailSystemPath: runtime.ErrSystemPath,
}

// Encode returns the failure as the text of a reset.
func (f Failure) Encode() []byte {
	const room = wire.MaxResetText / 8 // JSON makes at most 6 bytes of one
	if len(f.Text) > room {
		f.Text = f.Text[:room] + "…"
	}
	text, err := json.Marshal(f)
	if err != nil {
		return nil // two strings can always be encoded
	}
	return text
}

// decodeFailure makes an error of what the agent gave as a reason.
func decodeFailure(reset *wire.ResetError) error {
	var f Failure
	if err := json.Unmarshal(reset.Text, &f); err != nil {
		return breach("a reset whose reason cannot be read")
	}
	text := printable(f.Text)
	if known, ok := failures[f.Code]; ok {
		return fmt.Errorf("%w: %s", known, text)
	}
	return fmt.Errorf("the guest agent failed: %s", text)
}

// printable replaces what must not reach a log or a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}
