package v1

import (
	"errors"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
)

type health struct {
	Status  string `json:"status" doc:"Always ok: a process that is not does not answer."`
	Version string `json:"version" doc:"The version of the program."`
}

type readiness struct {
	Status string `json:"status" doc:"Always ready: a server that is not answers 503."`
}

// noInput is the input of a route that takes none.
type noInput struct{}

func (a *api) healthRoutes() []edge.Route {
	return []edge.Route{
		a.healthRoute(),
		a.readyRoute(),
	}
}

func (a *api) healthRoute() edge.Route {
	return edge.Answer(edge.Route{
		Method: "GET", Path: "/healthz", ID: "health", Quiet: true, Tag: "server",
		Summary: "Is the process alive", Description: "Answers as long as the process serves. Needs no key.",
	}, func(*edge.Call, *noInput) (*health, error) {
		return &health{Status: "ok", Version: a.version}, nil
	})
}

func (a *api) readyRoute() edge.Route {
	return edge.Answer(edge.Route{
		Method: "GET", Path: "/readyz", ID: "ready", Quiet: true, Tag: "server",
		Summary: "Can code be run", Description: "Answers 200 once a sandbox of the default template can be claimed. Needs no key.",
		Codes: []agentsandbox.Code{agentsandbox.CodeUnavailable},
	}, func(*edge.Call, *noInput) (*readiness, error) {
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
