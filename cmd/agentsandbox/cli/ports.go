package cli

import (
	"fmt"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

type portsCommand struct {
	Open  portsOpen  `cmd:"" help:"Give a port of a session a URL."`
	List  portsList  `cmd:"" help:"List the ports of a session that have a URL."`
	Close portsClose `cmd:"" help:"Make the URL of a port invalid."`
}

// Help is the text between the summary and the flags.
func (c *portsCommand) Help() string {
	return `A port of a session gets a URL on the server, which expires. Whoever has it can use the port, for HTTP and WebSockets, without a key. For other protocols, and for one developer, see "agentsandbox forward".

Examples:

    agentsandbox ports open ses_… 8000 --expires 2h
    agentsandbox ports close ses_… 8000`
}

type portsOpen struct {
	ID      string        `arg:"" name:"session" help:"Id of the session."`
	Port    uint16        `arg:"" help:"Port in the session."`
	Expires time.Duration `placeholder:"DURATION" help:"How long the URL is valid, such as 30m; an hour otherwise."`
	jsonFlag
	connection
}

// Help is the text between the summary and the flags.
func (c *portsOpen) Help() string {
	return `Prints the URL. An earlier URL of the same port is invalid from then on.

Example:

    agentsandbox ports open ses_… 8000`
}

// Run opens a port.
func (c *portsOpen) Run(a *app) error {
	service, err := c.service(a)
	if err != nil {
		return err
	}
	p, err := service.OpenPort(a.ctx, c.ID, c.Port, c.Expires.Milliseconds())
	if err != nil {
		return err
	}
	if c.JSON {
		return a.printJSON(viewOfPort(*p))
	}
	return a.print(neutral(p.URL) + "\n")
}

type portsList struct {
	ID string `arg:"" name:"session" help:"Id of the session."`
	jsonFlag
	connection
}

// Help is the text between the summary and the flags.
func (c *portsList) Help() string {
	return `Example:

    agentsandbox ports list ses_…`
}

// Run lists open ports.
func (c *portsList) Run(a *app) error {
	service, err := c.service(a)
	if err != nil {
		return err
	}
	open, err := service.OpenPorts(a.ctx, c.ID)
	if err != nil {
		return err
	}
	if c.JSON {
		views := make([]portView, len(open))
		for i, p := range open {
			views[i] = viewOfPort(p)
		}
		return a.printJSON(struct {
			Ports []portView `json:"ports"`
		}{views})
	}
	rows := make([][]string, len(open))
	for i, p := range open {
		rows[i] = []string{fmt.Sprint(p.Port), timeText(p.ExpiresAt), p.URL}
	}
	return a.printTable([]string{"PORT", "EXPIRES", "URL"}, rows)
}

type portsClose struct {
	ID   string `arg:"" name:"session" help:"Id of the session."`
	Port uint16 `arg:"" help:"Port in the session."`
	connection
}

// Help is the text between the summary and the flags.
func (c *portsClose) Help() string {
	return `Example:

    agentsandbox ports close ses_… 8000`
}

// Run closes a port.
func (c *portsClose) Run(a *app) error {
	service, err := c.service(a)
	if err != nil {
		return err
	}
	return service.ClosePort(a.ctx, c.ID, c.Port)
}

type portView struct {
	Port      uint16    `json:"port"`
	URL       string    `json:"url"`
	ExpiresAt time.Time `json:"expires_at"`
}

func viewOfPort(p agentsandbox.OpenPort) portView { return portView{p.Port, p.URL, p.ExpiresAt} }
