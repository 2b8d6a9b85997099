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
	"github.com/agentsandbox/agentsandbox/internal/mcp"
)

type mcpCommand struct {
	Listen string `placeholder:"HOST:PORT" help:"Serve streamable HTTP at this address under /mcp, instead of standard input and output. Callers bring their own API key, as a bearer token."`
	connection
}

// Help is the text between the summary and the flags.
func (c *mcpCommand) Help() string {
	return `Speaks the Model Context Protocol over standard input and output, for a client that starts it. Each conversation has a sandbox of its own, made when it is first needed and deleted at the end.

Examples:

    agentsandbox mcp
    agentsandbox mcp --listen 127.0.0.1:8001`
}

// Run serves tools until it is interrupted, or standard input ends.
func (c *mcpCommand) Run(a *app) error {
	// What the protocol's library has to say is for who looks after it.
	log := slog.New(slog.NewTextHandler(a.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	opts := mcp.Options{Version: a.local.Version, Logger: log}
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
	return mcp.Serve(a.ctx, service, in, nopWriteCloser{a.Stdout}, opts)
}

// nopWriteCloser is standard output: closing it is not the protocol's business.
type nopWriteCloser struct{ io.Writer }

func (nopWriteCloser) Close() error { return nil }

// httpStop is how long answers under way may take once the verb is interrupted.
const httpStop = 5 * time.Second

func (c *mcpCommand) listen(a *app, opts mcp.Options) error {
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("--listen %s: %w", c.Listen, err)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 64
	transport.DisableCompression = true
	handler := mcp.NewHandler(func(key string) (agentsandbox.Service, error) {
		return client.New(c.Server, key, client.WithTransport(transport), client.WithUserAgent("agentsandbox-mcp/"+a.local.Version))
	}, opts)
	mux := http.NewServeMux()
	mux.Handle("/mcp", handler)
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(opts.Logger.Handler(), slog.LevelWarn),
	}
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
