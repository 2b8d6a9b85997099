package run

import (
	"context"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/eventlog"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// newCommand is what the sandbox is told to run.
func (r *Run) newCommand() runtime.Command {
	collect := r.s.limits.Collect
	collect.Ignored = r.bounds.Ignored
	return runtime.Command{
		ID: r.record.ID, Language: r.record.Language, Code: r.record.Code, Env: r.env, Timeout: r.bounds.Timeout,
		Modules:     r.modules(),
		OutputLimit: r.bounds.Output, Limits: r.bounds.Run, Final: r.visit == nil,
		CollectDirs: []string{agentsandbox.Workspace, agentsandbox.OutputDir}, Collect: collect,
	}
}

// modules returns what the code of a run has use of, as far as its template says.
func (r *Run) modules() []string {
	name := r.s.template
	if r.visit != nil {
		name = r.visit.Info().Template
	}
	template, err := r.s.templates.Template(name)
	if err != nil {
		return nil // a session of an earlier server lives on without its template
	}
	return template.PreloadFor(r.record.Language, r.record.Code).Modules
}

// start starts the code, or goes on where an earlier server was.
func (r *Run) start(ctx context.Context) (runtime.Run, error) {
	r.command.Keep = r.commit
	if r.log.Last() == 0 {
		if err := r.log.Append(eventlog.Started, nil); err != nil {
			return nil, err
		}
	}
	if r.resumed {
		return r.sandbox.Attach(ctx, r.command, r.log.Progress())
	}
	return r.sandbox.Run(ctx, r.command)
}
