package mcp

import (
	"cmp"
	"context"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agentsandbox/agentsandbox"
)

type createSessionInput struct {
	EnvVars       map[string]string `json:"env_vars,omitempty" jsonschema:"environment variables of every run"`
	FileIDs       []string          `json:"file_ids,omitempty" jsonschema:"files to copy to /workspace"`
	Template      string            `json:"template,omitempty" jsonschema:"the template to start from; the server's default otherwise"`
	TimeoutMS     int64             `json:"timeout_ms,omitempty" jsonschema:"time limit of each run in milliseconds"`
	MemoryMB      int64             `json:"memory_mb,omitempty" jsonschema:"memory in MiB"`
	CPUs          float64           `json:"cpus,omitempty" jsonschema:"CPUs; fractions are allowed"`
	IdleTimeoutMS int64             `json:"idle_timeout_ms,omitempty" jsonschema:"end the session when nothing uses it for so long"`
	Metadata      map[string]string `json:"metadata,omitempty" jsonschema:"notes to keep with the session"`
}

type sessionOutput struct {
	SessionID string            `json:"session_id"`
	Status    string            `json:"status"`
	Own       bool              `json:"own" jsonschema:"whether it is the sandbox of this conversation"`
	TimeoutMS int64             `json:"timeout_ms"`
	MemoryMB  int64             `json:"memory_mb"`
	CPUs      float64           `json:"cpus"`
	Metadata  map[string]string `json:"metadata,omitempty"`
	CreatedAt string            `json:"created_at"`
	ExpiresAt string            `json:"expires_at,omitempty" jsonschema:"when it ends if nothing uses it until then"`
}

type listSessionsInput struct {
	Limit  int    `json:"limit,omitempty" jsonschema:"how many to show, 1 to 100; 50 otherwise"`
	Cursor string `json:"cursor,omitempty" jsonschema:"go on after an earlier answer: its next_cursor"`
}

type listSessionsOutput struct {
	Sessions   []sessionOutput `json:"sessions"`
	Total      int             `json:"total"`
	NextCursor string          `json:"next_cursor,omitempty" jsonschema:"there are more: ask again with cursor"`
}

type deleteSessionInput struct {
	SessionID string `json:"session_id" jsonschema:"the session to delete"`
}

type deletedOutput struct {
	Deleted string `json:"deleted" jsonschema:"the id of what was deleted"`
}

func (c *conversation) addSessionTools(s *sdk.Server) {
	addTool(c, s, &sdk.Tool{
		Name: "create_session", Title: "Create a session",
		Description: "Makes another sandbox with a /workspace of its own, to be used by its session_id. It stays after the conversation, until it is deleted or expires. " +
			"Not needed for ordinary work: the conversation has a sandbox already.",
		Annotations: &sdk.ToolAnnotations{DestructiveHint: new(bool), OpenWorldHint: new(bool)},
	}, c.createSession)
	addTool(c, s, &sdk.Tool{
		Name: "list_sessions", Title: "List sessions",
		Description: c.reachable("Lists the live sessions that this conversation has made, newest first.", "Lists the live sessions of this API key's tenant, newest first."),
		Annotations: &sdk.ToolAnnotations{ReadOnlyHint: true, OpenWorldHint: new(bool)},
	}, c.listSessions)
	addTool(c, s, &sdk.Tool{
		Name: "delete_session", Title: "Delete a session",
		Description: "Ends a session with its files and what runs in it.",
		Annotations: &sdk.ToolAnnotations{OpenWorldHint: new(bool)},
	}, c.deleteSession)
}

func (c *conversation) createSession(ctx context.Context, in createSessionInput) (*sdk.CallToolResult, sessionOutput, error) {
	request := c.opts.Sandbox
	request.Env, request.FileIDs, request.Metadata = in.EnvVars, in.FileIDs, in.Metadata
	request.Template = cmp.Or(in.Template, request.Template)
	request.TimeoutMS, request.MemoryMB = cmp.Or(in.TimeoutMS, request.TimeoutMS), cmp.Or(in.MemoryMB, request.MemoryMB)
	request.CPUs, request.IdleTimeoutMS = cmp.Or(in.CPUs, request.CPUs), cmp.Or(in.IdleTimeoutMS, request.IdleTimeoutMS)
	if err := c.take(ctx); err != nil {
		return nil, sessionOutput{}, err
	}
	defer c.give()
	session, err := c.create(ctx, request)
	if err != nil {
		return nil, sessionOutput{}, err
	}
	return nil, viewOfSession(*session, ""), nil
}

func (c *conversation) listSessions(ctx context.Context, in listSessionsInput) (*sdk.CallToolResult, listSessionsOutput, error) {
	filter := agentsandbox.SessionFilter{Page: agentsandbox.Page{Limit: cmp.Or(in.Limit, agentsandbox.DefaultPageLimit), Cursor: in.Cursor}}
	if !c.opts.AllSessions {
		filter.Metadata = map[string]string{madeIn: c.mark}
	}
	page, err := c.service.Sessions(ctx, filter)
	if err != nil {
		return nil, listSessionsOutput{}, err
	}
	if err := c.take(ctx); err != nil {
		return nil, listSessionsOutput{}, err
	}
	own := c.own
	c.give()
	out := listSessionsOutput{Sessions: []sessionOutput{}, Total: page.Total, NextCursor: page.NextCursor}
	for _, session := range page.Sessions {
		out.Sessions = append(out.Sessions, viewOfSession(session, own))
	}
	return nil, out, nil
}

func (c *conversation) deleteSession(ctx context.Context, in deleteSessionInput) (*sdk.CallToolResult, deletedOutput, error) {
	if err := c.reach(ctx, in.SessionID); err != nil {
		return nil, deletedOutput{}, err
	}
	if err := c.service.DeleteSession(ctx, in.SessionID); err != nil {
		return nil, deletedOutput{}, err
	}
	c.forget(ctx, in.SessionID)
	return nil, deletedOutput{Deleted: in.SessionID}, nil
}

// reachable chooses what a tool says of the sessions that it reaches.
func (c *conversation) reachable(own, all string) string {
	if c.opts.AllSessions {
		return all
	}
	return own
}

func viewOfSession(s agentsandbox.Session, own string) sessionOutput {
	out := sessionOutput{
		SessionID: s.ID, Status: string(s.Status), Own: s.ID == own, TimeoutMS: s.TimeoutMS, MemoryMB: s.MemoryMB, CPUs: s.CPUs,
		Metadata: s.Metadata, CreatedAt: s.CreatedAt.UTC().Format(time.RFC3339),
	}
	if end := s.ExpiresAt(); !end.IsZero() {
		out.ExpiresAt = end.UTC().Format(time.RFC3339)
	}
	return out
}
