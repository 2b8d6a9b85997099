package client

import (
	"context"
	"net/http"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

type sessionBody struct {
	Env       map[string]string `json:"env_vars,omitempty"`
	FileIDs   []string          `json:"file_ids,omitempty"`
	Template  string            `json:"template,omitempty"`
	TimeoutMS int64             `json:"timeout_ms,omitempty"`
	MemoryMB  int64             `json:"memory_mb,omitempty"`
	CPUs      float64           `json:"cpus,omitempty"`
	limitsBody
	Metadata map[string]string `json:"metadata,omitempty"`

	IdleTimeoutMS int64 `json:"idle_timeout_ms,omitempty"`
	MaxLifetimeMS int64 `json:"max_lifetime_ms,omitempty"`

	CollectIgnored *bool `json:"collect_ignored,omitempty"`

	Network *policyBody  `json:"network,omitempty"`
	Secrets []secretBody `json:"secrets,omitempty"`
}

type sessionAnswer struct {
	ID        string                     `json:"session_id"`
	Status    agentsandbox.SessionStatus `json:"status"`
	Template  string                     `json:"template"`
	Metadata  map[string]string          `json:"metadata"`
	TimeoutMS int64                      `json:"timeout_ms"`
	MemoryMB  int64                      `json:"memory_mb"`
	CPUs      float64                    `json:"cpus"`
	limitsBody
	CreatedAt time.Time  `json:"created_at"`
	EndedAt   *time.Time `json:"ended_at"`

	IdleTimeoutMS int64      `json:"idle_timeout_ms"`
	MaxLifetimeMS int64      `json:"max_lifetime_ms"`
	LastUsedAt    *time.Time `json:"last_used_at"`
	ExpiresAt     *time.Time `json:"expires_at"`

	CollectIgnored bool `json:"collect_ignored"`

	Network *policyBody  `json:"network"`
	Secrets []secretBody `json:"secrets"`
}

// busy tells whether something was being done in the session: then it expires
// later than its idle time says.
func (a sessionAnswer) busy() bool {
	idle := timeOrZero(a.LastUsedAt).Add(time.Duration(a.IdleTimeoutMS) * time.Millisecond)
	return a.IdleTimeoutMS > 0 && a.LastUsedAt != nil && (a.ExpiresAt == nil || a.ExpiresAt.After(idle))
}

func (a sessionAnswer) session() (*agentsandbox.Session, error) {
	if a.ID == "" {
		return nil, errMissing("session_id")
	}
	run, disk := a.limits()
	return &agentsandbox.Session{
		RunLimits: run, DiskLimits: disk,
		ID:        a.ID,
		Status:    a.Status,
		Template:  a.Template,
		Metadata:  a.Metadata,
		TimeoutMS: a.TimeoutMS,
		MemoryMB:  a.MemoryMB,
		CPUs:      a.CPUs,
		CreatedAt: a.CreatedAt,
		EndedAt:   timeOrZero(a.EndedAt),

		CollectIgnored: a.CollectIgnored,

		IdleTimeoutMS: a.IdleTimeoutMS,
		MaxLifetimeMS: a.MaxLifetimeMS,
		LastUsedAt:    timeOrZero(a.LastUsedAt),
		Busy:          a.busy(),
		Network:       a.Network.policy(),
		Secrets:       secretsOf(a.Secrets),
	}, nil
}

// CreateSession makes a session. The server never shows environment variables
// again, so Env of the answer, and of every other Session, is empty.
func (c *Client) CreateSession(ctx context.Context, req agentsandbox.SessionRequest) (*agentsandbox.Session, error) {
	if err := validTexts("env_vars", req.Env); err != nil {
		return nil, err
	}
	if err := validTexts("metadata", req.Metadata); err != nil {
		return nil, err
	}
	secrets, err := secretBodies(req.Secrets)
	if err != nil {
		return nil, err
	}
	return c.session(ctx, call{method: http.MethodPost, path: segments("sessions"), json: sessionBody{
		Env: req.Env, FileIDs: req.FileIDs, Template: req.Template,
		TimeoutMS: req.TimeoutMS, MemoryMB: req.MemoryMB, CPUs: req.CPUs,
		limitsBody: limitsOf(req.RunLimits, req.DiskLimits), Metadata: req.Metadata,
		IdleTimeoutMS: req.IdleTimeoutMS, MaxLifetimeMS: req.MaxLifetimeMS, CollectIgnored: req.CollectIgnored,
		Network: policyBodyOf(req.Network), Secrets: secrets,
	}})
}

// Session returns a live session.
func (c *Client) Session(ctx context.Context, id string) (*agentsandbox.Session, error) {
	return c.session(ctx, call{method: http.MethodGet, path: segments("sessions", id)})
}

func (c *Client) session(ctx context.Context, call call) (*agentsandbox.Session, error) {
	var answer sessionAnswer
	if err := c.exchange(ctx, call, &answer); err != nil {
		return nil, err
	}
	s, err := answer.session()
	if err != nil {
		return nil, c.incomplete(call, err)
	}
	return s, nil
}

// KeepSession counts as a use of a session, and puts off its expiry.
// idleTimeoutMS, if not 0, is how long it may be idle from now on.
func (c *Client) KeepSession(ctx context.Context, id string, idleTimeoutMS int64) (*agentsandbox.Session, error) {
	body := struct {
		IdleTimeoutMS int64 `json:"idle_timeout_ms,omitempty"`
	}{idleTimeoutMS}
	return c.session(ctx, call{method: http.MethodPost, path: segments("sessions", id, "keepalive"), json: body})
}

// Sessions lists the live sessions, newest first.
func (c *Client) Sessions(ctx context.Context, filter agentsandbox.SessionFilter) (*agentsandbox.SessionPage, error) {
	call := call{method: http.MethodGet, path: segments("sessions"), query: pageQuery(filter.Page)}
	metadataQuery(call.query, filter.Metadata)
	var answer struct {
		Items []sessionAnswer `json:"items"`
		pageAnswer
	}
	if err := c.exchange(ctx, call, &answer); err != nil {
		return nil, err
	}
	result := &agentsandbox.SessionPage{Total: answer.Total, Page: answer.page(), NextCursor: answer.NextCursor}
	for _, item := range answer.Items {
		s, err := item.session()
		if err != nil {
			return nil, c.incomplete(call, err)
		}
		result.Sessions = append(result.Sessions, *s)
	}
	return result, nil
}

// DeleteSession ends a session and what runs in it.
func (c *Client) DeleteSession(ctx context.Context, id string) error {
	return c.exchange(ctx, call{method: http.MethodDelete, path: segments("sessions", id)}, nil)
}

// InjectFiles copies files into the workspace of a live session.
func (c *Client) InjectFiles(ctx context.Context, sessionID string, fileIDs []string) error {
	body := struct {
		FileIDs []string `json:"file_ids"`
	}{fileIDs}
	return c.exchange(ctx, call{method: http.MethodPost, path: segments("sessions", sessionID, "files"), json: body}, nil)
}
