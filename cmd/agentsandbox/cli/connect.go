package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"path/filepath"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/client"
	"github.com/agentsandbox/agentsandbox/internal/config"
)

// Names of the environment variables that the published clients read as well.
const (
	serverEnv = "AGENTSANDBOX_BASE_URL"
	keyEnv    = "AGENTSANDBOX_API_KEY"
)

// groupConnection is the title of the flags that every verb with a server has.
const groupConnection = "Connection:"

// connection says which server to use, and with which key.
type connection struct {
	Server  string `group:"Connection:" placeholder:"URL" env:"AGENTSANDBOX_BASE_URL" default:"http://127.0.0.1:8000" help:"The server to use."`
	APIKey  string `group:"Connection:" placeholder:"KEY" env:"AGENTSANDBOX_API_KEY" help:"The API key to use; better given in the environment, because flags show in process lists. Without one, the admin key of a server on this machine is used."`
	DataDir string `group:"Connection:" placeholder:"DIR" env:"AGENTSANDBOX_DATA_DIR" help:"Data directory of the server on this machine, where its admin key is."`
}

// service connects to the server that the flags name. Nothing is sent yet.
func (c connection) service(a *app) (agentsandbox.Service, error) {
	key, err := c.key(a)
	if err != nil {
		return nil, err
	}
	service, err := client.New(c.Server, key, client.WithUserAgent("agentsandbox-cli/"+a.local.Version))
	if err != nil {
		return nil, fmt.Errorf("%w; see --server and --api-key", err)
	}
	return service, nil
}

// key returns the key of the flags or the environment, or else the admin key
// that a server on this machine left. None at all is "": the server then says
// that one is needed, unless it is not running, which is more worth knowing. The
// app's keyHint is what to say when the server refuses the key.
func (c connection) key(a *app) (string, error) {
	if c.APIKey != "" {
		return c.APIKey, nil
	}
	if !isLoopback(c.Server) {
		// An admin key must never travel to a machine that merely was named.
		return "", fmt.Errorf("no API key for %s: set %s or give --api-key", c.Server, keyEnv)
	}
	dir := c.DataDir
	if dir == "" {
		var err error
		if dir, err = config.DefaultDataDir(a.Getenv, a.UID); err != nil {
			return "", fmt.Errorf("no API key: set %s, or give --api-key or --data-dir", keyEnv)
		}
	}
	path := filepath.Join(dir, config.AdminKeyFile)
	key, err := config.ReadAdminKey(dir)
	switch {
	case err == nil:
		a.keyHint = fmt.Sprintf("The key is that of %s; a server with another data directory has another one: see --data-dir, --api-key and %s.", path, keyEnv)
		return key, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		a.keyHint = fmt.Sprintf("There is no key that can be read at %s: set %s, or give --api-key or --data-dir.", path, keyEnv)
		return "", nil
	}
	return "", err
}

// isLoopback tells whether a server's URL can only be this machine.
func isLoopback(server string) bool {
	u, err := url.Parse(server)
	if err != nil {
		return false
	}
	if u.Hostname() == "localhost" {
		return true
	}
	ip := net.ParseIP(u.Hostname())
	return ip != nil && ip.IsLoopback()
}
