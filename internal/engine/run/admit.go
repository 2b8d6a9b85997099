package run

import (
	"context"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/engine/limits"
)

// admitted is a request that may be served.
type admitted struct {
	agentsandbox.ExecuteRequest
	principal agentsandbox.Principal
	files     []agentsandbox.File
	unpin     func() // lets the files expire again
}

// admit checks a request against what anybody may ask for and what this server allows,
// and finds the files that it names.
func (s *Supervisor) admit(ctx context.Context, req agentsandbox.ExecuteRequest) (*admitted, error) {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, err
	}
	if err := req.Validate(s.limits.CodeBytes); err != nil {
		return nil, err
	}
	if err := s.limits.Check(limits.Requested{
		TimeoutMS: req.TimeoutMS, MemoryMB: req.MemoryMB, CPUs: req.CPUs, Run: req.RunLimits, Disk: req.DiskLimits,
	}); err != nil {
		return nil, err
	}
	if err := s.network.Check(s.template, req.Network); err != nil {
		return nil, err
	}
	unpin := s.files.Pin(req.FileIDs)
	found, err := s.files.Find(ctx, p.Tenant, req.FileIDs)
	if err == nil && req.SessionID != "" {
		err = refuseSessionLimits(req)
	}
	if err != nil {
		unpin()
		return nil, err
	}
	return &admitted{ExecuteRequest: req, principal: p, files: found, unpin: unpin}, nil
}

// refuseSessionLimits refuses what a run in a session cannot ask for.
func refuseSessionLimits(req agentsandbox.ExecuteRequest) error {
	for _, limit := range []struct {
		field     string
		requested bool
	}{
		{"memory_mb", req.MemoryMB != 0}, {"cpus", req.CPUs != 0}, {"disk_mb", req.DiskMB != 0}, {"inodes", req.Inodes != 0},
		{"network", req.Network != nil},
	} {
		if limit.requested {
			return agentsandbox.Invalid(limit.field, "is set when a session is created, not on a run in it.")
		}
	}
	return nil
}
