package httpapi

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"unicode"

	"github.com/agentsandbox/agentsandbox"
)

// failure is the body of every answer that is not a success.
type failure struct {
	Error failureInfo `json:"error"`
}

type failureInfo struct {
	Code      agentsandbox.Code     `json:"code" doc:"Why, for programs: one of a closed set."`
	Message   string                `json:"message" doc:"Why, for people, with the remedy."`
	Details   []agentsandbox.Detail `json:"details" nullable:"false" doc:"The offending fields; empty when no field is to blame."`
	RequestID string                `json:"request_id" doc:"Names this request in the server's log."`
}

const hiddenMessage = "The server failed on this request. Try again; if it stays, give the request id to the operator."

// fail answers with an error. After the first byte of an answer it cuts the
// connection, which is all that is left to tell the client with.
func (c *call) fail(err error) {
	if c.w.broken {
		panic(http.ErrAbortHandler)
	}
	if c.Context().Err() != nil && agentsandbox.CodeOf(err) == agentsandbox.CodeInternal {
		c.gone = true
		err = &agentsandbox.Error{
			Code:    agentsandbox.CodeUnavailable,
			Message: "The request was cancelled before it was served.",
			Err:     context.Cause(c.Context()),
		}
	}
	c.cause = err
	if c.w.status != 0 {
		c.code = agentsandbox.CodeOf(err)
		panic(http.ErrAbortHandler)
	}
	e := shownError(err)
	status := Status(e.Code)
	c.writeFailure(status, e)
}

// shownError is what the caller gets to see: an internal error that was not made
// for that, or one with a code that the table lacks, says nothing of its cause.
func shownError(err error) *agentsandbox.Error {
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		return &agentsandbox.Error{Code: agentsandbox.CodeUnavailable, Message: "The server has no open files left for this request; try again shortly."}
	}
	var e *agentsandbox.Error
	if !errors.As(err, &e) || Status(e.Code) == http.StatusInternalServerError && !e.Told() {
		return &agentsandbox.Error{Code: agentsandbox.CodeInternal, Message: hiddenMessage}
	}
	return e
}

func (c *call) writeFailure(status int, e *agentsandbox.Error) {
	c.code = e.Code
	h := c.w.Header()
	// What a route had set for its success is not true of this answer.
	for _, name := range []string{"Content-Disposition", "Content-Length", "Content-Security-Policy", "ETag", "Last-Modified", "Accept-Ranges"} {
		h.Del(name)
	}
	switch e.Code {
	case agentsandbox.CodeUnauthorized:
		h.Set("WWW-Authenticate", "Bearer")
	case agentsandbox.CodeTooLarge:
		// The rest of the body is not worth reading.
		h.Set("Connection", "close")
	case agentsandbox.CodeRateLimited, agentsandbox.CodeUnavailable:
		h.Set("Retry-After", strconv.Itoa(max(1, e.RetryAfterSeconds)))
	}
	body := failure{failureInfo{Code: e.Code, Message: e.Message, Details: e.Details, RequestID: c.requestID}}
	if body.Error.Details == nil {
		body.Error.Details = []agentsandbox.Detail{}
	}
	if err := c.writeJSON(status, body); err != nil {
		panic(err) // strings that do not encode: not possible
	}
}

func routeNotFound(r *http.Request) error {
	return agentsandbox.Errorf(agentsandbox.CodeRouteNotFound,
		"There is no %s; /docs lists every route.", shown(r.URL.Path))
}

// shown makes what a client sent fit to be repeated in a message.
func shown(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, clip(s))
}

// cleanPath tells whether an escaped path has no empty, "." or ".." parts: the
// mux would redirect such a one, which a client of an API has no use for.
func cleanPath(p string) bool {
	if !strings.HasPrefix(p, "/") {
		return false
	}
	for part := range strings.SplitSeq(strings.TrimSuffix(p[1:], "/"), "/") {
		if part == "" && p != "/" || part == "." || part == ".." {
			return false
		}
	}
	return true
}
