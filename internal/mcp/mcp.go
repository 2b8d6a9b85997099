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
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agentsandbox/agentsandbox"
)

// Options are of both transports.
type Options struct {
	// Version of the program, told to clients.
	Version string
	Logger  *slog.Logger
	// Sandbox is what the sandbox of a conversation is made with. Sessions that its
	// tools make begin with the same, and have the same network in any case.
	Sandbox agentsandbox.SessionRequest
	// AllSessions lets the tools reach every session of the API key's tenant. They
	// reach only what the conversation has made otherwise.
	AllSessions bool
	// Tools are the names of the tools to offer; nil: all.
	Tools []string

	// The rest is of HTTP alone.

	// AllowedHosts are names, beside those of the loopback, that requests may be
	// sent to; "*" is any. Without any, a listener on the loopback takes its own
	// names only, and any other listener takes all.
	AllowedHosts []string
	// ConversationsPerKey bounds those of one API key; 0: no bound of its own.
	ConversationsPerKey int
	// Lease is how long the sandbox of a conversation goes on by itself once nobody
	// keeps it: after the API key was revoked, or this program was killed.
	Lease time.Duration
}

// DefaultLease is the usual Lease.
const DefaultLease = 3 * time.Minute

// SelectTools returns the names of the tools to offer: those of only, or all
// when it is empty, without those of except. A name that no tool has is an error.
func SelectTools(only, except []string) ([]string, error) {
	for _, name := range slices.Concat(only, except) {
		if !slices.Contains(toolNames, name) {
			return nil, agentsandbox.Invalid("tools", "no tool is named %q; there are %s.", name, strings.Join(toolNames, ", "))
		}
	}
	if len(only) == 0 {
		only = toolNames
	}
	selected := slices.DeleteFunc(slices.Clone(only), func(name string) bool { return slices.Contains(except, name) })
	if len(selected) == 0 {
		return nil, agentsandbox.Invalid("tools", "no tool is left.")
	}
	return selected, nil
}

// toolNames are all tools there are.
var toolNames = []string{
	"execute_python", "execute_bash", "write_file", "read_file", "list_files", "upload_file", "download_file",
	"create_session", "list_sessions", "delete_session",
}

const instructions = `Runs Python and Bash in an isolated Linux sandbox.

Without session_id, the tools share one sandbox of this conversation: its files under /workspace, installed packages and background processes stay between calls, variables of a program do not. Files that a run leaves under /workspace or /output are listed in its result; images among them are shown. The sandbox ends with the conversation: use download_file to get what must be kept.`

// endPeriod bounds the deletion of a conversation's sandbox. What is not deleted
// then expires on the server.
const endPeriod = 10 * time.Second

// Serve holds one conversation over a pair of streams, until in ends or ctx does.
func Serve(ctx context.Context, service agentsandbox.Service, in io.ReadCloser, out io.WriteCloser, opts Options) error {
	c := newConversation(ctx, service, opts)
	defer c.end(opts.Logger)
	err := c.server(opts, nil).Run(ctx, &lines{in: in, out: out})
	if ctx.Err() != nil {
		return nil // asked to stop, which it did
	}
	return err
}

// conversation is one MCP session, with the sandbox that is its own.
type conversation struct {
	service agentsandbox.Service
	opts    Options
	// mark is in the metadata of the sessions that the conversation has made.
	mark string
	// ctx ends what runs for the conversation; stop ends ctx.
	ctx  context.Context
	stop context.CancelFunc
	// turn is held while the sandbox is looked up or made: calls that come
	// together get the same one.
	turn chan struct{}
	own  string // id of the session; empty while there is none
	// made are the sessions of the conversation, its own included.
	made map[string]bool
	used time.Time // when a tool last used its own
	// active is how many calls use its own now.
	active int
	// revoked ends the conversation when the API key is no longer valid; nil: no
	// matter, its calls say so.
	revoked func()
	// arguments are the names of those of each tool that is offered.
	arguments map[string][]string
}

func newConversation(ctx context.Context, service agentsandbox.Service, opts Options) *conversation {
	c := &conversation{service: service, opts: opts, mark: agentsandbox.NewID("mcp_"), turn: make(chan struct{}, 1), made: make(map[string]bool), arguments: make(map[string][]string)}
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
	s.AddReceivingMiddleware(explainNames(c.arguments), nullsLeftOut) // in this order: an unknown null is unknown
	return s
}

// nullsLeftOut takes a null among the arguments of a tool for one that was left
// out, as the API does: many clients send null for what a model does not give.
func nullsLeftOut(next sdk.MethodHandler) sdk.MethodHandler {
	return func(ctx context.Context, method string, req sdk.Request) (sdk.Result, error) {
		if call, ok := req.(*sdk.CallToolRequest); ok {
			call.Params.Arguments = withoutNulls(call.Params.Arguments)
		}
		return next(ctx, method, req)
	}
}

// withoutNulls leaves what is no object, or has no null, as it is.
func withoutNulls(arguments json.RawMessage) json.RawMessage {
	var given map[string]json.RawMessage
	if json.Unmarshal(arguments, &given) != nil {
		return arguments
	}
	before := len(given)
	maps.DeleteFunc(given, func(_ string, value json.RawMessage) bool { return string(value) == "null" })
	if len(given) == before {
		return arguments
	}
	kept, err := json.Marshal(given)
	if err != nil {
		return arguments
	}
	return kept
}

// addTool adds a tool whose calls end with the conversation, and whose errors
// say what the Service said.
func addTool[In, Out any](c *conversation, s *sdk.Server, tool *sdk.Tool, call func(ctx context.Context, in In) (*sdk.CallToolResult, Out, error)) {
	if len(c.opts.Tools) > 0 && !slices.Contains(c.opts.Tools, tool.Name) {
		return
	}
	c.arguments[tool.Name] = argumentNames[In]()
	sdk.AddTool(s, tool, func(ctx context.Context, _ *sdk.CallToolRequest, in In) (*sdk.CallToolResult, Out, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(c.ctx, cancel)()
		result, out, err := call(ctx, in)
		if agentsandbox.CodeOf(err) == agentsandbox.CodeUnauthorized && c.revoked != nil {
			c.revoked()
		}
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
		if err := c.reach(ctx, sessionID); err != nil {
			return err
		}
		return do(sessionID)
	}
	id, err := c.ownSession(ctx)
	if err != nil {
		return err
	}
	err = do(id)
	c.release()
	if agentsandbox.CodeOf(err) == agentsandbox.CodeSessionNotFound {
		c.forget(ctx, id)
		return agentsandbox.Errorf(agentsandbox.CodeSessionNotFound,
			"The sandbox of this conversation has ended (it expired, was deleted or was lost), and its files with it. The next call gets a new, empty one.")
	}
	return err
}

// ownSession returns the conversation's own session, which is made if there is
// none. The caller releases it.
func (c *conversation) ownSession(ctx context.Context) (string, error) {
	if err := c.take(ctx); err != nil {
		return "", err
	}
	defer c.give()
	if c.own != "" {
		c.active, c.used = c.active+1, time.Now()
		return c.own, nil
	}
	request := c.opts.Sandbox
	if c.opts.Lease > 0 {
		request.IdleTimeoutMS = c.opts.Lease.Milliseconds() // see keep
	}
	s, err := c.create(ctx, request)
	if err != nil {
		return "", err
	}
	c.own = s.ID
	c.active, c.used = c.active+1, time.Now()
	return c.own, nil
}

// release ends a use of the conversation's own session, which ownSession began.
func (c *conversation) release() {
	c.turn <- struct{}{} // held for moments, or for as long as a sandbox is being made
	defer c.give()
	c.active, c.used = c.active-1, time.Now()
}

// Names of the metadata of sessions that conversations make.
const (
	madeBy = "made_by"
	madeIn = "conversation"
)

// create makes a session. The turn is held.
func (c *conversation) create(ctx context.Context, request agentsandbox.SessionRequest) (*agentsandbox.Session, error) {
	metadata := map[string]string{}
	maps.Copy(metadata, request.Metadata)
	metadata[madeBy], metadata[madeIn] = "agentsandbox mcp", c.mark
	request.Metadata = metadata
	s, err := c.service.CreateSession(ctx, request)
	if err == nil {
		c.made[s.ID] = true
	}
	return s, err
}

// reach refuses a session that is not the conversation's.
func (c *conversation) reach(ctx context.Context, sessionID string) error {
	if err := c.take(ctx); err != nil {
		return err
	}
	defer c.give()
	if c.opts.AllSessions || c.made[sessionID] {
		return nil
	}
	return agentsandbox.Errorf(agentsandbox.CodeSessionNotFound,
		"This conversation has made no session %s. Leave session_id out to use its own sandbox; who runs agentsandbox mcp can let it reach other sessions with --all-sessions.", sessionID)
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
