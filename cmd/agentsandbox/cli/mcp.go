package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/client"
	"github.com/agentsandbox/agentsandbox/internal/httpserver"
	"github.com/agentsandbox/agentsandbox/internal/mcp"
)

type mcpCommand struct {
	Listen string `placeholder:"HOST:PORT" help:"Serve streamable HTTP at this address under /mcp, instead of standard input and output. Callers bring their own API key, as a bearer token."`

	Tools        []string `placeholder:"NAME" help:"Offer these tools only."`
	ExcludeTools []string `placeholder:"NAME" help:"Offer all tools but these."`
	AllSessions  bool     `help:"Let the tools reach every session of the API key's tenant. Without it they reach only what the conversation has made."`

	Template     string        `group:"Sandbox of each conversation:" placeholder:"NAME" help:"Template to start from; the server's default otherwise."`
	Timeout      time.Duration `group:"Sandbox of each conversation:" short:"t" placeholder:"DURATION" help:"Time limit of each run, such as 90s or 5m."`
	MemoryMB     int64         `group:"Sandbox of each conversation:" placeholder:"MB" help:"Memory, in MiB."`
	CPUs         float64       `group:"Sandbox of each conversation:" name:"cpus" placeholder:"N" help:"CPUs; fractions are allowed."`
	DiskMB       int64         `group:"Sandbox of each conversation:" placeholder:"MB" help:"Room for files, in MiB: a power of two."`
	Idle         time.Duration `group:"Sandbox of each conversation:" placeholder:"DURATION" help:"End the sandbox when no tool uses it for so long, such as 30m; the server's default otherwise."`
	networkFlags `group:"Sandbox of each conversation:"`

	AllowedHost         []string      `group:"With --listen:" placeholder:"NAME" help:"Take requests that were sent to this host name, as a proxy passes them on; \"*\" takes any, but of web pages. Can be repeated. Without it, a listener on the loopback takes its own names only."`
	ConversationsPerKey int           `group:"With --listen:" default:"50" placeholder:"N" help:"How many conversations one API key may have at once; the one that is idle for longest ends when there is another (default ${default}; 0: no bound)."`
	Lease               time.Duration `group:"With --listen:" default:"3m" placeholder:"DURATION" help:"How long a sandbox goes on by itself when its API key was revoked, or this program was killed (default ${default})."`
	connection
}

// Help is the text between the summary and the flags.
func (c *mcpCommand) Help() string {
	return `Speaks the Model Context Protocol over standard input and output, for a client that starts it. Each conversation has a sandbox of its own, made when it is first needed and deleted at the end.

Examples:

    agentsandbox mcp
    agentsandbox mcp --network off --memory-mb 1024 --exclude-tools create_session,delete_session
    agentsandbox mcp --listen 127.0.0.1:8001 --allowed-host mcp.example.com`
}

// Run serves tools until it is interrupted, or standard input ends.
func (c *mcpCommand) Run(a *app) error {
	// What the protocol's library has to say is for who looks after it.
	log := slog.New(slog.NewTextHandler(a.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	opts, err := c.options()
	if err != nil {
		return err
	}
	opts.Version, opts.Logger = a.local.Version, log
	if c.Listen != "" {
		return c.listen(a, opts)
	}
	service, err := c.service(a)
	if err != nil {
		return err
	}
	in, ok := a.Stdin.(io.ReadCloser)
	if !ok {
		in = io.NopCloser(a.Stdin)
	}
	opts.Lease = 0 // who starts the program ends it, and a laptop may sleep for longer
	return mcp.Serve(a.ctx, service, in, nopWriteCloser{a.Stdout}, opts)
}

func (c *mcpCommand) options() (mcp.Options, error) {
	timeout, err := milliseconds("--timeout", c.Timeout)
	if err != nil {
		return mcp.Options{}, err
	}
	tools, err := mcp.SelectTools(c.Tools, c.ExcludeTools)
	if err != nil {
		return mcp.Options{}, err
	}
	if c.Lease < time.Second {
		return mcp.Options{}, agentsandbox.Invalid("lease", "must be at least 1s.")
	}
	if c.ConversationsPerKey < 0 {
		return mcp.Options{}, agentsandbox.Invalid("conversations-per-key", "must be 0 or more.")
	}
	request := agentsandbox.SessionRequest{
		Template: c.Template, TimeoutMS: timeout, MemoryMB: c.MemoryMB, CPUs: c.CPUs,
		DiskLimits: agentsandbox.DiskLimits{DiskMB: c.DiskMB}, IdleTimeoutMS: c.Idle.Milliseconds(), Network: c.policy(),
	}
	return mcp.Options{
		Sandbox: request, AllSessions: c.AllSessions, Tools: tools,
		AllowedHosts: c.AllowedHost, ConversationsPerKey: c.ConversationsPerKey, Lease: c.Lease,
	}, request.Validate()
}

// nopWriteCloser is standard output: closing it is not the protocol's business.
type nopWriteCloser struct{ io.Writer }

func (nopWriteCloser) Close() error { return nil }

// httpStop is how long answers under way may take once the verb is interrupted.
const httpStop = 5 * time.Second

func (c *mcpCommand) listen(a *app, opts mcp.Options) error {
	tcp, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("--listen %s: %w", c.Listen, err)
	}
	// Nobody's idle connections must not keep others out.
	listener := httpserver.NewListener(tcp.(*net.TCPListener), 0, false, opts.Logger)
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 64
	transport.DisableCompression = true
	handler := mcp.NewHandler(func(key string) (agentsandbox.Service, error) {
		return client.New(c.Server, key, client.WithTransport(transport), client.WithUserAgent("agentsandbox-mcp/"+a.local.Version))
	}, opts)
	mux := http.NewServeMux()
	mux.Handle("/mcp", handler)
	server := httpserver.New(mux, opts.Logger)
	a.note("MCP over streamable HTTP at http://%s/mcp, for the server at %s. Clients send their API key as a bearer token.", listener.Addr(), c.Server)
	if tcp, ok := listener.Addr().(*net.TCPAddr); ok && !tcp.IP.IsLoopback() {
		a.note("Keys and code travel in clear: put a proxy with TLS in front, or listen on 127.0.0.1.")
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err = <-served:
	case <-a.ctx.Done():
		handler.Close() // ends the streams that would keep the server waiting
		ctx, cancel := context.WithTimeout(context.WithoutCancel(a.ctx), httpStop)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			err = server.Close()
		}
		<-served
		return err
	}
	handler.Close()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
