// Package mcp serves an [agentsandbox.Service] as tools of the Model Context
// Protocol, so that an agent can run code without a client of its own.
//
// It owns the tools, what they show to a model, and one sandbox for each
// conversation (an MCP session): made when a tool first needs it, ended with the
// conversation. It knows a Service only, not what is behind it, and holds no key
// of anybody: over HTTP each caller brings its own.
//
// What the Service refuses becomes a tool error with the Service's sentence, so
// that the model can do better. Code that fails is no error: its outcome is the
// result. Nothing is cut without being said.
package mcp

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agentsandbox/agentsandbox"
)

// Options are of both transports.
type Options struct {
	// Version of the program, told to clients.
	Version string
	Logger  *slog.Logger
}

const instructions = `Runs Python and Bash in an isolated Linux sandbox.

Without session_id, the tools share one sandbox of this conversation: its files under /workspace, installed packages and background processes stay between calls, variables of a program do not. Files that a run leaves under /workspace or /output are listed in its result; images among them are shown. The sandbox ends with the conversation: use download_file to get what must be kept.`

// endPeriod bounds the deletion of a conversation's sandbox. What is not deleted
// then expires on the server.
const endPeriod = 10 * time.Second

// Serve holds one conversation over a pair of streams, until in ends or ctx does.
func Serve(ctx context.Context, service agentsandbox.Service, in io.ReadCloser, out io.WriteCloser, opts Options) error {
	c := newConversation(ctx, service)
	defer c.end(opts.Logger)
	err := c.server(opts, nil).Run(ctx, &sdk.IOTransport{Reader: in, Writer: out})
	if ctx.Err() != nil {
		return nil // asked to stop, which it did
	}
	return err
}

// conversation is one MCP session, with the sandbox that is its own.
type conversation struct {
	service agentsandbox.Service
	// ctx ends what runs for the conversation; stop ends ctx.
	ctx  context.Context
	stop context.CancelFunc
	// turn is held while the sandbox is looked up or made: calls that come
	// together get the same one.
	turn chan struct{}
	own  string // id of the session; empty while there is none
}

func newConversation(ctx context.Context, service agentsandbox.Service) *conversation {
	c := &conversation{service: service, turn: make(chan struct{}, 1)}
	c.ctx, c.stop = context.WithCancel(ctx)
	return c
}

// server makes the MCP server of the conversation. configure changes the
// options; nil: not at all.
func (c *conversation) server(opts Options, configure func(*sdk.ServerOptions)) *sdk.Server {
	options := &sdk.ServerOptions{
		Instructions: instructions,
		Logger:       opts.Logger,
		Capabilities: &sdk.ServerCapabilities{}, // tools, and nothing that is not served
	}
	if configure != nil {
		configure(options)
	}
	s := sdk.NewServer(&sdk.Implementation{Name: "agentsandbox", Title: "Agent Sandbox", Version: opts.Version}, options)
	c.addRunTools(s)
	c.addSessionTools(s)
	c.addFileTools(s)
	return s
}

// addTool adds a tool whose calls end with the conversation, and whose errors
// say what the Service said.
func addTool[In, Out any](c *conversation, s *sdk.Server, tool *sdk.Tool, call func(ctx context.Context, in In) (*sdk.CallToolResult, Out, error)) {
	sdk.AddTool(s, tool, func(ctx context.Context, _ *sdk.CallToolRequest, in In) (*sdk.CallToolResult, Out, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(c.ctx, cancel)()
		result, out, err := call(ctx, in)
		if err != nil {
			err = errors.New(sentence(err))
		}
		return result, out, err
	})
}

// in runs something in a session: the one named, or the conversation's own,
// which is made if there is none.
func (c *conversation) in(ctx context.Context, sessionID string, do func(sessionID string) error) error {
	if sessionID != "" {
		return do(sessionID)
	}
	id, err := c.ownSession(ctx)
	if err != nil {
		return err
	}
	err = do(id)
	if agentsandbox.CodeOf(err) == agentsandbox.CodeSessionNotFound {
		c.forget(ctx, id)
		return agentsandbox.Errorf(agentsandbox.CodeSessionNotFound,
			"The sandbox of this conversation has ended (it expired, was deleted or was lost), and its files with it. The next call gets a new, empty one.")
	}
	return err
}

func (c *conversation) ownSession(ctx context.Context) (string, error) {
	if err := c.take(ctx); err != nil {
		return "", err
	}
	defer c.give()
	if c.own != "" {
		return c.own, nil
	}
	s, err := c.service.CreateSession(ctx, agentsandbox.SessionRequest{Metadata: map[string]string{"made_by": "agentsandbox mcp"}})
	if err != nil {
		return "", err
	}
	c.own = s.ID
	return c.own, nil
}

// forget drops the conversation's own session if it is the one named, so that
// the next call makes another.
func (c *conversation) forget(ctx context.Context, id string) {
	if c.take(context.WithoutCancel(ctx)) != nil {
		return
	}
	defer c.give()
	if c.own == id {
		c.own = ""
	}
}

func (c *conversation) take(ctx context.Context) error {
	select {
	case c.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *conversation) give() { <-c.turn }

// end stops what runs for the conversation and deletes its sandbox.
func (c *conversation) end(log *slog.Logger) {
	c.stop()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), endPeriod)
	defer cancel()
	if err := c.take(ctx); err != nil {
		log.Warn("the sandbox of a conversation is still being made and cannot be deleted; it will expire")
		return
	}
	defer c.give()
	if c.own == "" {
		return
	}
	err := c.service.DeleteSession(ctx, c.own)
	if err != nil && agentsandbox.CodeOf(err) != agentsandbox.CodeSessionNotFound {
		log.Warn("the sandbox of a conversation could not be deleted; it will expire", "session_id", c.own, "error", err)
		return
	}
	c.own = ""
}
