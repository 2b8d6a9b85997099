package edge

import (
	"net/http"

	"github.com/agentsandbox/agentsandbox"
)

// statuses is the one table of the HTTP statuses that answer codes.
var statuses = map[agentsandbox.Code]int{
	"":                                 http.StatusOK,
	agentsandbox.CodeInvalidRequest:    http.StatusUnprocessableEntity,
	agentsandbox.CodeUnauthorized:      http.StatusUnauthorized,
	agentsandbox.CodeForbidden:         http.StatusForbidden,
	agentsandbox.CodeSessionNotFound:   http.StatusNotFound,
	agentsandbox.CodeFileNotFound:      http.StatusNotFound,
	agentsandbox.CodeExecutionNotFound: http.StatusNotFound,
	agentsandbox.CodeKeyNotFound:       http.StatusNotFound,
	agentsandbox.CodePathNotFound:      http.StatusNotFound,
	agentsandbox.CodePortNotFound:      http.StatusNotFound,
	agentsandbox.CodePortNotReached:    http.StatusBadGateway,
	agentsandbox.CodeRouteNotFound:     http.StatusNotFound,
	agentsandbox.CodeMethodNotAllowed:  http.StatusMethodNotAllowed,
	agentsandbox.CodeConflict:          http.StatusConflict,
	agentsandbox.CodeTooLarge:          http.StatusRequestEntityTooLarge,
	agentsandbox.CodeRateLimited:       http.StatusTooManyRequests,
	agentsandbox.CodeInternal:          http.StatusInternalServerError,
	agentsandbox.CodeUnavailable:       http.StatusServiceUnavailable,
	agentsandbox.CodeStorageFull:       http.StatusInsufficientStorage,
}

// Status returns the HTTP status that answers a code: 200 for none, and 500 for
// one that is not in the table.
func Status(code agentsandbox.Code) int {
	if status, ok := statuses[code]; ok {
		return status
	}
	return http.StatusInternalServerError
}
