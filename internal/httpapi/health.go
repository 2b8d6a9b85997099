package httpapi

import (
	"errors"

	"github.com/agentsandbox/agentsandbox"
)

type health struct {
	Status  string `json:"status" doc:"Always ok: a process that is not does not answer."`
	Version string `json:"version" doc:"The version of the program."`
}

type readiness struct {
	Status string `json:"status" doc:"Always ready: a server that is not answers 503."`
}

func (a *api) healthRoutes() {
	type none struct{}
	answer(a, route{
		method: "GET", path: "/healthz", id: "health", tag: "server",
		summary: "Is the process alive", description: "Answers as long as the process serves. Needs no key.",
	}, func(*call, *none) (*health, error) {
		return &health{Status: "ok", Version: a.version}, nil
	})
	answer(a, route{
		method: "GET", path: "/readyz", id: "ready", tag: "server",
		summary: "Can code be run", description: "Answers 200 once a sandbox of the default template can be claimed. Needs no key.",
		codes: []agentsandbox.Code{agentsandbox.CodeUnavailable},
	}, func(*call, *none) (*readiness, error) {
		err := a.ready()
		if err == nil {
			return &readiness{Status: "ready"}, nil
		}
		message := "No sandbox can be claimed yet; try again shortly."
		var ours *agentsandbox.Error
		if errors.As(err, &ours) {
			message = ours.Message
		}
		return nil, &agentsandbox.Error{Code: agentsandbox.CodeUnavailable, Message: message, Err: err}
	})
}
