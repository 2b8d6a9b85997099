package v1

import (
	"net/http"
	"strings"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
)

// Manner is how this API speaks with its clients: a key is a bearer token, and a
// failure is JSON of one shape.
func Manner() edge.Manner {
	return edge.Manner{Key: bearer, Fail: fail, Docs: "/docs"}
}

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

func fail(c *edge.Call, status int, e *agentsandbox.Error) error {
	if e.Code == agentsandbox.CodeUnauthorized {
		c.Writer().Header().Set("WWW-Authenticate", "Bearer")
	}
	body := failure{failureInfo{Code: e.Code, Message: e.Message, Details: e.Details, RequestID: c.RequestID()}}
	if body.Error.Details == nil {
		body.Error.Details = []agentsandbox.Detail{}
	}
	return c.WriteJSON(status, body)
}

// bearer takes the key out of the one Authorization header.
func bearer(r *http.Request) (string, error) {
	refuse := func(format string, args ...any) (string, error) {
		return "", agentsandbox.Errorf(agentsandbox.CodeUnauthorized, format, args...)
	}
	values := r.Header.Values("Authorization")
	if len(values) == 0 || values[0] == "" {
		return refuse("An API key is needed: send it as Authorization: Bearer KEY.")
	}
	if len(values) > 1 {
		return refuse("Send one Authorization header, not %d.", len(values))
	}
	scheme, value, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") || value == "" || len(value) > edge.MaxKeyBytes || strings.ContainsAny(value, " \t,") {
		return refuse("The Authorization header is not of the form: Bearer KEY, with one space and nothing after the key.")
	}
	return value, nil
}
