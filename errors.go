package agentsandbox

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// Code is a stable, machine-readable reason why a request was not served.
type Code string

// Error makes a Code a target of errors.Is: errors.Is(err, CodeSessionNotFound).
func (c Code) Error() string { return string(c) }

// The closed set of codes. What statuses HTTP has for them is not known here.
const (
	CodeInvalidRequest    Code = "invalid_request"
	CodeUnauthorized      Code = "unauthorized"
	CodeForbidden         Code = "forbidden"
	CodeSessionNotFound   Code = "session_not_found"
	CodeFileNotFound      Code = "file_not_found"
	CodeExecutionNotFound Code = "execution_not_found"
	CodeKeyNotFound       Code = "key_not_found"
	CodePathNotFound      Code = "path_not_found"
	CodePortNotFound      Code = "port_not_found"
	CodePortNotReached    Code = "port_not_reached"
	CodeRouteNotFound     Code = "route_not_found"
	CodeMethodNotAllowed  Code = "method_not_allowed"
	CodeConflict          Code = "conflict"
	CodeTooLarge          Code = "too_large"
	CodeRateLimited       Code = "rate_limited"
	CodeInternal          Code = "internal"
	CodeUnavailable       Code = "unavailable"
	CodeStorageFull       Code = "storage_full"
)

// codes is the closed set.
var codes = []Code{
	CodeInvalidRequest,
	CodeUnauthorized,
	CodeForbidden,
	CodeSessionNotFound,
	CodeFileNotFound,
	CodeExecutionNotFound,
	CodeKeyNotFound,
	CodePathNotFound,
	CodePortNotFound,
	CodePortNotReached,
	CodeRouteNotFound,
	CodeMethodNotAllowed,
	CodeConflict,
	CodeTooLarge,
	CodeRateLimited,
	CodeInternal,
	CodeUnavailable,
	CodeStorageFull,
}

// Codes returns every code, for documents and tests.
func Codes() []Code { return slices.Clone(codes) }

// Detail names one offending field of a request and what is wrong with it.
type Detail struct {
	Field   string `json:"field" doc:"The offending field, as a path such as env_vars.PATH or file_ids[2]."`
	Message string `json:"message" doc:"What is wrong with it."`
}

// Error is a refusal, or a failure that may be shown to the caller.
type Error struct {
	Code    Code
	Message string // a sentence for people, with the remedy
	Details []Detail
	// RetryAfterSeconds is a hint that goes with rate_limited and unavailable;
	// 0 for none.
	RetryAfterSeconds int
	// RequestID is set by the HTTP layer and by the client.
	RequestID string
	// Err is the cause. It is logged and never shown to the caller.
	Err error
}

func (e *Error) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: %s: %v", e.Code, e.Message, e.Err)
	}
	return fmt.Sprintf("%s: %s", e.Code, e.Message)
}

func (e *Error) Unwrap() error { return e.Err }

// Is tells whether the target is the error's [Code].
func (e *Error) Is(target error) bool {
	code, ok := target.(Code)
	return ok && code == e.Code
}

// told marks the cause of an error of ours whose message is for the caller.
type told struct{ error }

func (t told) Unwrap() error { return t.error }

// Internal is an error of code internal that says something to the caller. What
// other errors of that code say is hidden.
func Internal(cause error, message string) *Error {
	return &Error{Code: CodeInternal, Message: message, Err: told{cause}}
}

// Told tells whether the message of an error of code internal is for the caller.
func (e *Error) Told() bool {
	var t told
	return errors.As(e.Err, &t)
}

// Errorf makes an Error with a code and a sentence, without a cause.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Invalid makes an invalid_request error that names one field.
func Invalid(field, format string, args ...any) *Error {
	message := fmt.Sprintf(format, args...)
	return &Error{
		Code:    CodeInvalidRequest,
		Message: field + ": " + message,
		Details: []Detail{{Field: field, Message: message}},
	}
}

// CodeOf returns the code of an error: "" for nil, internal for one that is
// not an *Error.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return CodeInternal
}

// MessageOf is what may be shown of an error.
func MessageOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Message
	}
	return "An internal error; the server's log has the cause."
}

// QuoteID shows an id that a caller sent: as it is if it is plain.
func QuoteID(id string) string {
	for _, c := range id {
		if c != '_' && c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return strconv.Quote(id)
		}
	}
	return id
}
