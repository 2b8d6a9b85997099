package v1

import (
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
)

type sessionRequest struct {
	EnvVars   map[string]string `json:"env_vars,omitempty" doc:"Environment variables of every run in the session. Their values are never shown again."`
	FileIDs   []string          `json:"file_ids,omitempty" nullable:"false" maxItems:"1000" doc:"Files to copy to /workspace/{filename}."`
	Template  string            `json:"template,omitempty" doc:"The template to start from; left out: the server's default."`
	TimeoutMS int64             `json:"timeout_ms,omitempty" minimum:"0" doc:"Time limit of each run, in milliseconds. 0 or left out: the server's default."`
	MemoryMB  int64             `json:"memory_mb,omitempty" minimum:"0" doc:"Memory limit of the sandbox, in MiB. 0 or left out: the server's default."`
	CPUs      float64           `json:"cpus,omitempty" minimum:"0" doc:"CPU limit of the sandbox, in cores. 0 or left out: the server's default."`
	RunLimitFields
	DiskLimitFields
	CollectField
	Metadata map[string]string `json:"metadata,omitempty" maxProperties:"64" doc:"Kept and shown with the session; names and values of at most 1024 bytes."`

	Network *networkPolicy `json:"network,omitempty" doc:"What the sandbox may reach. Left out: what the server allows."`
	Secrets []secretInput  `json:"secrets,omitempty" nullable:"false" maxItems:"64" doc:"Secrets that the session uses without holding them: in requests to their hosts, the placeholder becomes the value on the way out."`

	IdleTimeoutMS int64 `json:"idle_timeout_ms,omitempty" minimum:"0" doc:"The session expires when nothing uses it for so long, in milliseconds. 0 or left out: the server's default."`
	MaxLifetimeMS int64 `json:"max_lifetime_ms,omitempty" minimum:"0" doc:"The session expires at this age in any case, in milliseconds. 0 or left out: the server's default."`
}

type sessionInfo struct {
	SessionID   string                     `json:"session_id" doc:"The session's id."`
	Created     bool                       `json:"created" doc:"True in the answer that made the session, false ever after."`
	Status      agentsandbox.SessionStatus `json:"status" enum:"creating,live,deleting,deleted,lost,expired" doc:"The state of the session."`
	Template    string                     `json:"template" doc:"The template that the sandbox started from."`
	EnvVarNames []string                   `json:"env_var_names" nullable:"false" doc:"Names of the session's environment variables, sorted. Values are not shown: they may be secrets."`
	Metadata    map[string]string          `json:"metadata" doc:"As given at creation."`
	TimeoutMS   int64                      `json:"timeout_ms" doc:"Time limit of each run, in milliseconds."`
	MemoryMB    int64                      `json:"memory_mb" doc:"Memory limit of the sandbox, in MiB."`
	CPUs        float64                    `json:"cpus" doc:"CPU limit of the sandbox, in cores."`
	Processes   int64                      `json:"processes" doc:"Processes and threads that the code may have at once."`
	OpenFiles   int64                      `json:"open_files" doc:"Open files of each process."`
	OutputBytes int64                      `json:"output_bytes" doc:"How much is kept of each of stdout and stderr of a run, in bytes."`
	DiskMB      int64                      `json:"disk_mb" doc:"Room for files, in MiB."`
	Inodes      int64                      `json:"inodes" doc:"Files, directories and links that the sandbox may hold."`
	CreatedAt   time.Time                  `json:"created_at" doc:"When the session was made (RFC 3339, UTC)."`

	CollectIgnored bool `json:"collect_ignored" doc:"Whether the files of tools are kept, too, of runs that do not say."`

	IdleTimeoutMS int64        `json:"idle_timeout_ms" doc:"How long nothing may use the session before it expires, in milliseconds; 0: for ever."`
	MaxLifetimeMS int64        `json:"max_lifetime_ms" doc:"How old the session may become, in milliseconds; 0: for ever."`
	LastUsedAt    *time.Time   `json:"last_used_at" doc:"When something was last done in the session (RFC 3339, UTC); null: never."`
	Network       policyInfo   `json:"network" doc:"What the sandbox may reach."`
	Secrets       []secretInfo `json:"secrets" nullable:"false" doc:"The session's secrets, without their values."`

	ExpiresAt *time.Time `json:"expires_at" doc:"When the session expires if nothing uses it until then (RFC 3339, UTC); null: never. While something runs in it, only its age ends it."`
}

func (s sessionInfo) ObjectID() string { return s.SessionID }

type sessionList struct {
	Sessions []string      `json:"sessions" nullable:"false" doc:"Ids of live sessions, newest first."`
	Items    []sessionInfo `json:"items" nullable:"false" doc:"The same sessions, in the same order, with their details."`
	PageInfo
}

type sessionInput struct {
	ID string `path:"session_id" doc:"The session's id."`
}

func (a *api) sessionRoutes() []edge.Route {
	return []edge.Route{
		a.createSessionRoute(),
		a.listSessionsRoute(),
		a.getSessionRoute(),
		a.deleteSessionRoute(),
		a.keepSessionRoute(),
		a.injectFilesRoute(),
	}
}

func (a *api) createSessionRoute() edge.Route {
	type createInput struct{ Body sessionRequest }
	return edge.Answer(edge.Route{
		Method: "POST", Path: "/v1/sessions", ID: "createSession", Tag: "sessions", Scope: agentsandbox.ScopeSandbox,
		Status: http.StatusCreated, EmptyBody: true,
		Summary: "Make a session", Description: "Claims a sandbox and keeps it, with its /workspace, until it is deleted or expires.",
		Resume: func(c *edge.Call, id, _ string) (any, error) {
			s, err := a.service.Session(c.Context(), id)
			if err != nil {
				return nil, err
			}
			return sessionInfoOf(s, true), nil
		},
		Anew:  true,
		Codes: []agentsandbox.Code{agentsandbox.CodeFileNotFound, agentsandbox.CodeStorageFull},
	}, func(c *edge.Call, in *createInput) (*sessionInfo, error) { return a.createSession(c, &in.Body) })
}

func (a *api) listSessionsRoute() edge.Route {
	// The limit and offset have no defaults here: without them, everything is listed.
	type listInput struct {
		Limit  *int `query:"limit" minimum:"1" maximum:"100" doc:"How many sessions to show. Without limit, offset and cursor all are shown."`
		Offset *int `query:"offset" minimum:"0" doc:"How many sessions to leave out, counted from the newest. Sessions that come or go between two pages shift it; a cursor stays at its place."`
		cursorInput
		metadataInput
	}
	return edge.Answer(edge.Route{
		Method: "GET", Path: "/v1/sessions", ID: "listSessions", Tag: "sessions", Scope: agentsandbox.ScopeRead,
		Summary: "List live sessions", Description: "Lists live sessions, newest first: all of them, unless limit, offset or cursor is given.",
	}, func(c *edge.Call, in *listInput) (*sessionList, error) {
		if in.Limit == nil && in.Offset == nil && in.Cursor == "" {
			return a.allSessions(c, in.Metadata)
		}
		return a.pageOfSessions(c, in.Limit, in.Offset, in.Cursor, in.Metadata)
	})
}

func (a *api) getSessionRoute() edge.Route {
	return edge.Answer(edge.Route{
		Method: "GET", Path: "/v1/sessions/{session_id}", ID: "getSession", Tag: "sessions", Scope: agentsandbox.ScopeRead,
		Summary: "Show a session", Description: "Shows a live session.",
		Codes: []agentsandbox.Code{agentsandbox.CodeSessionNotFound},
	}, func(c *edge.Call, in *sessionInput) (*sessionInfo, error) {
		s, err := a.service.Session(c.Context(), in.ID)
		if err != nil {
			return nil, err
		}
		info := sessionInfoOf(s, false)
		return &info, nil
	})
}

func (a *api) deleteSessionRoute() edge.Route {
	return edge.Answer(edge.Route{
		Method: "DELETE", Path: "/v1/sessions/{session_id}", ID: "deleteSession", Tag: "sessions", Scope: agentsandbox.ScopeSandbox,
		Summary: "Delete a session", Description: "Ends what runs in the session and destroys its sandbox. Files that runs produced stay.",
		Codes: []agentsandbox.Code{agentsandbox.CodeSessionNotFound},
	}, func(c *edge.Call, in *sessionInput) (*edge.Nothing, error) {
		return &edge.Nothing{}, a.service.DeleteSession(c.Context(), in.ID)
	})
}

func (a *api) keepSessionRoute() edge.Route {
	type keepInput struct {
		sessionInput
		Body struct {
			IdleTimeoutMS int64 `json:"idle_timeout_ms,omitempty" minimum:"0" doc:"How long nothing may use the session from now on, in milliseconds. 0 or left out: as before."`
		} `nameHint:"KeepaliveRequest"`
	}
	return edge.Answer(edge.Route{
		Method: "POST", Path: "/v1/sessions/{session_id}/keepalive", ID: "keepSession", Tag: "sessions", Scope: agentsandbox.ScopeSandbox,
		EmptyBody: true,
		Summary:   "Keep a session", Description: "Counts as a use of the session, and so puts off its expiry, but not beyond its longest life.",
		Codes: []agentsandbox.Code{agentsandbox.CodeSessionNotFound, agentsandbox.CodeStorageFull},
	}, func(c *edge.Call, in *keepInput) (*sessionInfo, error) {
		s, err := a.service.KeepSession(c.Context(), in.ID, in.Body.IdleTimeoutMS)
		if err != nil {
			return nil, err
		}
		info := sessionInfoOf(s, false)
		return &info, nil
	})
}

func (a *api) injectFilesRoute() edge.Route {
	type injectInput struct {
		sessionInput
		Body struct {
			FileIDs []string `json:"file_ids" nullable:"false" minItems:"1" maxItems:"1000" doc:"Files to copy to /workspace/{filename}."`
		} `nameHint:"InjectRequest"`
	}
	return edge.Answer(edge.Route{
		Method: "POST", Path: "/v1/sessions/{session_id}/files", ID: "injectFiles", Tag: "sessions", Scope: agentsandbox.ScopeSandbox,
		Summary: "Copy files into a session", Description: "Copies stored files to /workspace/{filename} of a live session.",
		Codes: []agentsandbox.Code{agentsandbox.CodeSessionNotFound, agentsandbox.CodeFileNotFound, agentsandbox.CodeConflict, agentsandbox.CodeStorageFull},
	}, func(c *edge.Call, in *injectInput) (*edge.Nothing, error) {
		if len(in.Body.FileIDs) == 0 {
			return nil, agentsandbox.Invalid("file_ids", "must name at least one file.")
		}
		if err := agentsandbox.ValidateFileIDs(in.Body.FileIDs); err != nil {
			return nil, err
		}
		return &edge.Nothing{}, a.service.InjectFiles(c.Context(), in.ID, in.Body.FileIDs)
	})
}

func (a *api) createSession(c *edge.Call, in *sessionRequest) (*sessionInfo, error) {
	req := agentsandbox.SessionRequest{
		Env: in.EnvVars, FileIDs: in.FileIDs, Template: in.Template, TimeoutMS: in.TimeoutMS,
		MemoryMB: in.MemoryMB, CPUs: in.CPUs, Metadata: in.Metadata,
		RunLimits: in.RunLimitFields.limits(), DiskLimits: in.DiskLimitFields.limits(),
		IdleTimeoutMS: in.IdleTimeoutMS, MaxLifetimeMS: in.MaxLifetimeMS, CollectIgnored: in.CollectIgnored,
		Network: in.Network.policy(), Secrets: secretsFrom(in.Secrets),
	}
	if err := req.Validate(); err != nil {
		return nil, err
	}
	s, err := a.service.CreateSession(c.Context(), req)
	if err != nil {
		return nil, err
	}
	info := sessionInfoOf(s, true)
	return &info, nil
}

func (a *api) pageOfSessions(c *edge.Call, limit, offset *int, cursor string, metadata map[string]string) (*sessionList, error) {
	p := agentsandbox.Page{Limit: agentsandbox.DefaultPageLimit, Cursor: cursor}
	if limit != nil {
		p.Limit = *limit
	}
	if offset != nil {
		p.Offset = *offset
	}
	if err := p.Validate(); err != nil {
		return nil, err
	}
	got, err := a.service.Sessions(c.Context(), agentsandbox.SessionFilter{Page: p, Metadata: metadata})
	if err != nil {
		return nil, err
	}
	return sessionListOf(got.Sessions, PageInfo{got.Total, p.Limit, p.Offset, got.NextCursor}), nil
}

// allSessions lists every live session: whatever comes and goes meanwhile, each
// that lives all the while is in the list once.
func (a *api) allSessions(c *edge.Call, metadata map[string]string) (*sessionList, error) {
	var all []agentsandbox.Session
	filter := agentsandbox.SessionFilter{Page: agentsandbox.Page{Limit: agentsandbox.MaxPageLimit}, Metadata: metadata}
	for {
		got, err := a.service.Sessions(c.Context(), filter)
		if err != nil {
			return nil, err
		}
		all = append(all, got.Sessions...)
		if got.NextCursor == "" {
			return sessionListOf(all, PageInfo{Total: len(all), Limit: len(all)}), nil
		}
		filter.Cursor = got.NextCursor
	}
}

func sessionListOf(sessions []agentsandbox.Session, page PageInfo) *sessionList {
	out := &sessionList{Sessions: make([]string, len(sessions)), Items: make([]sessionInfo, len(sessions)), PageInfo: page}
	for i := range sessions {
		out.Sessions[i] = sessions[i].ID
		out.Items[i] = sessionInfoOf(&sessions[i], false)
	}
	return out
}

func sessionInfoOf(s *agentsandbox.Session, created bool) sessionInfo {
	info := sessionInfo{
		SessionID: s.ID, Created: created, Status: s.Status, Template: s.Template,
		EnvVarNames: slices.Sorted(maps.Keys(s.Env)), Metadata: s.Metadata,
		TimeoutMS: s.TimeoutMS, MemoryMB: s.MemoryMB, CPUs: s.CPUs,
		Processes: s.Processes, OpenFiles: s.OpenFiles, OutputBytes: s.OutputBytes, DiskMB: s.DiskMB, Inodes: s.Inodes, CreatedAt: wireTime(s.CreatedAt),
		IdleTimeoutMS: s.IdleTimeoutMS, MaxLifetimeMS: s.MaxLifetimeMS, CollectIgnored: s.CollectIgnored,
		LastUsedAt: timeOrNull(s.LastUsedAt), ExpiresAt: timeOrNull(s.ExpiresAt()),
		Network: policyOf(s.Network), Secrets: secretInfos(s.Secrets),
	}
	if info.EnvVarNames == nil {
		info.EnvVarNames = []string{}
	}
	if info.Metadata == nil {
		info.Metadata = map[string]string{}
	}
	return info
}
