package cli

import (
	"errors"

	"github.com/agentsandbox/agentsandbox/internal/config"
)

type serveCommand struct {
	PrintConfig bool `group:"Configuration:" help:"Print every setting with where its value comes from, and do not start."`
	settings
}

func (c *serveCommand) prepare() { c.settings.prepare() }

// Help is the text between the summary and the flags.
func (c *serveCommand) Help() string {
	return `The server listens on 127.0.0.1:8000 unless told otherwise, needs no other file or service, and stops in good order on SIGTERM. Its first start creates an admin key, prints it once, and leaves it in the data directory, where the other verbs find it when they are used by the same user.

Every flag can be given in the environment (--pool-size is AGENTSANDBOX_POOL_SIZE) or in a file (pool_size: 8).

Examples:

    agentsandbox serve
    agentsandbox serve --listen 0.0.0.0:8000 --data-dir /srv/agentsandbox
    AGENTSANDBOX_POOL_SIZE=8 agentsandbox serve --config sandbox.yaml --print-config`
}

// Run starts the server, or says how it would be set up.
func (c *serveCommand) Run(a *app) error {
	cfg, err := c.load(a)
	if err != nil {
		return err
	}
	var strange []string
	if a.Environ != nil {
		strange = config.StrangeVariables(a.Environ())
	}
	if c.PrintConfig {
		for _, name := range strange {
			a.note("%s is in the environment, and no setting has this name", name)
		}
		return cfg.Print(a.Stdout)
	}
	if a.local.Serve == nil {
		return errors.New("this build of the program has no server")
	}
	log := a.logger(cfg.Config)
	for _, name := range strange {
		log.Warn("a variable of the environment has the name of no setting; serve --print-config lists them", "name", name)
	}
	return a.local.Serve(a.ctx, cfg.Config, log, a.Stdout)
}
