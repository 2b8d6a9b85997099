package cli

import "errors"

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
	if c.PrintConfig {
		return cfg.Print(a.Stdout)
	}
	if a.local.Serve == nil {
		return errors.New("this build of the program has no server")
	}
	return a.local.Serve(a.ctx, cfg.Config, a.logger(cfg.Config), a.Stdout)
}
