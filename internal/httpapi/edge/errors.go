package edge

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"syscall"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/input"
)

const hiddenMessage = "The server failed on this request. Try again; if it stays, give the request id to the operator."

// Fail answers with an error. After the first byte of an answer it cuts the
// connection, which is all that is left to tell the client with.
func (c *Call) Fail(err error) {
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
	c.writeFailure(Status(e.Code), e)
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

func (c *Call) writeFailure(status int, e *agentsandbox.Error) {
	c.code = e.Code
	h := c.w.Header()
	// What a route had set for its success is not true of this answer.
	for _, name := range []string{"Content-Disposition", "Content-Length", "Content-Security-Policy", "ETag", "Last-Modified", "Accept-Ranges"} {
		h.Del(name)
	}
	switch e.Code {
	case agentsandbox.CodeTooLarge:
		// The rest of the body is not worth reading.
		h.Set("Connection", "close")
	case agentsandbox.CodeRateLimited, agentsandbox.CodeUnavailable:
		h.Set("Retry-After", strconv.Itoa(max(1, e.RetryAfterSeconds)))
	}
	if err := c.surface.Fail(c, status, e); err != nil {
		panic(err) // strings that do not encode: not possible
	}
}

// RouteNotFound is the error of a request for a path that the surface lacks.
func (c *Call) RouteNotFound() error {
	help := "."
	if c.surface.Docs != "" {
		help = "; " + c.surface.Docs + " lists every route."
	}
	return agentsandbox.Errorf(agentsandbox.CodeRouteNotFound, "There is no %s%s", input.Shown(c.r.URL.Path), help)
}
