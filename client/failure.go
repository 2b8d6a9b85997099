package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

// maxErrorBytes bounds the body of an error that is read.
const maxErrorBytes = 1 << 20

// Pauses between attempts, and the longest that a server may ask for.
const (
	firstPause = 100 * time.Millisecond
	longPause  = 5 * time.Second
)

// pause waits before the next attempt: as long as the server asked, or twice as
// long as the last time.
func pause(ctx context.Context, attempt int, hint time.Duration) error {
	wait := firstPause << (attempt - 1)
	if hint > 0 {
		wait = hint
	}
	timer := time.NewTimer(min(wait, longPause))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// mayRepeat tells whether a failed request can be sent again without doing
// anything twice.
func mayRepeat(call call, resp *http.Response, err error) bool {
	if err != nil && neverConnected(err) {
		return true
	}
	if call.body != nil {
		return false // what was read of it is gone
	}
	once := call.key != "" || call.method == http.MethodGet || call.method == http.MethodHead
	if err != nil {
		return once
	}
	if call.upgrade != "" && resp.StatusCode == http.StatusBadGateway {
		return false // nobody listens, and a caller wants to know
	}
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable: // nothing was done
		return true
	case http.StatusBadGateway, http.StatusGatewayTimeout: // something may have been
		return once
	}
	return false
}

// neverConnected tells whether an error happened before a byte was sent.
func neverConnected(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// failure makes the error of a request that did not succeed, and closes the
// answer, if there is one.
func (c *Client) failure(ctx context.Context, call call, resp *http.Response, err error) error {
	if err == nil {
		defer resp.Body.Close()
		return rebuild(resp)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s %s: %w", call.method, call.path, ctx.Err())
	}
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err // the method and the address are said already
	}
	if neverConnected(err) {
		return &agentsandbox.Error{
			Code:    agentsandbox.CodeUnavailable,
			Message: fmt.Sprintf("The server at %s cannot be reached", c.base),
			Err:     err,
		}
	}
	return &agentsandbox.Error{
		Code:    agentsandbox.CodeInternal,
		Message: fmt.Sprintf("The conversation with the server at %s broke before it answered, so what it did is not known", c.base),
		Err:     err,
	}
}

// badAnswer makes the error of an answer of success that cannot be read.
func (c *Client) badAnswer(ctx context.Context, call call, resp *http.Response, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s %s: %w", call.method, call.path, ctx.Err())
	}
	return &agentsandbox.Error{
		Code:      agentsandbox.CodeInternal,
		Message:   fmt.Sprintf("The answer of %s to %s %s is cut short or not of this API", c.base, call.method, call.path),
		RequestID: resp.Header.Get("X-Request-Id"),
		Err:       err,
	}
}

func retryAfter(err error) time.Duration {
	var e *agentsandbox.Error
	if !errors.As(err, &e) {
		return 0
	}
	return time.Duration(e.RetryAfterSeconds) * time.Second
}

// rebuild makes the server's error again from an answer.
func rebuild(resp *http.Response) *agentsandbox.Error {
	var body struct {
		Error struct {
			Code      agentsandbox.Code     `json:"code"`
			Message   string                `json:"message"`
			Details   []agentsandbox.Detail `json:"details"`
			RequestID string                `json:"request_id"`
		} `json:"error"`
	}
	data, readErr := io.ReadAll(io.LimitReader(resp.Body, maxErrorBytes))
	jsonErr := json.Unmarshal(data, &body)
	e := &agentsandbox.Error{
		Code:              body.Error.Code,
		Message:           body.Error.Message,
		Details:           body.Error.Details,
		RequestID:         body.Error.RequestID,
		RetryAfterSeconds: retryAfterSeconds(resp.Header.Get("Retry-After")),
	}
	if !slices.Contains(agentsandbox.Codes(), e.Code) {
		e.Code = codeOfStatus(resp.StatusCode) // of a newer server, or of no server of ours
	}
	if e.Message == "" {
		e.Message = foreignAnswer(resp)
		e.Err = errors.Join(readErr, jsonErr)
	}
	if e.RequestID == "" {
		e.RequestID = resp.Header.Get("X-Request-Id")
	}
	return e
}

// foreignAnswer describes an answer that no server of this API gives.
func foreignAnswer(resp *http.Response) string {
	status := strconv.Itoa(resp.StatusCode) + " " + http.StatusText(resp.StatusCode)
	if location := resp.Header.Get("Location"); location != "" && resp.StatusCode < 400 {
		return fmt.Sprintf("The server answered %s and points to %s: use that as the base URL if it is right.", status, location)
	}
	if resp.Request != nil && resp.Request.Method == http.MethodHead {
		return "The server answered " + status + "." // a HEAD has no body to explain it
	}
	return "The server answered " + status + " without an error of this API: does the base URL name an Agent Sandbox server?"
}

// retryAfterSeconds reads the header as a number of seconds; 0 for anything else.
func retryAfterSeconds(header string) int {
	n, err := strconv.Atoi(header)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// codeOfStatus is the code that tells most, for a status alone.
func codeOfStatus(status int) agentsandbox.Code {
	switch status {
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		return agentsandbox.CodeInvalidRequest
	case http.StatusUnauthorized:
		return agentsandbox.CodeUnauthorized
	case http.StatusForbidden:
		return agentsandbox.CodeForbidden
	case http.StatusNotFound:
		return agentsandbox.CodeRouteNotFound
	case http.StatusMethodNotAllowed:
		return agentsandbox.CodeMethodNotAllowed
	case http.StatusConflict:
		return agentsandbox.CodeConflict
	case http.StatusRequestEntityTooLarge:
		return agentsandbox.CodeTooLarge
	case http.StatusTooManyRequests:
		return agentsandbox.CodeRateLimited
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return agentsandbox.CodeUnavailable
	case http.StatusInsufficientStorage:
		return agentsandbox.CodeStorageFull
	}
	return agentsandbox.CodeInternal
}
